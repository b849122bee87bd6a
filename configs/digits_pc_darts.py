"""PC-DARTS (Xu et al. 2020): a quarter of the channels is mixed, edges have strengths.

    python -m ddarts_jax.main --config configs/digits_pc_darts.py

The alphas are fixed for three tenths of the epochs, as in its program. All else is that of
configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "pc_darts"
    config.search.warmup_epochs = 4
    config.parse.method = "darts"
    return config

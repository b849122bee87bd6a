"""beta-DARTS (Ye et al. 2022): DARTS without `none`, with the decay of its gates.

    python -m ddarts_jax.main --config configs/digits_beta_darts.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "beta_darts"
    config.parse.method = "darts"
    return config

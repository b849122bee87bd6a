"""D-DARTS without its ablation loss (w_AB = 0).

    python -m ddarts_jax.main --config configs/digits_ddarts_no_ablation.py

A baseline: all else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.ddarts.ablation.weight = 0.0
    return config

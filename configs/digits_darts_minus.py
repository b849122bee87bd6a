"""DARTS- (Chu et al. 2021): an auxiliary skip connection on every edge, which fades out.

    python -m ddarts_jax.main --config configs/digits_darts_minus.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "darts_minus"
    config.parse.method = "darts"
    return config

"""DARTS of second order: the alphas look one step of the weights ahead, by DARTS's finite difference.

    python -m ddarts_jax.main --config configs/digits_darts_second.py

`--config.search.darts_second.difference=0` takes the exact derivative instead. All else is that of
configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "darts_second"
    config.parse.method = "darts"
    return config

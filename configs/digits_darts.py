"""DARTS (Liu et al. 2019): two cells shared over the network, softmax with `none`, cross-entropy alone.

    python -m ddarts_jax.main --config configs/digits_darts.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "darts"
    config.parse.method = "darts"
    return config

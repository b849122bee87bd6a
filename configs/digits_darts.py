"""DARTS (Liu et al. 2019): two cells shared over the network, softmax, cross-entropy alone.

    python -m ddarts_jax.main --config configs/digits_darts.py

A baseline: all else is that of configs/digits.py.
"""

from ddarts_jax.configuration import based_on


def get_config():
    config = based_on(__file__, "digits.py")
    config.search.method = "darts"
    config.parse.method = "darts"
    return config

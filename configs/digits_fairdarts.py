"""FairDARTS (Chu et al. 2020): two cells shared over the network, sigmoid, zero-one loss.

    python -m ddarts_jax.main --config configs/digits_fairdarts.py

A baseline: all else is that of configs/digits.py.
"""

from ddarts_jax.configuration import based_on


def get_config():
    config = based_on(__file__, "digits.py")
    config.search.method = "fairdarts"
    return config

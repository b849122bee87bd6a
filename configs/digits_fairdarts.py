"""FairDARTS (Chu et al. 2020): two cells shared over the network, sigmoid, zero-one loss.

    python -m ddarts_jax.main --config configs/digits_fairdarts.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "fairdarts"
    return config

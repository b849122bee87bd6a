"""Random search: four random networks share the epochs of the search, the best is trained.

    python -m ddarts_jax.main --config configs/digits_random.py

A baseline: all else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "random"
    return config

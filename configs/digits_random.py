"""Random search: four random networks share the epochs of the search, the best is trained.

    python -m ddarts_jax.main --config configs/digits_random.py

A baseline: all else is that of configs/digits.py.
"""

from ddarts_jax.configuration import based_on


def get_config():
    config = based_on(__file__, "digits.py")
    config.search.method = "random"
    return config

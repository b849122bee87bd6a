"""GDAS (Dong and Yang 2019): one candidate of each edge is drawn in each step.

    python -m ddarts_jax.main --config configs/digits_gdas.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "gdas"
    config.parse.method = "darts"
    return config

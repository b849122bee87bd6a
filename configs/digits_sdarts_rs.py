"""SDARTS-RS (Chen and Hsieh 2020): DARTS without `none` whose weights see perturbed gates.

    python -m ddarts_jax.main --config configs/digits_sdarts_rs.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "sdarts_rs"
    config.parse.method = "darts"
    return config

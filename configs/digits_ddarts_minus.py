"""D-DARTS with the auxiliary skip connection of DARTS-.

    python -m ddarts_jax.main --config configs/digits_ddarts_minus.py

All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.ddarts.auxiliary_skip = 1.0
    return config

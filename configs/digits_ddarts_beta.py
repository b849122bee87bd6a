"""D-DARTS with the beta decay of beta-DARTS, for sigmoid gates.

    python -m ddarts_jax.main --config configs/digits_ddarts_beta.py

It pulls all gates towards 0, against which the zero-one loss pushes the larger ones: so a small weight.
All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.ddarts.beta_decay_weight = 1.0
    return config

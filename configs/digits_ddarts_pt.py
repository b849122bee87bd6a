"""D-DARTS whose cells keep what the supernet misses most when it is removed (DARTS-PT).

    python -m ddarts_jax.main --config configs/digits_ddarts_pt.py

Without the training between decisions that the article has. All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.selection = "perturbation"
    config.parse.method = "darts"
    return config

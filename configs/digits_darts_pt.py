"""DARTS whose network keeps what the supernet misses most when it is removed (DARTS-PT).

    python -m ddarts_jax.main --config configs/digits_darts_pt.py

Of the seven primitives, without the training between decisions that the article has. All else is that of
configs/digits_darts.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits_darts.py")
    config.search.darts.none = False
    config.search.selection = "perturbation"
    return config

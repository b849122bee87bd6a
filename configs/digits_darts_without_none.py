"""DARTS whose softmax is over the seven primitives alone, the space S5 of later articles.

    python -m ddarts_jax.main --config configs/digits_darts_without_none.py

All else is that of configs/digits_darts.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits_darts.py")
    config.search.darts.none = False
    return config

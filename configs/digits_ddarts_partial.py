"""D-DARTS that mixes a quarter of the channels, with strengths of edges, as in PC-DARTS.

    python -m ddarts_jax.main --config configs/digits_ddarts_partial.py

`--config.search.ddarts.partial_channels=2` mixes half of them. All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.ddarts.partial_channels = 4
    config.search.ddarts.edge_strengths = True
    return config

"""D-DARTS on CIFAR-10 that mixes a quarter of the channels, with strengths of edges.

    python -m ddarts_jax.main --config configs/cifar10_ddarts_partial.py

The rest is that of configs/cifar10_search.py. A search step has a fifth of its arithmetic; it has not
been run at full size yet, so no accuracy is given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_search.py")
    config.search.ddarts.partial_channels = 4
    config.search.ddarts.edge_strengths = True
    return config

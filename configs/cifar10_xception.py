"""DARTOpti: the search on CIFAR-10 that starts from Xception.

    python -m ddarts_jax.main --config configs/cifar10_xception.py [--config.data.data_dir=DIR]

The weights settle for 5 epochs with the alphas of Xception; then 50 epochs of search, fewer where the
distance to Xception is stable before. `--config.task=pipeline` also trains what was found, with 64
channels. Made for a GPU; the whole search has not been run yet, so no accuracy is given (the paper, after
its full training: 61 M parameters, 97.00%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.task = "search"
    config.data.name = "cifar10"
    config.search.space = "dartopti"
    config.search.start.genotype = "Xception"
    config.train.channels = 64
    config.train.auxiliary_weight = 0.0  # the images are too small at the last reduction cell
    return config

"""DARTOpti: the search on CIFAR-10 that starts from ResNet50.

    python -m ddarts_jax.main --config configs/cifar10_resnet50.py [--config.data.data_dir=DIR]

The weights settle for 5 epochs with the alphas of ResNet50; then 50 epochs of search, fewer where the
distance to ResNet50 is stable before. `--config.task=pipeline` also trains what was found, with 64
channels. Made for a GPU; the whole search has not been run yet, so no accuracy is given (the paper, after
its full training: 71.23 M parameters, 97.20%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.task = "search"
    config.data.name = "cifar10"
    config.search.space = "dartopti"
    config.search.start.genotype = "ResNet50"
    config.train.channels = 64
    config.train.auxiliary_weight = 0.0  # the images are too small at the last reduction cell
    return config

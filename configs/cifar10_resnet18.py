"""DARTOpti: the search on CIFAR-10 that starts from ResNet18.

    python -m ddarts_jax.main --config configs/cifar10_resnet18.py [--config.data.data_dir=DIR]

The weights settle for 5 epochs with the alphas of ResNet18; then 50 epochs of search with 32 channels,
fewer where the distance to ResNet18 is stable before. `--config.task=pipeline` also trains what was
found, with 64 channels and else by the recipe of configs/cifar10_train.py. Made for a GPU; the whole
search has not been run yet, so no accuracy is given (the paper, after its full training: 36.32 M
parameters, 97.39%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_search.py")
    config.search.space = "dartopti"
    config.search.channels = 32
    config.search.start.genotype = "ResNet18"
    config.train.channels = 64
    config.train.auxiliary_weight = 0.0  # the images are too small at the last reduction cell
    return config

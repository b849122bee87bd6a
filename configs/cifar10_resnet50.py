"""DARTOpti: the search on CIFAR-10 that starts from ResNet50.

    python -m ddarts_jax.main --config configs/cifar10_resnet50.py [--config.data.data_dir=DIR]

All else is that of configs/cifar10_resnet18.py. Made for a GPU; the whole search has not been run yet,
so no accuracy is given (the paper, after its full training: 71.23 M parameters, 97.20%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_resnet18.py")
    config.search.start.genotype = "ResNet50"
    return config

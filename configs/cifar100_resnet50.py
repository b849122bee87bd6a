"""DARTOpti: the search on CIFAR-100 that starts from ResNet50.

    python -m ddarts_jax.main --config configs/cifar100_resnet50.py [--config.data.data_dir=DIR]

All else is that of configs/cifar10_resnet50.py. Made for a GPU; the whole search has not been run yet,
so no accuracy is given (the paper, after its full training: 70.44 M parameters, 83.60%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_resnet50.py")
    config.data.name = "cifar100"
    return config

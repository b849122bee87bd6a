"""The paper's training of a derived network on CIFAR-100: 36 channels, 600 epochs, batch 128.

    python -m ddarts_jax.main --config configs/cifar100_train.py --config.genotype=PATH

The recipe is that of configs/cifar10_train.py, AutoAugment's CIFAR-10 policy included: the paper uses one
policy for both. Needs CIFAR-100 prepared by tensorflow-datasets as ArrayRecord, and a GPU. The whole
training has not been run yet, so no accuracy is given (the paper: DD-5, 81.92%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_train.py")
    config.data.name = "cifar100"
    return config

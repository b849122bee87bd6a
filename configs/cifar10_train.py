"""The paper's training of a derived network on CIFAR-10: 36 channels, 600 epochs, batch 128.

    python -m ddarts_jax.main --config configs/cifar10_train.py --config.genotype=PATH

SGD 0.025 to 0, gradient clipping 5, drop path to 0.2, auxiliary head 0.4 and cutout 16 are the defaults
of `default_config`; AutoAugment comes here. All configs of CIFAR train by this recipe. Needs CIFAR-10
prepared by tensorflow-datasets as ArrayRecord, and a GPU. The whole training has not been run yet, so
no accuracy is given (the paper: DD-1, 97.02%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.task = "train"
    config.data.name = "cifar10"
    config.train.augment.auto_augment = "cifar10"
    return config

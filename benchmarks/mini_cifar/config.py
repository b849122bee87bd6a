"""The protocol of mini-CIFAR, for all methods; README.md has the reasons.

    python benchmarks/mini_cifar/images.py --data DIR
    python -m ddarts_jax.main --config benchmarks/mini_cifar/config.py

What a method changes is in protocol.py. Rates are those of configs/digits.py for half of its batch: of
the weights half as large; of the alphas smaller by as much as there are more steps, 368 in place of 132.
"""

import ddarts_jax as dd


def get_config():
    """Returns the config."""
    config = dd.default_config()
    config.dtype = "float32"  # so that results of CPUs and GPUs can stand in one table
    config.data.name = "npz:runs/mini_cifar/images.npz"
    config.data.batch_size = 32

    config.search.epochs = 4
    config.search.num_cells = 5
    config.search.num_nodes = 2
    config.search.channels = 8
    config.search.remat = False  # at this size memory is no matter
    config.search.weights.learning_rate = 0.05
    config.search.weights.final_learning_rate = 0.005
    config.search.alphas.learning_rate = 0.02
    config.search.alphas.final_learning_rate = 0.008
    config.search.augment.crop_padding = 2

    config.train.epochs = 12
    config.train.channels = 11  # of random search's candidates; others have the size's parameters
    config.train.learning_rate = 0.05
    config.train.drop_path = 0.0
    config.train.auxiliary_weight = 0.0
    config.train.augment.crop_padding = 2
    config.train.augment.cutout = 0
    return config

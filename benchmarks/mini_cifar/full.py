"""The protocol at the article's size, for a GPU: CIFAR-10 itself, its search, 100 epochs of its training.

python benchmarks/mini_cifar/run_all.py --full
"""

import ddarts_jax as dd


def get_config():
    """Returns the config."""
    config = dd.config("cifar10_search")
    config.train.epochs = 100  # of the recipe's 600: the order of methods, not their last points
    config.train.channels = 36  # of random search's candidates; others have the size's parameters
    return config

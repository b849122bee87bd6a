"""DOTS on CIFAR-10 as published: 30 epochs for the operations, 40 for the topology.

    python -m ddarts_jax.main --config configs/cifar10_dots.py

The alphas are fixed in the first 15 and 20 of them. What differs from the program: no BatchNorm and no
ReLU before the classifier, the second stage trains on all images from its start, and each stage has a
cosine of its own, where the program's is one of 70 epochs. The rest is that of configs/cifar10_darts.py.
It has not been run at full size yet, so no accuracy is given (its README: 97.51%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "dots"
    config.search.epochs = 40
    config.search.warmup_epochs = 20
    config.search.dots.operations.b1 = config.search.alphas.b1
    config.search.alphas.b1 = 0.9
    config.parse.method = "pairs"
    return config

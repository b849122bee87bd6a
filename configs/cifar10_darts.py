"""DARTS of first order on CIFAR-10 as published: 8 cells of 4 nodes, 50 epochs of batches of 64.

    python -m ddarts_jax.main --config configs/cifar10_darts.py

The network of 20 cells is then trained in the same workdir, with cutout and without AutoAugment, by
adding `--config.task=train --config.data.batch_size=96`. The configs of other rivals are based on this
one. Needs CIFAR-10 prepared by tensorflow-datasets as ArrayRecord, and a GPU. It has not been run at
full size yet, so no accuracy is given (its README: 97.00%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_train.py")
    config.task = "search"
    config.search.method = "darts"
    config.parse.method = "darts"
    config.data.batch_size = 64
    config.search.weights.learning_rate = 0.025
    config.search.weights.final_learning_rate = 0.001
    config.search.alphas.learning_rate = 3e-4
    config.search.alphas.final_learning_rate = 3e-4
    config.search.alphas.b1 = 0.5
    config.train.num_cells = 20
    config.train.augment.auto_augment = ""
    return config

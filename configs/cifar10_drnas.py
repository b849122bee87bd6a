"""DrNAS on CIFAR-10 as published, but for the widening: 20 cells of 36 channels, 7 candidates, then 4.

    python -m ddarts_jax.main --config configs/cifar10_drnas.py

25 epochs each, of which the alphas are fixed in the first 10; a sixth of the channels is mixed, then a
quarter. The second stage starts with fresh weights and alphas and the first learning rate, where the
program widens those of the first and goes on. The rest is that of configs/cifar10_darts.py. It has not
been run at full size yet, so no accuracy is given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "drnas"
    config.search.num_cells = 20
    config.search.channels = 36
    config.search.drnas.stages = (20,)
    config.search.drnas.keep = (4,)
    config.search.drnas.earlier_partial_channels = (6,)
    config.search.drnas.partial_channels = 4
    config.search.epochs = 25
    config.search.warmup_epochs = 10
    config.search.weights.learning_rate = 0.1
    config.search.weights.final_learning_rate = 0.0
    config.search.alphas.learning_rate = 6e-4
    config.search.alphas.final_learning_rate = 6e-4
    return config

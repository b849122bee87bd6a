"""PC-DARTS on CIFAR-10 as published: batches of 256, the alphas fixed for 15 of 50 epochs.

    python -m ddarts_jax.main --config configs/cifar10_pc_darts.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given (its README: 97.43 ± 0.07%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "pc_darts"
    config.search.warmup_epochs = 15
    config.data.batch_size = 256
    config.search.weights.learning_rate = 0.1
    config.search.weights.final_learning_rate = 0.0
    config.search.alphas.learning_rate = 6e-4
    config.search.alphas.final_learning_rate = 6e-4
    return config

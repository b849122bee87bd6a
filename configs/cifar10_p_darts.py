"""P-DARTS on CIFAR-10 as published: 5, 11 and 17 cells with 8, 5 and 3 candidates, 25 epochs each.

    python -m ddarts_jax.main --config configs/cifar10_p_darts.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given (its README: 97.50%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "p_darts"
    config.search.num_cells = 17
    config.search.epochs = 25
    config.search.warmup_epochs = 10
    config.parse.max_skips = 2
    config.data.batch_size = 96
    config.search.weights.final_learning_rate = 0.0
    config.search.alphas.learning_rate = 6e-4
    config.search.alphas.final_learning_rate = 6e-4
    config.search.alphas.clip = 5.0
    return config

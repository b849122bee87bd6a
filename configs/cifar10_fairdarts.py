"""FairDARTS on CIFAR-10 as published: sigmoid, zero-one loss, threshold 0.85.

    python -m ddarts_jax.main --config configs/cifar10_fairdarts.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given (FairDARTS-a: 97.46%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "fairdarts"
    config.parse.method = "sparse"
    config.data.batch_size = 128
    config.search.weights.learning_rate = 0.005
    config.search.alphas.learning_rate = 3e-3
    config.search.alphas.final_learning_rate = 3e-3
    config.search.alphas.b1 = 0.9
    return config

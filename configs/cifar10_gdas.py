"""GDAS on CIFAR-10: 250 epochs of batches of 256, temperature from 10 to 0.1.

    python -m ddarts_jax.main --config configs/cifar10_gdas.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "gdas"
    config.search.epochs = 250
    config.data.batch_size = 256
    return config

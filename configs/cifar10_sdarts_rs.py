"""SDARTS-RS on CIFAR-10 as published: noise from 0.03 to 0.3.

    python -m ddarts_jax.main --config configs/cifar10_sdarts_rs.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "sdarts_rs"
    return config

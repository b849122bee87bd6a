"""DARTS- on CIFAR-10 as published.

    python -m ddarts_jax.main --config configs/cifar10_darts_minus.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given (the article: 97.41 ± 0.08%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "darts_minus"
    return config

"""beta-DARTS on CIFAR-10: DARTS's recipe, without `none`, beta decay from 0 to 50.

    python -m ddarts_jax.main --config configs/cifar10_beta_darts.py

The rest is that of configs/cifar10_darts.py. It has not been run at full size yet, so no accuracy is
given (the article: 97.47 ± 0.08%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_darts.py")
    config.search.method = "beta_darts"
    return config

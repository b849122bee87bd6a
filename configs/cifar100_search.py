"""The paper's search on CIFAR-100: as on CIFAR-10, two primitives kept on every edge (DD-4).

    python -m ddarts_jax.main --config configs/cifar100_search.py [--config.data.data_dir=DIR]

Needs CIFAR-100 prepared by tensorflow-datasets as ArrayRecord. `--config.task=pipeline` also trains what
was found, by the recipe of configs/cifar100_train.py. Made for a GPU; the whole search has not
been run yet, so no accuracy is given (the paper: DD-4, 83.86% after full training).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_search.py")
    config.data.name = "cifar100"
    config.parse.method = "edge"
    return config

"""The paper's search on CIFAR-10: 8 individual cells, 16 channels, 50 epochs, batch 128.

    python -m ddarts_jax.main --config configs/cifar10_search.py [--config.data.data_dir=DIR]

Needs CIFAR-10 prepared by tensorflow-datasets as ArrayRecord. w_AB 0.5, w_01 7, threshold 0.85 are the
defaults of `default_config`. `--config.task=pipeline` also trains what was found, by the recipe of
configs/cifar10_train.py. Made for a GPU: benchmarks/RESULTS.md has what a step takes; the whole
search has not been run yet, so no accuracy is given (the paper: DD-1, 97.02% after full training).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_train.py")
    config.task = "search"
    return config

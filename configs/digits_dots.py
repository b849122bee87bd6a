"""DOTS (Gu et al. 2021): a search for operations in two groups, then one for pairs of edges.

    python -m ddarts_jax.main --config configs/digits_dots.py

Both searches together have as many epochs as configs/digits.py; all else is that of it.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "dots"
    config.search.epochs = config.search.epochs // 2
    config.search.warmup_epochs = config.search.epochs // 3
    config.search.dots.operations.epochs = config.search.epochs
    config.search.dots.operations.warmup_epochs = config.search.warmup_epochs
    config.parse.method = "pairs"
    return config

"""DrNAS (Chen et al. 2021): gates drawn from a Dirichlet distribution, in two stages.

    python -m ddarts_jax.main --config configs/digits_drnas.py

The second stage has 4 of the 7 candidates on every edge, and mixes half of the channels where the first
mixes a quarter. Both stages together have as many epochs as configs/digits.py; all else is that of it.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "drnas"
    config.search.drnas.stages = (config.search.num_cells,)
    config.search.drnas.keep = (4,)
    config.search.drnas.earlier_partial_channels = (4,)
    config.search.drnas.partial_channels = 2
    config.search.epochs = config.search.epochs // 2
    config.search.warmup_epochs = config.search.epochs * 2 // 5
    config.parse.method = "darts"
    return config

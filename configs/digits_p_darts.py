"""P-DARTS (Chen et al. 2019): three stages, deeper and with fewer candidates, dropout of skips.

    python -m ddarts_jax.main --config configs/digits_p_darts.py

The supernet of the last stage has as many cells as that of configs/digits.py, and all stages together as
many epochs. All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "p_darts"
    config.search.p_darts.stages = (3, 4)
    config.search.epochs = config.search.epochs // 3
    config.search.warmup_epochs = config.search.epochs * 2 // 5
    config.parse.method = "darts"
    config.parse.max_skips = 2
    return config

"""D-DARTS in two stages, as in P-DARTS: 5 individual cells, then 8 with half of the candidates.

    python -m ddarts_jax.main --config configs/digits_ddarts_progressive.py

A cell of the second stage has the candidates that are left in the cell that it repeats (Algorithm 1).
Both stages together have as many epochs as configs/digits.py; all else is that of it.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.epochs = config.search.epochs // 2
    config.search.num_cells = 8
    config.search.ddarts.stages = (5,)
    config.search.ddarts.keep = (4,)
    return config

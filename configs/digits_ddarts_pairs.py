"""D-DARTS in which the pairs of edges into a node compete, as in DOTS: each cell has betas of its own.

    python -m ddarts_jax.main --config configs/digits_ddarts_pairs.py

The best pair of each node is kept, with the best primitive on each edge: the threshold plays no part.
All else is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.ddarts.pairs = True
    config.parse.method = "pairs"
    return config

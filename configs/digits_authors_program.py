"""D-DARTS as the authors' public program computes it: gradients that pile up, random ablation.

    python -m ddarts_jax.main --config configs/digits_authors_program.py

Cells are removed by random numbers, and the ablation loss has no gradient. A baseline: all else
is that of configs/digits.py.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "digits.py")
    config.search.method = "authors_program"
    # With gradients that pile up the zero-one loss weighs little: in 12 epochs some cell has no alpha
    # above the threshold, so the best primitives are taken without one.
    config.parse.method = "darts"
    return config

"""P-DARTS (Chen et al. 2019): DARTS in stages, with fewer candidates in each and dropout of skips.

See `searching/stages.py`; how many skip connections a normal cell may have is `parse.max_skips`.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD  # but for its options

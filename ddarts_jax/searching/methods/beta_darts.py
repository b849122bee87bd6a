"""beta-DARTS (Ye et al. 2022): DARTS without `none` whose alphas also descend the beta decay.

See `losses.beta_decay`; `search.beta_darts.beta_decay_weight` is its weight at the end of the search.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD  # but for its options

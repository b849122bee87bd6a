"""SDARTS-RS (Chen and Hsieh 2020): DARTS without `none` whose weights see perturbed gates.

Each share is changed at random by up to a bound that grows over the search, so that the weights do well
for all gates near those of the alphas, and a derived network is not far.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD  # but for its options

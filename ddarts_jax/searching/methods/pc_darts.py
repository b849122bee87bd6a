"""PC-DARTS (Xu et al. 2020): DARTS that mixes one of every K channels, and weighs edges.

The article samples the channels; its program takes the first ones and shuffles them all behind every
edge, which is what is done here. The channels that pass by are weighed by the edge's strength too.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD  # but for its options

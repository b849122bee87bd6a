"""PC-DARTS (Xu et al. 2020): DARTS that mixes one of every K channels, and weighs edges.

The article samples the channels; its program takes the first ones and shuffles them all behind every
edge, which is what is done here. The channels that pass by are weighed by the edge's strength too.
"""

from ddarts_jax.searching.method import Method
from ddarts_jax.searching.methods import darts

METHOD = Method(darts.gradient, relaxation="softmax", share_cells=lambda options: True)

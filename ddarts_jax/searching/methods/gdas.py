"""GDAS (Dong and Yang 2019): one candidate of each edge is drawn, with the gradient of its probability.

The draw is of the softmax over the candidates (Gumbel-max), anew in each step and for the alphas and the
weights; the gradient is that of the softmax with the same noise at a temperature that falls. Its program
runs only the candidate that was drawn; here all run, and those that were not count 0.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD._replace(relaxation="gumbel")

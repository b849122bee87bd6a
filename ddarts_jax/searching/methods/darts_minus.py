"""DARTS- (Chu et al. 2021): DARTS with an auxiliary skip connection on every edge, which fades out.

It takes over what a skip connection does for the training, so that the candidate `skip_connect` competes
as an operation only. A network that is derived has no such connection.
"""

from ddarts_jax.searching.methods import darts

METHOD = darts.METHOD  # but for its options

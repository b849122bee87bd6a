"""A barrier against fusion, where fused programs are the slower ones."""

import jax.numpy as jnp

from ddarts_jax.ops import backend


def unfused(x):
    """`x`, behind a barrier that XLA fuses nothing across where that pays."""
    return backend.choose("unfused")(x)


@backend.implementation("unfused", "product")
def _unfused_by_product(x):
    """`x`, computed by itself: on a CPU XLA would fuse it, and its like, into whatever reads it.

    The cotangents of all primitives of an edge end up in one sum. Fused into one loop with all their
    shifted windows they take several times as long, and fused further into the update of a slice they
    run on one thread. XLA fuses nothing into a matrix product, so one with the identity stands between.
    """
    return x @ jnp.eye(x.shape[-1], dtype=x.dtype)


@backend.implementation("unfused", "identity")
def _fused(x):
    return x

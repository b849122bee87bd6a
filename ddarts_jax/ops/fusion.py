"""A fusion barrier, for backends on which the fused program is slower."""

import jax.numpy as jnp

from ddarts_jax.ops import backend


def unfused(x):
    """Returns `x`, behind a barrier to XLA's fusion on backends where that is faster."""
    return backend.choose("unfused")(x)


@backend.implementation("unfused", "product")
def _unfused_by_product(x):
    """Fusion barrier: on a CPU, XLA would otherwise fuse `x` into its consumers.

    The cotangents of all primitives of an edge end up in one sum. Fused into one loop with all their
    shifted windows they take several times as long, and fused further into the update of a slice they
    run on one thread. XLA fuses nothing into a matrix product, so the barrier multiplies by the identity.
    """
    return x @ jnp.eye(x.shape[-1], dtype=x.dtype)


@backend.implementation("unfused", "identity")
def _fused(x):
    return x

"""Barriers to XLA's fusion, where the fused program is slower."""

import jax
import jax.numpy as jnp
from jax import lax

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


@jax.custom_vjp
def written(x):
    """Returns `x`, which is written to memory once, and so is its cotangent.

    XLA would compute it again for each of several users, and read all that it depends on again.
    """
    return lax.optimization_barrier(x)


written.defvjp(
    lambda x: (lax.optimization_barrier(x), None),
    lambda _, cotangent: (lax.optimization_barrier(cotangent),),
)

"""The shifted sums of a depthwise-separable convolution; `test_backend` compares implementations."""

import jax
import jax.numpy as jnp
from tiny import normal

from ddarts_jax.ops import separable


def test_shifted_sums_keep_the_dtypes_of_their_arguments():
    """Gradients of float32 kernels are float32 when the images are bfloat16."""
    x = jnp.array(normal(0, 1, 4, 4, 2), jnp.bfloat16)
    kernels = jnp.ones((3, 3, 1, 2)), jnp.ones((1, 1, 2, 2))
    out, pull_back = jax.vjp(lambda *a: separable.separable_by_shifts(*a, 2, 1), x, *kernels)
    dtypes = [gradient.dtype for gradient in pull_back(jnp.ones_like(out))]
    assert (out.dtype, *dtypes) == (jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32)

"""Pools against windows read straight from the definition, in float64; gradients, bfloat16."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import EXACT, normal

from ddarts_jax.ops import pooling


def numpy_pool(x, stride, reduce):
    """`reduce` over the pixels of each 3x3 window that lie inside the image."""
    height, width = ((size - 1) // stride + 1 for size in x.shape[1:3])
    out = np.zeros((len(x), height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        rows = slice(max(i * stride - 1, 0), i * stride + 2)
        columns = slice(max(j * stride - 1, 0), j * stride + 2)
        out[:, i, j] = reduce(x[:, rows, columns], axis=(1, 2))
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (6, 7)])
def test_pools_are_those_of_numpy(x64, shape, stride):
    """Padding never wins a maximum and is not counted in a mean, at any size down to one pixel."""
    x = normal(0, 2, *shape, 3) - 5  # a padding of zeros would win every maximum
    pools = jax.jit(lambda x: (pooling.max_pool(x, stride), pooling.avg_pool(x, stride)))
    maximum, average = pools(jnp.array(x))
    np.testing.assert_array_equal(maximum, numpy_pool(x, stride, np.max))
    np.testing.assert_allclose(average, numpy_pool(x, stride, np.mean), **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_average_in_bfloat16_is_rounded_once(stride):
    """Output and gradient of the average pool: nine numbers are added up in float32.

    One rounding to bfloat16 is an error of 0.0017 in the mean; a sum in bfloat16 of 0.004.
    """
    x, cotangent = (normal(seed, 8, 8, 8, 16).astype(jnp.bfloat16) for seed in (0, 1))
    cotangent = cotangent[:, ::stride, ::stride]
    results = []
    for dtype in (jnp.bfloat16, jnp.float32):
        out, pull_back = jax.vjp(lambda x: pooling.avg_pool(x, stride), jnp.asarray(x, dtype))
        results.append((out, *pull_back(jnp.asarray(cotangent, dtype))))
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(ours, np.float32) - expected)
        assert error < 0.0019 * np.linalg.norm(expected)


def test_maximum_passes_its_gradient_on_whole():
    """Without ties to the largest pixel; among equal pixels it is shared out, none is lost."""
    total_gradient = jax.jit(jax.grad(lambda x: pooling.max_pool(x, 2).sum()))
    x = normal(0, 1, 5, 5, 1)
    expected = np.zeros_like(x)
    for i, j in itertools.product([slice(0, 2), slice(1, 4), slice(3, 5)], repeat=2):
        window = x[0, i, j, 0]
        expected[0, i, j, 0] += window == window.max()
    np.testing.assert_array_equal(total_gradient(x), expected)
    np.testing.assert_allclose(total_gradient(np.zeros_like(x)).sum(), 9)

"""Layers: how kernels are drawn, BatchNorm against NumPy, factorized reduction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import normal, split

from ddarts_jax.models import layers


def numpy_batch_norm(x, scale=1.0, bias=0.0):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def test_kernels_start_as_those_of_pytorch():
    """U(-b, b) with b = 1 / sqrt(inputs of one output), stacked or not; scale and bias untouched."""
    inputs = {"depthwise": 9, "pointwise": 64, "dense": 9 * 16, "linear": 50}
    shapes = [(3, 3, 1, 64), (1, 1, 64, 64), (3, 3, 16, 32), (50, 20)]
    weights = {name: np.zeros(shape) for name, shape in zip(inputs, shapes, strict=True)}
    affine = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    drawn = layers.initialise(jax.random.key(0), {**weights, **affine})
    for name, fan_in in inputs.items():
        bound = 1 / np.sqrt(fan_in)
        assert drawn[name].dtype == np.float32
        assert drawn[name].shape == weights[name].shape
        assert 0.98 * bound < np.abs(drawn[name]).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(drawn[name].std(), bound / np.sqrt(3), rtol=0.06)
        assert abs(drawn[name].mean()) < 0.1 * bound
        assert np.unique(drawn[name]).size > 0.99 * drawn[name].size
    for name, before in affine.items():
        np.testing.assert_array_equal(drawn[name], before)
    for shape, fan_in in (((14, 16, 16), 16), ((5, 5, 5, 1, 32), 25)):  # those of edges are stacked
        edges = {"candidates": {"own": {"kernel": np.zeros(shape)}}}
        (kernel,) = jax.tree.leaves(layers.initialise(jax.random.key(0), edges))
        assert 0.98 / np.sqrt(fan_in) < np.abs(kernel).max() <= 1 / np.sqrt(fan_in)


@pytest.mark.filterwarnings("error")  # float64 statistics go into float32 ones by a cast
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_that_of_numpy(x64, affine):
    """Batch statistics in training, running ones (momentum 0.9) in evaluation, eps 1e-5."""
    norm = layers.BatchNorm(3, affine)
    scale, bias = normal(1, 2, 3, dtype=np.float32) if affine else (1.0, 0.0)
    if affine:
        norm.scale[...], norm.bias[...] = jnp.array(scale), jnp.array(bias)
    x = 0.01 * normal(0, 4, 5, 5, 3) + [0.0, 0.1, -1.0]
    np.testing.assert_allclose(
        norm(jnp.array(x), True), numpy_batch_norm(x, scale, bias), rtol=1e-8, atol=1e-9
    )
    mean, variance = 0.1 * x.mean((0, 1, 2)), 0.9 + 0.1 * x.var((0, 1, 2), ddof=1)
    assert norm.mean.dtype == norm.var.dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], variance, rtol=1e-6)
    np.testing.assert_allclose(
        norm(jnp.array(x), False), (x - mean) / np.sqrt(variance + 1e-5) * scale + bias, rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (4, 5, 5, 3), (1, 1, 1, 3)])
def test_the_running_variance_is_the_unbiased_one(shape):
    """As in PyTorch it estimates the population's; a single position has none."""
    norm = layers.BatchNorm(3, affine=False)
    x = normal(0, *shape, dtype=np.float32)
    norm(jnp.array(x), True)
    expected = 0.9 + 0.1 * (x.var((0, 1, 2), ddof=1) if x.size > 3 else np.zeros(3))
    np.testing.assert_allclose(norm.var[...], expected, rtol=1e-6)


def test_batch_norm_keeps_its_precision_far_from_zero():
    """float32 features with a mean of 10^4 deviations; rounding of the mean leaves some 1e-3."""
    x = 1e4 + normal(0, 4, 5, 5, 3, dtype=np.float32)
    actual = layers.BatchNorm(3, affine=False)(jnp.array(x), True)
    np.testing.assert_allclose(actual, numpy_batch_norm(x.astype(np.float64)), atol=1e-2)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_a_constant_feature_is_its_bias(affine):
    """A dead channel (no variance, as behind a removed cell) gives no NaN, forwards or backwards."""
    norm = layers.BatchNorm(2, affine)
    x = jnp.full((2, 3, 3, 2), 7.3)
    np.testing.assert_allclose(norm(x, True), 0, atol=1e-3)
    graph, variables = nnx.split(norm)
    variables = nnx.to_pure_dict(variables)
    gradient = jax.grad(lambda x: nnx.merge(graph, variables)(x, True).sum())(x)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("cout", [6, 5])
@pytest.mark.parametrize("size", [6, 7])
def test_factorized_reduce_reads_every_pixel(x64, size, cout):
    """Even pixels give the first half of the channels, odd ones the rest; zero beyond an odd edge."""
    graph, weights, statistics = split(layers.FactorizedReduce(4, cout, affine=False))
    x = normal(0, 2, size, size, 4)
    padded = np.maximum(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), 0)
    outputs = (size + 1) // 2
    expected = np.zeros((2, outputs, outputs, cout))
    for i, j in np.ndindex(outputs, outputs):
        expected[:, i, j] = np.concatenate(
            [
                padded[:, 2 * i, 2 * j] @ weights["even"][0, 0],
                padded[:, 2 * i + 1, 2 * j + 1] @ weights["odd"][0, 0],
            ],
            -1,
        )
    actual = nnx.merge(graph, weights, statistics)(jnp.array(x), True)
    np.testing.assert_allclose(actual, numpy_batch_norm(expected), rtol=1e-8, atol=1e-9)

"""The primitives: one contract for all, and naive float64 NumPy versions of what they are made of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces
from ddarts_jax.models import layers
from ddarts_jax.models import primitives as prim
from ddarts_jax.ops import convolution, pooling, separable

CHANNELS = 4
# Sums of at most a few hundred products in float64.
EXACT = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture
def x64():
    """Runs a test in float64, where a comparison with NumPy leaves no room for small errors."""
    with jax.enable_x64(True):
        yield


def split(module, seed=0):
    """Structure, random weights and statistics."""
    graph, weights, statistics = nnx.split(module, nnx.Param, nnx.BatchStat)
    weights = layers.initialise(jax.random.key(seed), nnx.to_pure_dict(weights))
    return graph, weights, nnx.to_pure_dict(statistics)


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# Naive versions: loops over output pixels, read straight from the definitions.


def numpy_convolve(x, kernel, stride, dilation, padding, groups):
    """Cross-correlation of x [B, H, W, Cin] with kernel [kh, kw, Cin / groups, Cout]."""
    kh, kw, per_group, cout = kernel.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (padded.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    width = (padded.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((len(x), height, width, cout))
    for i, j, o in np.ndindex(height, width, cout):
        group = o // (cout // groups)
        channels = slice(group * per_group, (group + 1) * per_group)
        for k, m in np.ndindex(kh, kw):
            pixel = padded[:, i * stride + k * dilation, j * stride + m * dilation, channels]
            out[:, i, j, o] += pixel @ kernel[k, m, :, o]
    return out


def numpy_pool(x, stride, reduce):
    """`reduce` over the pixels of each 3x3 window that lie inside the image."""
    height, width = ((size - 1) // stride + 1 for size in x.shape[1:3])
    out = np.zeros((len(x), height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        rows = slice(max(i * stride - 1, 0), i * stride + 2)
        columns = slice(max(j * stride - 1, 0), j * stride + 2)
        out[:, i, j] = reduce(x[:, rows, columns], axis=(1, 2))
    return out


def numpy_batch_norm(x, scale=1.0, bias=0.0):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


# The contract.


def check_contract(graph, weights, statistics, x, stride):
    """One primitive on one input: shape, dtype, gradients, statistics."""

    def run(weights, x, train):
        module = nnx.merge(graph, weights, statistics)
        return module(x, train), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    @jax.jit
    def both(weights, x):
        out, pull_back, after = jax.vjp(lambda w, x: run(w, x, True), weights, x, has_aux=True)
        # The sum of a normalised output is constant, so the cotangent must not be.
        gradients = pull_back(jnp.array(normal(2, *out.shape), out.dtype))
        return out, gradients, after, run(weights, x, False)

    out, (to_weights, to_input), after, evaluated = both(weights, x)
    batch, height, width, channels = x.shape
    assert out.shape == (batch, -(-height // stride), -(-width // stride), channels)
    assert out.dtype == x.dtype
    assert to_input.dtype == x.dtype
    for gradient in [to_input, *jax.tree.leaves(to_weights)]:
        assert jnp.isfinite(gradient).all()
        assert jnp.any(gradient != 0)

    for old, new in zip(jax.tree.leaves(statistics), jax.tree.leaves(after), strict=True):
        assert new.dtype == jnp.float32
        assert jnp.any(old != new)  # not all: the mean of what is normalised already stays 0
    out, after = evaluated
    assert jnp.isfinite(out).all()
    assert out.dtype == x.dtype
    jax.tree.map(np.testing.assert_array_equal, statistics, after)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("affine", "size", "dtype"), [(True, 6, jnp.float32), (False, 5, jnp.bfloat16)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", spaces.DARTOPTI_PRIMITIVES)
def test_every_primitive_keeps_the_contract(name, stride, affine, size, dtype):
    """Size / stride rounded up, dtype of the input, finite gradients, statistics in training only."""
    # The shifted sums, with as many operations as the kernel has taps, have tests of their own.
    primitive = prim.create(name, CHANNELS, stride, affine=affine)
    graph, *variables = split(primitive)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    x = jnp.array(normal(1, 2, size, size, CHANNELS), dtype)
    check_contract(graph, *variables, x, stride)


@pytest.mark.parametrize("affine", [True, False])
def test_pools_are_normalised_in_the_supernet_only(affine):
    """BatchNorm follows a pool exactly where BatchNorm has no scale and bias."""
    for name in ("max_pool_3x3", "avg_pool_3x3"):
        pool = prim.create(name, CHANNELS, 1, affine=affine)
        assert (pool.norm is None) == affine


def test_unknown_primitive_is_named():
    """A misspelt primitive raises UserError that names it and those that exist."""
    with pytest.raises(UserError, match=r"sep_conv_9x9.*sep_conv_3x3"):
        prim.create("sep_conv_9x9", CHANNELS, 1, affine=True)


def test_same_key_gives_the_same_weights():
    """Drawing is a function of the key: same key same weights, other key others."""

    def weights(seed):
        module = prim.create("sep_conv_3x3", CHANNELS, 2, affine=False)
        return jax.tree.leaves(split(module, seed)[1])

    for same, again, other in zip(weights(0), weights(0), weights(1), strict=True):
        np.testing.assert_array_equal(same, again)
        assert np.all(same != other)


def test_kernels_start_as_those_of_pytorch():
    """U(-b, b) with b = 1 / sqrt(inputs of one output), stacked or not; scale and bias untouched."""
    inputs = {"depthwise": 9, "pointwise": 64, "dense": 9 * 16, "stacked": 25, "linear": 50}
    shapes = [(3, 3, 1, 64), (1, 1, 64, 64), (3, 3, 16, 32), (5, 5, 5, 1, 32), (50, 20)]
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


# The parts against the naive versions.


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(
    ("width", "stride", "dilation", "padding", "groups"),
    [
        (3, 1, 1, None, 1),
        (3, 2, 2, None, 2),
        (5, 2, 1, None, 4),
        (5, 1, 2, None, 4),
        (3, 1, 1, 0, 1),
        (1, 1, 1, None, 1),
        (1, 2, 1, 0, 2),
        (1, 1, 1, 1, 1),
    ],
)
def test_convolution_is_that_of_numpy(x64, size, width, stride, dilation, padding, groups):
    """Strides, dilations, groups and padding against loops in float64."""
    x, kernel = normal(0, 2, size, size, 4), normal(1, width, width, 4 // groups, 8)
    actual = convolution.convolve(
        jnp.array(x), jnp.array(kernel), (stride, stride), dilation, padding, groups
    )
    pad = dilation * (width // 2) if padding is None else padding
    np.testing.assert_allclose(
        actual, numpy_convolve(x, kernel, stride, dilation, pad, groups), **EXACT
    )


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


# The hand-written depthwise-separable convolution; tests/test_backend.py compares it with XLA's.


def test_shifted_sums_keep_the_dtypes_of_their_arguments():
    """Gradients of float32 kernels are float32 when the images are bfloat16."""
    x = jnp.array(normal(0, 1, 4, 4, 2), jnp.bfloat16)
    kernels = jnp.ones((3, 3, 1, 2)), jnp.ones((1, 1, 2, 2))
    out, pull_back = jax.vjp(lambda *a: separable.separable_by_shifts(*a, 2, 1), x, *kernels)
    dtypes = [gradient.dtype for gradient in pull_back(jnp.ones_like(out))]
    assert (out.dtype, *dtypes) == (jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32)

"""The primitives: one contract for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import normal, split

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces
from ddarts_jax.models import primitives as prim

CHANNELS = 4


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


# The hand-written depthwise-separable convolution; tests/test_backend.py compares it with XLA's.

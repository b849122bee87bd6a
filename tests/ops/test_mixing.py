"""The mixture of primitives: against its formula in float64, and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from ddarts_jax.ops import backend
from ddarts_jax.ops.mixing import mix

_TARGETS, _SOURCES, _CHANNELS = 3, 2, 4
# Two primitives computed as one, one that all targets share, one that is not standardised.
_STANDARDISED = (True, True, False)
_SHAPES = ((2, _TARGETS), (1, 1), (1, 1))


def arguments(dtype):
    """Outputs, shifts and gates."""
    outputs = tuple(
        jnp.asarray(3 + normal(i, 2, 5, 3, *shape, _SOURCES, _CHANNELS), dtype)
        for i, shape in enumerate(_SHAPES)
    )
    wide = jnp.promote_types(dtype, jnp.float32)
    shifts = tuple(
        jnp.full((*shape, _SOURCES, _CHANNELS), 2.5, wide)
        for shape, moves in zip(_SHAPES, _STANDARDISED)
        if moves
    )
    gates = tuple(
        jnp.asarray(normal(10 + i, shape[0], _TARGETS, _SOURCES), wide)
        for i, shape in enumerate(_SHAPES)
    )
    return outputs, shifts, gates


def plain(outputs, gates):
    """The mixture as it is written."""
    total = 0
    for x, gate, moves in zip(outputs, gates, _STANDARDISED):
        if moves:
            x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        total += jnp.sum(gate[..., None] * x, (3, 5))
    return total


@pytest.mark.parametrize("compile_for", ["cpu", "gpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("bfloat16", 2**-7)])
def test_mixture_and_its_gradients(x64, compile_for, dtype, tolerance):
    """All sums are of float32 or better: bfloat16 loses no more than its own roundings."""
    outputs, shifts, gates = arguments(dtype)
    exact = tuple(x.astype("float64") for x in outputs), tuple(g.astype("float64") for g in gates)
    expected, expected_pull = jax.vjp(plain, *exact)
    with backend.compiling_for(compile_for):
        run = jax.jit(lambda outputs, gates: mix(_STANDARDISED, outputs, shifts, gates))
        (actual, moments), pull = jax.vjp(run, outputs, gates)
        cotangent = jnp.asarray(normal(20, *expected.shape), dtype)
        zeros = jax.tree.map(jnp.zeros_like, moments)
        gradients = pull((cotangent, zeros))
    assert actual.dtype == dtype
    pairs = zip(
        [actual, *jax.tree.leaves(gradients)],
        [expected, *jax.tree.leaves(expected_pull(cotangent.astype("float64")))],
        strict=True,
    )
    for ours, reference in pairs:
        error = np.linalg.norm(np.asarray(ours, np.float64) - reference)
        assert error <= tolerance * np.linalg.norm(reference)
    for (mean, variance), x in zip(moments, exact[0], strict=False):
        np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-5)


def test_nothing_needs_to_be_standardised(x64):
    """As in evaluation, where BatchNorm uses its running statistics."""
    outputs, _, gates = arguments("float64")
    total, moments = mix((False,) * 3, outputs, (), gates)
    expected = sum(jnp.sum(g[..., None] * x, (3, 5)) for g, x in zip(gates, outputs))
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    assert moments == ()

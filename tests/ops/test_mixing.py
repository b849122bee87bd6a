"""The mixture of primitives: against its formula in float64, and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from ddarts_jax.ops import backend
from ddarts_jax.ops.mixing import mix

_TARGETS, _SOURCES, _CHANNELS = 3, 2, 4
# A primitive with weights, one without that all targets share, one that is not standardised.
_STANDARDISED = (True, True, False)
_OWN = (_TARGETS, 1, 1)  # different outputs of each


def arguments(dtype):
    """Outputs, shifts and gates."""
    outputs = tuple(
        jnp.asarray(3 + normal(i, 2, 5, 3, own, _SOURCES, _CHANNELS), dtype)
        for i, own in enumerate(_OWN)
    )
    wide = jnp.promote_types(dtype, jnp.float32)
    shifts = tuple(
        jnp.full((own, _SOURCES, _CHANNELS), 2.5, wide)
        for own, moves in zip(_OWN, _STANDARDISED)
        if moves
    )
    gates = tuple(jnp.asarray(normal(10 + i, _TARGETS, _SOURCES), wide) for i in range(len(_OWN)))
    return outputs, shifts, gates


def plain(outputs, gates):
    """The mixture as it is written."""
    total = 0
    for x, gate, moves in zip(outputs, gates, _STANDARDISED):
        if moves:
            x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        total += jnp.sum(gate[..., None] * x, 4)
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
    expected = sum(jnp.sum(g[..., None] * x, 4) for g, x in zip(gates, outputs))
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    assert moments == ()

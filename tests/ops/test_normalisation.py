"""Moments and sums over a batch: every implementation against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal

from ddarts_jax.ops.backend import IMPLEMENTATIONS


@pytest.mark.parametrize("name", IMPLEMENTATIONS["moments"])
@settings(max_examples=20, deadline=None)
@given(mean=st.floats(-1e3, 1e3), deviation=st.floats(1e-2, 10), near=st.floats(-1, 1))
def test_moments_survive_a_mean_far_from_zero(name, mean, deviation, near):
    """In float32, for a shift within ten deviations of the mean, as the running mean is."""
    x = (mean + deviation * normal(0, 4, 6, 6, 3)).astype(np.float32)
    shift = np.full(3, mean + 10 * deviation * near, np.float32)
    ((actual_mean, variance),) = IMPLEMENTATIONS["moments"][name]([jnp.array(x)], [shift], 1)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(actual_mean, wide.mean((0, 1, 2)), rtol=1e-5, atol=1e-5 * deviation)
    # The square of the mean's own error, a few units in its last place, comes on top of the variance.
    error = 8 * np.finfo(np.float32).eps * (abs(mean) + 10 * deviation)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-3, atol=error**2)


@pytest.mark.parametrize("name", IMPLEMENTATIONS["moments"])
def test_constant_channels_have_no_variance(name):
    """Rounding must not make it negative: a removed cell's successors read zeros."""
    x, shift = jnp.full((2, 3, 3, 2), 0.1), jnp.array([0.3, -7.7])
    ((mean, variance),) = IMPLEMENTATIONS["moments"][name]([x], [shift], 1)
    np.testing.assert_allclose(mean, 0.1, rtol=1e-5)
    assert np.all(variance >= 0) and np.all(variance < 1e-4)


@pytest.mark.parametrize("name", IMPLEMENTATIONS["sums"])
def test_sums_of_arrays_of_different_shapes(name):
    """Each over all axes but its last ones."""
    terms = [normal(0, 2, 3, 4, 5, 6), normal(1, 2, 1, 2, 3, 1)]
    actual = IMPLEMENTATIONS["sums"][name]([jnp.array(term) for term in terms], 2)
    for ours, term in zip(actual, terms, strict=True):
        np.testing.assert_allclose(ours, term.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)

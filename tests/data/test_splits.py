"""Splits: stratified, disjoint, complete and fixed by their seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.data.splits import stratified_halves


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(-(2**40), 2**40))
def test_halves_are_stratified(labels, seed):
    """Disjoint, complete, and balanced within one image for every class and overall."""
    labels = np.array(labels, np.int32)
    first, second = stratified_halves(labels, seed)
    assert first.dtype == second.dtype == np.int32
    np.testing.assert_array_equal(np.sort(np.r_[first, second]), np.arange(len(labels)))
    counts = [np.bincount(labels[half], minlength=7) for half in (first, second)]
    assert abs(counts[0] - counts[1]).max() <= 1
    assert abs(len(first) - len(second)) <= 1
    again = stratified_halves(labels, seed)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])


def test_halves_depend_on_the_seed():
    """Another seed is another split."""
    labels = np.arange(100) % 5
    assert (stratified_halves(labels, 0)[0] != stratified_halves(labels, 1)[0]).any()

"""Hashes of images: equal for equal pixels or names, different for all others."""

import numpy as np

from ddarts_jax.data import hashes


def test_one_bit_makes_another_hash():
    """Neither the place among others nor the layout in memory counts."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    found = hashes.of_pixels(images)
    assert found.dtype == np.uint64 and len(set(found.tolist())) == 20
    np.testing.assert_array_equal(hashes.of_pixels(np.asfortranarray(images[::-1]))[::-1], found)
    images[7, 2, 2, 1] ^= 1
    assert (hashes.of_pixels(images) != found).tolist() == [k == 7 for k in range(20)]


def test_hashes_are_the_same_in_every_version():
    """A run of today must recognise its images later."""
    assert hashes.of_names([b"cat/0.png"])[0] == 15966961880544311859
    assert len(hashes.of_names([])) == 0

"""Augmentation against plain NumPy: every image is one of the possible crops, flips and cutouts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddarts_jax import augment as module
from ddarts_jax.augment import normalize

MEAN = np.array([0.4, 0.5, 0.6], np.float32)
STD = np.array([0.2, 0.3, 0.25], np.float32)
augment = jax.jit(module.augment, static_argnames=("crop_padding", "flip", "cutout", "dtype"))
random_crop = jax.jit(module.random_crop, static_argnames="padding")
random_flip = jax.jit(module.random_flip)
random_cutout = jax.jit(module.random_cutout, static_argnames="side")
OFF = {"crop_padding": 0, "flip": False, "cutout": 0}


def _images(size, height=6, width=6, channels=3, seed=0):
    return np.random.default_rng(seed).integers(
        1, 256, (size, height, width, channels), dtype=np.uint8
    )


def _place(image, candidates):
    """The one candidate (by key) that equals the image exactly."""
    found = [key for key, candidate in candidates.items() if np.array_equal(candidate, image)]
    assert len(found) == 1
    return found[0]


def _crops(image, padding):
    """All crops of one image, by their offset, in plain NumPy."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return {
        (y, x): padded[y : y + height, x : x + width]
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }


def test_normalize_is_the_formula_in_float64():
    """(x / 255 - mean) / std, within float32 rounding (1e-6) of float64 NumPy."""
    images = _images(3)
    expected = (images / 255.0 - MEAN.astype(float)) / STD.astype(float)
    result = normalize(images, MEAN, STD, jnp.float32)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    half = normalize(images, MEAN, STD, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, result.astype(jnp.bfloat16))


def test_crop_is_one_of_the_possible_crops_with_uniform_offsets():
    """Every crop is a window of the zero-padded image; all 25 windows are equally likely."""
    size, padding = 2000, 2
    image = _images(1)
    cropped = np.asarray(random_crop(jax.random.key(3), np.repeat(image, size, 0), padding))
    candidates = _crops(image[0], padding)
    counts = np.zeros((5, 5))
    for one in cropped:
        counts[_place(one, candidates)] += 1
    # Chi-square with 24 degrees of freedom: 99.99% lie below 56.
    assert ((counts - size / 25) ** 2 / (size / 25)).sum() < 56


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 99)
)
@settings(max_examples=5, deadline=None)
def test_crop_of_any_shape(height, width, channels, padding, seed):
    """Windows are right for any image, also narrow ones and with a padding larger than them."""
    images = _images(4, height, width, channels)
    cropped = np.asarray(random_crop(jax.random.key(seed), images, padding))
    assert cropped.dtype == np.uint8
    for image, one in zip(images, cropped):
        assert any(np.array_equal(one, crop) for crop in _crops(image, padding).values())


def test_flip_mirrors_half_of_the_images():
    """An image is itself or its mirror image; of 2000, half within 5 standard deviations."""
    image = _images(1)
    result = np.asarray(random_flip(jax.random.key(0), np.repeat(image, 2000, 0)))
    candidates = {False: image[0], True: image[0][:, ::-1]}
    flips = sum(_place(one, candidates) for one in result)
    assert abs(flips - 1000) < 5 * np.sqrt(500)


@pytest.mark.parametrize("side", [1, 3, 4, 30])
def test_cutout_is_a_clipped_square_with_a_uniform_centre(side):
    """The erased part is a clipped square; its mean area follows from a uniform centre."""
    height, width, size = 8, 5, 3000
    result = np.asarray(
        random_cutout(jax.random.key(side), np.ones((size, height, width, 2), np.float32), side)
    )
    np.testing.assert_array_equal(result[..., 0], result[..., 1])

    def interval(centre, length):  # DARTS: [centre - side // 2, ... + side) clipped to the image
        start = centre - side // 2
        return max(start, 0), min(start + side, length)

    masks = {}
    for y in range(height):
        for x in range(width):
            (top, bottom), (left, right) = interval(y, height), interval(x, width)
            mask = np.ones((height, width), np.float32)
            mask[top:bottom, left:right] = 0
            masks[y, x] = mask
    kinds = {mask.tobytes() for mask in masks.values()}
    assert {one.tobytes() for one in result[..., 0]} <= kinds
    areas = np.array([(mask == 0).sum() for mask in masks.values()])
    error = abs((result[..., 0] == 0).sum((1, 2)).mean() - areas.mean())
    assert error <= 5 * areas.std() / np.sqrt(size)


def test_augment_is_crop_then_flip_then_normalize_then_cutout():
    """Each image equals exactly one crop, perhaps mirrored, normalised, with a clipped square of 0.

    So a crop's border is black before it is normalised, and what cutout erases is 0 after it.
    """
    images = _images(24)
    result = np.asarray(
        augment(
            jax.random.key(5), images, MEAN, STD,
            crop_padding=1, flip=True, cutout=2, dtype=jnp.float32,
        )
    )  # fmt: skip
    for image, one in zip(images, result):
        erased = (one == 0).all(axis=2)
        rows, columns = erased.any(1).nonzero()[0], erased.any(0).nonzero()[0]
        assert erased.sum() == len(rows) * len(columns) in (1, 2, 4)
        matches = 0
        for crop in _crops(image, 1).values():
            for candidate in (crop, crop[:, ::-1]):
                expected = (candidate / 255.0 - MEAN) / STD
                expected[erased] = 0
                matches += np.allclose(one, expected, atol=1e-5)
        assert matches == 1


def test_images_draw_their_own_and_a_key_repeats_them():
    """Equal images of one batch come out different; the same key gives the same batch again."""
    images = np.repeat(_images(1, 12, 12), 64, 0)
    function = functools.partial(augment, crop_padding=4, flip=True, cutout=6, dtype=jnp.float32)
    first = np.asarray(function(jax.random.key(0), images, MEAN, STD))
    again = np.asarray(function(jax.random.key(0), images, MEAN, STD))
    other = np.asarray(function(jax.random.key(1), images, MEAN, STD))
    np.testing.assert_array_equal(first, again)
    assert len({one.tobytes() for one in first}) > 60
    assert (first != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_switched_off_parts_draw_nothing_and_leave_the_others_alone():
    """All off is normalize without a random bit; a crop is the same with and without a flip."""
    images = _images(32)
    jaxpr = str(
        jax.make_jaxpr(functools.partial(augment, **OFF, dtype=jnp.float32))(
            jax.random.key(0), images, MEAN, STD
        )
    )
    assert "random" not in jaxpr
    plain = augment(jax.random.key(0), images, MEAN, STD, **OFF, dtype=jnp.float32)
    np.testing.assert_allclose(plain, normalize(images, MEAN, STD, jnp.float32), atol=1e-6)

    crop = {**OFF, "crop_padding": 2}
    cropped = augment(jax.random.key(0), images, MEAN, STD, **crop, dtype=jnp.float32)
    both = augment(
        jax.random.key(0), images, MEAN, STD, **{**crop, "flip": True}, dtype=jnp.float32
    )
    mirrored = cropped[:, :, ::-1]
    for one, *candidates in zip(np.asarray(both), cropped, mirrored):
        assert any(np.allclose(one, candidate, atol=1e-6) for candidate in candidates)


def test_jit_traces_once_and_computes_no_float64():
    """A second step with other data does not retrace, and 64 bits enabled change no draw."""
    traces = []

    @jax.jit
    def step(key, images):
        traces.append(1)
        return augment(
            key, images, MEAN, STD, crop_padding=2, flip=True, cutout=3, dtype=jnp.float32
        )

    images = _images(16)
    first = np.asarray(step(jax.random.key(0), images))
    step(jax.random.key(1), _images(16, seed=1))
    assert len(traces) == 1

    with jax.enable_x64(True):
        options = {"crop_padding": 2, "flip": True, "cutout": 3}
        single = functools.partial(augment, **options, dtype=jnp.float32)
        jaxpr = str(jax.make_jaxpr(single)(jax.random.key(0), images, MEAN, STD))
        assert not re.search(r"f64\[\d", jaxpr)  # scalars appear inside jax.random
        wide = augment(jax.random.key(0), images, MEAN, STD, **options, dtype=jnp.float64)
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(wide, first, atol=1e-5)

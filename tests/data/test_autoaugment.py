"""AutoAugment against Pillow: each operation on photographs and noise, then the draws."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from ddarts_jax.data import autoaugment as module
from ddarts_jax.data.autoaugment import (
    MAGNITUDES,
    POLICIES,
    SIGNED,
    apply_operation,
    draw_sub_policies,
)
from ddarts_jax.errors import UserError

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TABLES = ("Invert", "Solarize", "Posterize", "Equalize")
BLENDS = ("Brightness", "Contrast", "Color", "Sharpness")
ALL = {*GEOMETRIC, *TABLES, *BLENDS, "AutoContrast"}
autoaugment = jax.jit(module.autoaugment, static_argnames="policy")


@functools.cache
def _images():
    """Crops of two photographs, noise, a flat image: 32 x 32 and 20 high by 33 wide."""
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    crops = [
        np.asarray(photograph.crop((100, 50, 400, 350)).resize(size))
        for photograph in photographs
        for size in ((32, 32), (33, 20))
    ]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    dull = rng.integers(60, 130, (20, 33, 3), dtype=np.uint8)
    return *crops, noise, dull, np.full((32, 32, 3), 77, np.uint8)


def _magnitudes(name):
    values = [float(value) for value in MAGNITUDES.get(name, [0])]
    return values + [-value for value in values] if name in SIGNED else values


def _pillow(name, image, magnitude):
    """The operation as Pillow does it."""
    picture = Image.fromarray(image)
    width, height = picture.size
    fill = (128, 128, 128)

    def affine(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=fill)

    operations = {
        "ShearX": lambda: affine(1, magnitude, 0, 0, 1, 0),
        "ShearY": lambda: affine(1, 0, 0, magnitude, 1, 0),
        "TranslateX": lambda: affine(1, 0, magnitude * width, 0, 1, 0),
        "TranslateY": lambda: affine(1, 0, 0, 0, 1, magnitude * height),
        "Rotate": lambda: picture.rotate(magnitude, fillcolor=fill),
        "Invert": lambda: ImageOps.invert(picture),
        "Solarize": lambda: ImageOps.solarize(picture, magnitude),
        "Posterize": lambda: ImageOps.posterize(picture, int(magnitude)),
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Brightness": lambda: ImageEnhance.Brightness(picture).enhance(magnitude),
        "Contrast": lambda: ImageEnhance.Contrast(picture).enhance(magnitude),
        "Color": lambda: ImageEnhance.Color(picture).enhance(magnitude),
        "Sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(magnitude),
    }
    return np.asarray(operations[name]())


@pytest.mark.parametrize("name", GEOMETRIC + TABLES)
def test_resamplings_and_tables_equal_pillow(name):
    """Every pixel is Pillow's: both compute resamplings in 16.16 fixed point, tables in integers."""
    changed = 0
    for image in _images():
        for magnitude in _magnitudes(name):
            result = np.asarray(apply_operation(name, image, magnitude))
            np.testing.assert_array_equal(result, _pillow(name, image, magnitude))
            changed += (result != image).any()
    assert changed


def _assert_pillow_autocontrast(image):
    """Pillow's autocontrast, or 1 above it where the exact value is a whole number.

    There the float64 product of Pillow can lie just below the whole number that it then truncates.
    """
    result = np.asarray(apply_operation("AutoContrast", image, 0)).astype(int)
    above = result - _pillow("AutoContrast", image, 0)
    lowest, highest = image.min((0, 1)).astype(int), image.max((0, 1)).astype(int)
    whole = (image - lowest) * 255 % np.maximum(highest - lowest, 1) == 0
    assert (above[~whole] == 0).all()
    assert np.isin(above[whole], (0, 1)).all()


def test_autocontrast_is_pillows():
    """Autocontrast truncates the exact value, which Pillow misses only where it is whole."""
    for image in _images():
        _assert_pillow_autocontrast(image)


@given(
    st.sampled_from([(1, 1), (2, 5), (18, 18)]).flatmap(
        lambda size: arrays.arrays(np.uint8, (*size, 3), fill=st.integers(0, 255))
    )
)
@settings(max_examples=25, deadline=None)
def test_statistics_of_small_and_flat_images(image):
    """Images of few pixels or few grey values: where a histogram is nearly empty, as Pillow's."""
    _assert_pillow_autocontrast(image)
    equalized = np.asarray(apply_operation("Equalize", image, 0))
    np.testing.assert_array_equal(equalized, _pillow("Equalize", image, 0))
    for name in ("Contrast", "Sharpness"):
        difference = np.asarray(apply_operation(name, image, 0.3)).astype(int)
        assert abs(difference - _pillow(name, image, 0.3)).max() <= 1


@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_pillows_up_to_rounding(name):
    """Equal to Pillow, save where the exact blend is within 1e-4 of a whole number: there 1 beside.

    Both truncate a float32; a fused multiply-add rounds once where Pillow rounds twice. The
    exact blend is recovered from Pillow's own degenerate image (a blend with factor 0).
    """
    for image in _images():
        degenerate = _pillow(name, image, 0.0).astype(float)
        for magnitude in _magnitudes(name):
            expected = _pillow(name, image, magnitude).astype(int)
            error = np.asarray(apply_operation(name, image, magnitude)) - expected
            exact = degenerate + magnitude * (image - degenerate)
            whole = abs(exact - exact.round()) < 1e-4
            assert (error[~whole] == 0).all()
            assert (abs(error[whole]) <= 1).all()
            assert (error != 0).mean() < 0.05


def test_policies_are_25_pairs_of_known_operations():
    """Each policy has 25 sub-policies of two operations that exist, with tenths and indices 0..9."""
    assert set(POLICIES) == {"cifar10", "imagenet"}
    for policy in POLICIES.values():
        assert len(policy) == 25
        for sub_policy in policy:
            assert len(sub_policy) == 2
            for name, probability, index in sub_policy:
                assert name in ALL
                assert probability in [tenths / 10 for tenths in range(11)]
                assert index in range(10)


def test_magnitudes_span_the_ranges_of_the_article():
    """Ten equal steps over the ranges of the article's Table 6; bits are whole."""
    ranges = {
        **dict.fromkeys(("ShearX", "ShearY"), (0, 0.3)),
        **dict.fromkeys(("TranslateX", "TranslateY"), (0, 150 / 331)),
        **dict.fromkeys(BLENDS, (0.1, 1.9)),
        "Rotate": (0, 30), "Solarize": (256, 0),
    }  # fmt: skip
    for name, (first, last) in ranges.items():
        expected = [first + (last - first) * index / 9 for index in range(10)]
        np.testing.assert_allclose(MAGNITUDES[name], expected, atol=1e-12)
    assert MAGNITUDES["Posterize"].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert set(MAGNITUDES) == ALL - {"Invert", "AutoContrast", "Equalize"}
    assert set(GEOMETRIC) == SIGNED


@pytest.mark.parametrize("policy", POLICIES)
def test_autoaugment_applies_the_drawn_operations_in_order(policy):
    """Each image equals its drawn operations applied one by one.

    Rounding may differ between the two programs by a level in the blends, so up to 2% of an image's
    values may be others; a wrong operation, magnitude, sign or order changes far more.
    """
    images = np.resize(
        np.stack([image for image in _images() if len(image) == 32]), (200, 32, 32, 3)
    )
    key = jax.random.key(7)
    result = np.asarray(autoaugment(key, images, policy))
    assert (result.dtype, result.shape) == (np.uint8, images.shape)
    drawn = [np.asarray(part) for part in draw_sub_policies(key, len(images), policy)]
    for image, one, sub_policy, applied, negative in zip(images, result, *drawn):
        for slot, (name, _, index) in enumerate(POLICIES[policy][sub_policy]):
            if applied[slot]:
                magnitude = _magnitudes(name)[index if name in MAGNITUDES else 0]
                sign = -1 if negative[slot] and name in SIGNED else 1
                image = apply_operation(name, image, sign * magnitude)
        assert (one != image).mean() < 0.02
    assert len(set(drawn[0].tolist())) == 25


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_follow_the_probabilities(policy):
    """Sub-policies are uniform, operations occur with their probability, signs are fair.

    Bounds are 5 standard deviations of 50,000 draws; a probability of 0 or 1 has no exception.
    """
    size = 50_000
    sub_policies, applied, negative = (
        np.asarray(part) for part in draw_sub_policies(jax.random.key(0), size, policy)
    )

    def assert_share(events, probability):
        deviation = math.sqrt(probability * (1 - probability) / len(events))
        assert abs(events.mean() - probability) <= 5 * deviation

    for index, sub_policy in enumerate(POLICIES[policy]):
        chosen = sub_policies == index
        assert_share(chosen, 1 / 25)
        (_, first, _), (_, second, _) = sub_policy
        assert_share(applied[chosen, 0], first)
        assert_share(applied[chosen, 1], second)
        assert_share(applied[chosen].all(1), first * second)
    for slot in range(2):
        assert_share(negative[:, slot], 0.5)
    assert_share(negative.all(1), 0.25)


def test_images_draw_their_own_and_a_key_repeats_them():
    """Equal images of one batch come out different; the same key gives the same batch again."""
    images = np.repeat(_images()[0][None], 200, 0)
    first = np.asarray(autoaugment(jax.random.key(0), images, "cifar10"))
    again = np.asarray(autoaugment(jax.random.key(0), images, "cifar10"))
    other = np.asarray(autoaugment(jax.random.key(1), images, "cifar10"))
    np.testing.assert_array_equal(first, again)
    assert len({one.tobytes() for one in first}) > 40
    assert (first != other).any((1, 2, 3)).mean() > 0.7


def test_jit_traces_once_and_64_bits_change_nothing():
    """A second batch does not retrace; with 64 bits enabled the images are the same, in float32."""
    traces = []

    @jax.jit
    def step(key, images):
        traces.append(1)
        return module.autoaugment(key, images, "imagenet")

    images = np.stack([image for image in _images() if len(image) == 32])
    first = np.asarray(step(jax.random.key(0), images))
    step(jax.random.key(1), images[::-1])
    assert len(traces) == 1
    with jax.enable_x64(True):
        call = functools.partial(module.autoaugment, policy="imagenet")
        assert not re.search(r"[fi]64\[\d", str(jax.make_jaxpr(call)(jax.random.key(0), images)))
        np.testing.assert_array_equal(jax.jit(call)(jax.random.key(0), images), first)


def test_mistakes_are_named():
    """An unknown policy or operation, and images that are not uint8 RGB, each get a sentence."""
    images = jnp.zeros((2, 8, 8, 3), jnp.uint8)
    with pytest.raises(UserError, match=r"policy 'svhn': use one of \['cifar10', 'imagenet'\]"):
        module.autoaugment(jax.random.key(0), images, "svhn")
    with pytest.raises(UserError, match="operation 'Blur'"):
        apply_operation("Blur", images[0], 1.0)
    for wrong in (images.astype(jnp.float32), images[..., :1]):
        with pytest.raises(UserError, match=r"uint8 \[H, W, 3\], not "):
            module.autoaugment(jax.random.key(0), wrong, "cifar10")

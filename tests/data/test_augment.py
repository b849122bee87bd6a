"""Augmentation against plain NumPy and Pillow.

Every image is one of the possible crops, flips and cutouts; boxes and factors have their laws.
"""

import colorsys
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddarts_jax.data import augment as module
from ddarts_jax.data.augment import draw_boxes, jitter_colors, normalize
from ddarts_jax.data.autoaugment import autoaugment
from ddarts_jax.errors import UserError

MEAN = np.array([0.4, 0.5, 0.6], np.float32)
STD = np.array([0.2, 0.3, 0.25], np.float32)
augment = jax.jit(module.augment, static_argnames=("crop_padding", "flip", "cutout", "dtype"))
random_crop = jax.jit(module.random_crop, static_argnames="padding")
random_flip = jax.jit(module.random_flip)
random_cutout = jax.jit(module.random_cutout, static_argnames="side")
random_resized_crop = jax.jit(module.random_resized_crop, static_argnames="size")
resize_boxes = jax.jit(module.resize_boxes, static_argnames="size")
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


SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def test_boxes_have_the_drawn_laws():
    """Where every box fits: area uniform, aspect log-uniform, place uniform, within their ranges.

    Means lie within 5 standard deviations of 5000 draws; a side is rounded to a pixel, which moves
    area and aspect of these boxes (more than 60 pixels per side) by less than 2%.
    """
    height, width, scale, ratio, count = 300, 320, (0.1, 0.3), (0.5, 2.0), 5000
    boxes = np.asarray(draw_boxes(jax.random.key(0), count, height, width, scale, ratio))
    top, left, rows, columns = boxes.T.astype(float)
    assert (boxes.dtype, boxes.shape) == (np.int32, (count, 4))
    assert rows.min() > 60 and columns.min() > 60

    def assert_uniform(values, low, high, tolerance):
        assert values.min() >= low - tolerance and values.max() <= high + tolerance
        deviation = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) <= 5 * deviation / np.sqrt(count)
        assert abs(values.std() / deviation - 1) < 0.05  # 5 deviations of its own, and rounding

    assert_uniform(rows * columns / (height * width), *scale, 0.02 * scale[1])
    assert_uniform(np.log(columns / rows), *np.log(ratio), 0.02)
    # A uniform whole number in 0..room, moved to the middle of a pixel.
    assert_uniform((top + 0.5) / (height - rows + 1), 0, 1, 0)
    assert_uniform((left + 0.5) / (width - columns + 1), 0, 1, 0)
    assert abs(np.corrcoef(top / (height - rows), left / (width - columns))[0, 1]) < 0.08


@pytest.mark.parametrize("height, width", [(1, 1), (7, 5), (64, 20), (20, 64), (224, 256)])
def test_boxes_lie_inside_images_of_any_shape(height, width):
    """Also where most drawn boxes are too large, a box is not empty and nowhere outside."""
    boxes = np.asarray(draw_boxes(jax.random.key(1), 100, height, width, SCALE, RATIO))
    top, left, rows, columns = boxes.T
    assert min(rows.min(), columns.min()) >= 1 and min(top.min(), left.min()) >= 0
    assert (top + rows).max() <= height and (left + columns).max() <= width


@pytest.mark.parametrize(
    "height, width, expected",
    [(10, 200, (0, 93, 10, 13)), (200, 10, (93, 0, 13, 10)), (50, 50, (0, 0, 50, 50))],
)
def test_a_box_that_never_fits_becomes_the_central_one(height, width, expected):
    """By hand: the longest side that the aspect allows, in the middle; a square image is whole."""
    boxes = draw_boxes(jax.random.key(0), 100, height, width, (1.1, 1.2), RATIO)
    np.testing.assert_array_equal(boxes, [expected] * 100)


def _resize(image, box, size):
    """Bilinear interpolation between the centres of the box's pixels, pixel by pixel."""
    top, left, rows, columns = (int(edge) for edge in box)
    crop = image[top : top + rows, left : left + columns].astype(float)
    result = np.empty((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y = min(max((i + 0.5) * rows / size - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / size - 0.5, 0), columns - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            upper = crop[y0, x0] * (1 - x + x0) + crop[y0, x1] * (x - x0)
            lower = crop[y1, x0] * (1 - x + x0) + crop[y1, x1] * (x - x0)
            result[i, j] = upper * (1 - y + y0) + lower * (y - y0)
    return result


def test_resized_crop_is_the_drawn_box_interpolated():
    """Equal to float64 NumPy on the same boxes: floats within 1e-3 of 255, uint8 rounded.

    uint8 may round the other way where the exact value is within 1e-3 of a half.
    """
    images = _images(12, 24, 17)
    key = jax.random.key(2)
    boxes = np.asarray(draw_boxes(key, 12, 24, 17, SCALE, RATIO))
    assert len({box.tobytes() for box in boxes}) == 12
    expected = np.stack([_resize(image, box, 9) for image, box in zip(images, boxes)])

    floats = random_resized_crop(key, images.astype(np.float32), 9)
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, expected, atol=1e-3)

    rounded = np.asarray(random_resized_crop(key, images, 9))
    assert rounded.dtype == np.uint8
    clear = abs(expected % 1 - 0.5) > 1e-3
    np.testing.assert_array_equal(rounded[clear], expected.round()[clear])
    assert (abs(rounded - expected) < 0.502).all()


def test_enlarged_crop_is_pillows():
    """A box enlarged 2 to 8 times is Pillow's bilinear resize of it, within its rounding of 1."""
    images = _images(3, 16, 20)
    boxes = np.array([[2, 3, 4, 7], [0, 0, 12, 5], [8, 10, 8, 10]], np.int32)
    result = np.asarray(resize_boxes(images, boxes, 32)).astype(int)
    for image, (top, left, rows, columns), one in zip(images, boxes, result):
        crop = Image.fromarray(image[top : top + rows, left : left + columns])
        expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        assert abs(one - expected).max() <= 1


def test_a_box_of_the_size_asked_for_is_copied():
    """Without scaling every value stays, and nothing outside the box comes in."""
    images = _images(2, 9, 9)
    boxes = np.array([[1, 3, 5, 5], [4, 0, 5, 5]], np.int32)
    result = resize_boxes(images, boxes, 5)
    expected = [images[0, 1:6, 3:8], images[1, 4:9, 0:5]]
    np.testing.assert_array_equal(result, expected)


def _degenerate(part, images):
    """What each part of colour jitter blends with, in float64."""
    luma = (images.astype(float) * [0.2989, 0.587, 0.114]).sum(-1, keepdims=True)
    if part == "brightness":
        return np.zeros_like(luma)
    return luma if part == "saturation" else luma.mean((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_each_part_of_jitter_colors_is_its_formula_with_a_uniform_factor(part, strength):
    """One factor an image, read off one value, explains all values (1e-5) and is uniform.

    Uniform on [max(0, 1 - x), 1 + x]: mean within 5 standard deviations of 1000 draws.
    """
    images = _images(1000, 4, 5).astype(np.float32) / 255
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, part: strength}
    result = np.asarray(jitter_colors(jax.random.key(3), images, **strengths))
    assert result.dtype == np.float32
    degenerate = np.broadcast_to(_degenerate(part, images), images.shape)

    # The value that is changed most by the factor, as long as it is not clipped.
    inside = np.where((result > 0) & (result < 1), abs(images - degenerate), 0)
    place = (np.arange(1000), inside.reshape(1000, -1).argmax(1))
    result_at, image_at, degenerate_at = (
        array.reshape(1000, -1)[place] for array in (result, images, degenerate)
    )
    factor = (result_at - degenerate_at) / (image_at - degenerate_at)
    wide = factor[:, None, None, None]
    expected = np.clip(wide * images + (1 - wide) * degenerate, 0, 1)
    np.testing.assert_allclose(result, expected, atol=1e-5)

    low, high = max(0, 1 - strength), 1 + strength
    assert low - 1e-4 <= factor.min() < low + 0.02 and high - 0.02 < factor.max() <= high + 1e-4
    deviation = (high - low) / np.sqrt(12)
    assert abs(factor.mean() - (low + high) / 2) <= 5 * deviation / np.sqrt(1000)


def _turned(image, turn):
    """An image with its hue turned, pixel by pixel in float64."""
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place].astype(float))
        result[place] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return result


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.01, 0.0, 0.13, 0.5])
def test_the_hue_of_any_pixel_is_turned_as_colorsys_does(turn):
    """Random, grey, almost grey, pure and black pixels, within float32 rounding (1e-6)."""
    corners = np.stack(np.meshgrid(*[[0, 1e-42, 0.5, 0.5 + 1e-7, 1]] * 3), -1).reshape(1, -1, 3)
    image = np.concatenate([corners.reshape(5, 25, 3), _images(1, 9, 25)[0] / 255]).astype(
        "float32"
    )
    result = module.turn_hue(jnp.asarray(image[None]), jnp.full((1, 1, 1, 1), turn, jnp.float32))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result[0], _turned(image, np.float32(turn)), atol=1e-6)


def test_the_hue_is_turned_as_pillow_does():
    """On PIL images torchvision adds to the hue of their 8-bit HSV; the rest is that rounding."""
    image, steps = _images(1, 32, 32)[0], 51
    turn = jnp.full((1, 1, 1, 1), steps / 256, jnp.float32)
    result = 255 * np.asarray(module.turn_hue(jnp.asarray(image[None] / np.float32(255)), turn))[0]
    hue, saturation, value = Image.fromarray(image).convert("HSV").split()
    hue = Image.fromarray(np.asarray(hue) + np.uint8(steps))
    expected = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB")).astype(int)
    # A step of the hue is 6 of 255 in a saturated pixel; the other two values are rounded as well.
    difference = abs(result - expected)
    assert difference.max() < 10 and difference.mean() < 2


def test_the_turn_of_the_hue_is_uniform():
    """One turn an image, read off its most colourful pixel, explains all pixels (1e-5).

    Uniform on [-x, x]: mean and spread within 5 standard deviations of 1000 draws.
    """
    images = _images(1000, 2, 3).astype(np.float32) / 255
    result = np.asarray(jitter_colors(jax.random.key(3), images, 0.0, 0.0, 0.0, 0.2))
    turns = []
    for before, after in zip(images, result):
        chroma = (before.max(-1) - before.min(-1)).argmax()
        hues = [
            colorsys.rgb_to_hsv(*x.reshape(-1, 3)[chroma].astype(float)) for x in (before, after)
        ]
        turns.append((hues[1][0] - hues[0][0] + 0.5) % 1 - 0.5)
        np.testing.assert_allclose(after, _turned(before, turns[-1]), atol=1e-5)
    turns = np.array(turns)
    assert 0.199 < turns.max() <= 0.2 + 1e-5 and -0.2 - 1e-5 <= turns.min() < -0.199
    deviation = 0.4 / np.sqrt(12)
    assert abs(turns.mean()) < 5 * deviation / np.sqrt(1000)
    assert abs(turns.std() / deviation - 1) < 0.07


def test_jitter_of_grey_images_is_that_of_rgb_without_colour():
    """RGB of equal channels gives the same, within 1e-3: the luma's weights sum to 0.9999."""
    grey = np.random.default_rng(3).random((6, 5, 4, 1), np.float32)
    key, strengths = jax.random.key(4), (0.4, 0.4, 0.4, 0.1)
    found = jitter_colors(key, grey, *strengths)
    assert found.shape == grey.shape
    expected = jitter_colors(key, np.repeat(grey, 3, -1), *strengths)
    np.testing.assert_allclose(np.repeat(found, 3, -1), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("parts", "channels", "fits"),
    [
        *(({"color_jitter": 0.4}, channels, channels in (1, 3)) for channels in (1, 2, 3, 4)),
        *(({"hue": 0.1}, channels, channels in (1, 3)) for channels in (1, 2, 3, 4)),
        *(({"auto_augment": "cifar10"}, channels, channels == 3) for channels in (1, 2, 3, 4)),
        *(({"cutout": 2}, channels, True) for channels in (1, 2, 4)),
    ],
)
def test_colours_of_images_that_have_none_are_refused(parts, channels, fits):
    """In a sentence, when the step is traced."""
    images = np.zeros((2, 8, 8, channels), np.uint8)
    moments = np.full(channels, 0.5, np.float32)

    def shape():
        given = OFF | {"dtype": jnp.float32} | parts
        run = functools.partial(module.augment, mean=moments, std=moments, **given)
        return jax.eval_shape(run, jax.random.key(0), images).shape

    if fits:
        assert shape() == images.shape
    else:
        with pytest.raises(UserError, match=f"images of {channels} channels"):
            shape()


def test_jitter_colors_is_brightness_then_contrast_then_saturation_then_hue():
    """All parts at once equal one after the other in this order, and no other, with one key."""
    images = _images(8, 4, 5).astype(np.float32) / 255
    key = jax.random.key(4)
    strengths = {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.3}

    def one_by_one(*parts):
        result = images
        for part in (*parts, "hue"):
            only = {name: x if name == part else 0.0 for name, x in strengths.items()}
            result = jitter_colors(key, result, **only)
        return result

    result = jitter_colors(key, images, **strengths)
    in_order = one_by_one("brightness", "contrast", "saturation")
    np.testing.assert_allclose(result, in_order, atol=1e-6)
    assert abs(result - one_by_one("contrast", "brightness", "saturation")).max() > 0.01
    assert abs(result - one_by_one("brightness", "saturation", "contrast")).max() > 0.01
    np.testing.assert_array_equal(jitter_colors(key, images, 0.0, 0.0, 0.0), images)


def test_imagenet_parts_repeat_with_a_key_and_under_64_bits():
    """Images of a batch draw their own, a key repeats them, and 64 bits enabled change nothing."""
    images = np.repeat(_images(1, 40, 30), 16, 0)
    parts = {
        "crop": lambda key, x: module.random_resized_crop(key, x, 8),
        "jitter": lambda key, x: module.jitter_colors(
            key, x.astype(jnp.float32) / 255, 0.4, 0.4, 0.4, 0.2
        ),
    }
    for part in parts.values():
        first = np.asarray(jax.jit(part)(jax.random.key(0), images))
        assert len({one.tobytes() for one in first}) == 16
        assert (np.asarray(jax.jit(part)(jax.random.key(1), images)) != first).any()
        with jax.enable_x64(True):
            jaxpr = str(jax.make_jaxpr(part)(jax.random.key(0), images))
            assert not re.search(r"f64\[\d", jaxpr)
            np.testing.assert_array_equal(jax.jit(part)(jax.random.key(0), images), first)


def test_every_part_can_be_switched_on():
    """The composition is that of the parts in their order, each with a key of its own."""
    key = jax.random.key(0)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (6, 8, 8, 3), np.uint8))
    mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.2, np.float32)
    keys = [jax.random.fold_in(key, number) for number in range(6)]
    expected = module.random_resized_crop(keys[3], images, 8, (0.3, 1.0))
    expected = autoaugment(keys[4], expected, "cifar10")
    expected = module.random_flip(keys[1], module.random_crop(keys[0], expected, 2))
    expected = 255 * module.jitter_colors(keys[5], expected / jnp.float32(255), 0.4, 0.4, 0.4, 0.2)
    expected = module.normalize(expected, mean, std, "float32")
    expected = module.random_cutout(keys[2], expected, 3)
    actual = module.augment(
        *(key, images, mean, std),
        crop_padding=2,
        flip=True,
        cutout=3,
        resized_crop=0.3,
        auto_augment="cifar10",
        color_jitter=0.4,
        hue=0.2,
        dtype="float32",
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.shape == images.shape

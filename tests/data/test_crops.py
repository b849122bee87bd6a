"""Crops: the right pixels of every kind of image, and boxes as torchvision draws them."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded
from PIL import Image

from ddarts_jax.data import crops


def _assert_close(a, b, tolerance=1.0):
    """Mean absolute difference, in levels of 0..255."""
    assert abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean() < tolerance


def test_evaluation_crop_is_resize_256_crop_224(photograph):
    """The central crop agrees with Pillow's own two steps, within a level in the mean."""
    width = round(photograph.width * 256 / photograph.height)
    left = round((width - 224) / 2)
    resized = photograph.resize((width, 256), Image.Resampling.BILINEAR)
    expected = resized.crop((left, 16, left + 224, 240))
    got = crops.crop(encoded(photograph), crops.central_box, 224)
    assert got.shape == (224, 224, 3)
    _assert_close(got, expected, 1.5)
    _assert_close(got[:, ::-1], got, 1000)
    with pytest.raises(AssertionError):  # the tolerance tells a shift of two pixels
        _assert_close(np.roll(got, 2, axis=1), expected, 1.5)


@pytest.mark.parametrize("size", [20, 50, 100, 224])
def test_a_jpeg_decoded_small_is_the_image_resized(photograph, size):
    """The quick decoding of JPEG gives nearly what decoding at full size and resizing gives."""
    content = encoded(photograph, "jpeg", quality=95)
    box = (37, 21, 530, 402)
    expected = Image.open(io.BytesIO(content)).crop(box).resize((size, size), Image.BILINEAR)
    _assert_close(crops.crop(content, lambda width, height: box, size), expected, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_camera_s_rotation_is_applied_before_the_crop(photograph, orientation, kind):
    """However it was stored, the upright image is cropped (EXIF orientations 1 to 8)."""
    transpose = Image.Transpose
    upright = photograph.resize((160, 107))
    stored = {
        2: transpose.FLIP_LEFT_RIGHT, 3: transpose.ROTATE_180, 4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE, 6: transpose.ROTATE_90, 7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }  # fmt: skip
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "jpeg" else {}
    sizes = []

    def box(width, height):
        sizes.append((width, height))
        return 90, 10, 150, 70

    got = crops.crop(encoded(image, kind, exif=exif, **options), box, 30)
    assert sizes == [(160, 107)]
    _assert_close(got, upright.crop((90, 10, 150, 70)).resize((30, 30), Image.BILINEAR), 3)


@pytest.mark.parametrize(
    ("mode", "kind", "value", "expected"),
    [
        ("L", "png", 77, (77, 77, 77)),
        ("I;16", "png", 50 * 257, (50, 50, 50)),
        ("RGBA", "png", (9, 9, 9, 0), (255, 255, 255)),
        ("CMYK", "jpeg", (255, 0, 0, 0), (0, 255, 255)),
        ("P", "gif", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, kind, value, expected):
    """Grey, 16 bits, transparency, CMYK and palettes become what a viewer shows, in RGB."""
    content = encoded(Image.new(mode, (16, 16), value), kind)
    got = crops.crop(content, crops.central_box, 8)
    assert got.shape == (8, 8, 3) and got.dtype == np.uint8
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=2)


@given(
    st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32),
    st.sampled_from([(0.08, 1.0), (0.5, 0.6), (1.0, 1.0)]),
)  # fmt: skip
def test_random_boxes_lie_inside_with_the_aspect_asked_for(width, height, seed, scale):
    """Any box is inside the image and not empty; aspect and area are within rounding of the bounds,
    but for images so long that none fits.
    """
    left, top, right, bottom = crops.random_box(random.Random(seed), width, height, scale)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    assert (w - 0.5) / (h + 0.5) <= 4 / 3 and (w + 0.5) / (h - 0.5) >= 3 / 4
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w + 0.5) * (h + 0.5) >= scale[0] * width * height * 9 / 16


def test_random_boxes_are_distributed_as_torchvision_s():
    """Area uniform, aspect log-uniform, place uniform, where every box fits (4 sigma bounds)."""
    generator = random.Random(0)
    boxes = np.array(
        [crops.random_box(generator, 1000, 1000, (0.1, 0.5)) for _ in range(4000)], float
    )
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]

    def assert_uniform(values):  # on [0, 1]: mean 1/2, variance 1/12
        bound = 4 / np.sqrt(len(values))
        assert abs(values.mean() - 0.5) < bound * np.sqrt(1 / 12)
        assert abs(values.var() - 1 / 12) < bound * np.sqrt(1 / 180)

    assert_uniform((w * h / 1e6 - 0.1) / 0.4)
    assert_uniform(np.log(w / h) / np.log(4 / 3) / 2 + 0.5)
    assert_uniform((boxes[:, 0] + 0.5) / (1001 - w))
    assert_uniform((boxes[:, 1] + 0.5) / (1001 - h))


@pytest.mark.parametrize(
    ("size", "expected"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))]
)
def test_an_image_too_long_for_any_box_is_cropped_in_its_middle(size, expected):
    """After ten tries: the largest central box of the nearest aspect, as torchvision."""
    assert crops.random_box(random.Random(0), *size, (1.0, 1.0)) == expected

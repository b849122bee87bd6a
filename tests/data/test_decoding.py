"""Decoding: every mode becomes what a viewer shows, and a corrupt file is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_files import Config, one, write
from PIL import Image, ImageOps

from ddarts_jax.data import crops
from ddarts_jax.data.dataset import load
from ddarts_jax.errors import UserError


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, [255]),
        ("L", 77, [77]),
        ("LA", (0, 0), [255]),  # transparent black: white, as on a page
        ("LA", (50, 255), [50]),
        ("I;16", 50 * 257, [50]),  # scaled, not clipped
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (9, 9, 9, 0), [255, 255, 255]),
        ("RGBA", (9, 8, 7, 255), [9, 8, 7]),
    ],
)
def test_modes_of_png(tmp_path, mode, value, expected):
    """Every mode of a PNG becomes the 8-bit grey or RGB value that a viewer shows."""
    result = one(tmp_path, Image.new(mode, (6, 6), value), white=65535)
    np.testing.assert_array_equal(result, np.broadcast_to(expected, (6, 6, len(expected))))


def test_other_modes(tmp_path):
    """Palette, CMYK, float and 16-bit TIFF are converted; out-of-range floats are refused."""
    palette = Image.new("RGB", (6, 6), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(one(tmp_path / "p", palette)[0, 0], [10, 20, 30])
    cmyk = Image.new("CMYK", (6, 6), (255, 0, 0, 0))
    np.testing.assert_array_equal(one(tmp_path / "c", cmyk, "x.tif")[0, 0], [0, 255, 255])
    real = Image.fromarray(np.full((6, 6), 0.2, np.float32))
    np.testing.assert_array_equal(one(tmp_path / "f", real, "x.tif")[0, 0], [51])
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 0, 0))
    result = one(tmp_path / "j", cmyk, "x.jpg")
    np.testing.assert_allclose(result, np.full((6, 6, 3), (255, 0, 255)), atol=2)
    deep = one(tmp_path / "d", _png_of_16_bits((257 * 10, 257 * 20, 65535)))
    np.testing.assert_array_equal(deep, np.full((6, 6, 3), (10, 20, 255)))
    wide = Image.fromarray(np.full((6, 6), 51 * 257, np.int32))
    np.testing.assert_array_equal(one(tmp_path / "i", wide, "x.tif", white=65535)[0, 0], [51])
    with pytest.raises(UserError, match=r"x\.tif"):
        one(tmp_path / "n", Image.fromarray(np.full((6, 6), 20, np.float32)), "x.tif")


def _chunk(kind, content):
    """A part of a PNG file."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _png_of_16_bits(color):
    """A 6 x 6 PNG of one colour with 16 bits per channel, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">3H", *color) * 6) * 6
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def test_rotation_of_the_camera_is_applied(tmp_path):
    """A JPEG stored sideways (EXIF orientation 6) is turned upright."""
    image = Image.new("L", (6, 6), 0)
    image.paste(255, (0, 0, 3, 6))  # the left half is white; turned clockwise, the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", exif=exif, quality=100)
    result = one(tmp_path, buffer.getvalue(), "x.jpg")
    assert result[:3].min() > 200 and result[3:].max() < 50


def test_every_rotation_is_pillow_s(tmp_path):
    """All eight orientations, with the transparency of a palette."""
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
        found = one(tmp_path / str(orientation), buffer.getvalue())
        np.testing.assert_array_equal(found[..., 0], expected)


def test_a_photograph_with_unusual_tags_is_turned(tmp_path):
    """Its EXIF cannot be written again (the artist is a fraction), which nobody needs."""
    pixels = np.repeat(np.arange(0, 240, 40, dtype=np.uint8)[None], 6, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=100, exif=_exif_with_a_fraction())
    with pytest.raises(AttributeError):
        ImageOps.exif_transpose(Image.open(buffer))
    found = one(tmp_path, buffer.getvalue(), "x.jpg")[..., 0]
    np.testing.assert_allclose(found, np.rot90(pixels, -1), atol=3)
    central = crops.crop(buffer.getvalue(), lambda width, height: (0, 0, width, height), 6)
    np.testing.assert_allclose(central[..., 0], np.rot90(pixels, -1), atol=3)


def _exif_with_a_fraction() -> bytes:
    """Orientation 6, and tag 0x013B (artist, a text) as a RATIONAL."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x013B, 5, 1, 38)
    directory = struct.pack("<H", 2) + entries + struct.pack("<I", 0)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<II", 1, 2)


@pytest.mark.parametrize(
    ("brightest", "white"), [(0, 0), (128, 255), (256, 1023), (4095, 4095), (4096, 16383)]
)
def test_the_range_of_16_bits_is_that_of_the_data(tmp_path, brightest, white):
    """Cameras store 12 bits in 16 as they are: divided by 65535 they would be black."""
    files = {}
    for name, value in (("cat", brightest // 2), ("dog", brightest)):
        for number in range(3):
            files[f"{name}/{number}.png"] = Image.new("I;16", (6, 6), value)
    dataset = load(Config(write(tmp_path, files)))
    assert dataset.white == white
    if white:
        expected = [round(value * 255 / white) for value in (brightest // 2, brightest)]
        np.testing.assert_array_equal(np.unique(dataset.train_images), expected)
    chosen = load(Config(f"folder:{tmp_path}", white=100))
    assert chosen.white == 100 and chosen.train_images.max() == (255 if brightest else 0)


def test_images_of_many_megapixels_are_read(tmp_path):
    """Pillow alone takes a sound image of 196 megapixels for a bomb; of a gigapixel it still is."""
    found = one(tmp_path, Image.new("1", (14_000, 14_000), 1))
    assert found.shape == (6, 6, 1) and found.min() == 255
    with pytest.raises(UserError, match=r"x\.png"):
        one(tmp_path / "bomb", _png_header(40_000, 40_000))


def _png_header(width, height):
    """A file that says that it is an image of so many pixels, and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about corrupt TIFF tags
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_truncated_and_corrupt_images(tmp_path, kind):
    """Half an image is a UserError naming the file; flipped bytes give an image or a UserError."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, kind)
    intact = buffer.getvalue()
    name = f"bad.{kind}"
    for length in (0, 1, 20, len(intact) // 2):
        with pytest.raises(UserError, match=name):
            one(tmp_path, intact[:length], name)
    for _ in range(40):
        corrupt = bytearray(intact)
        for position in random.integers(0, min(len(intact), 200), 3):
            corrupt[position] = random.integers(256)
        try:
            assert one(tmp_path, bytes(corrupt), name).shape[:2] == (6, 6)
        except UserError as error:
            assert name in str(error)

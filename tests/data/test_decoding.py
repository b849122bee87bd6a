"""Decoding: every mode becomes what a viewer shows, and a corrupt file is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_files import one
from PIL import Image

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
    result = one(tmp_path, Image.new(mode, (6, 6), value))
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
    np.testing.assert_array_equal(one(tmp_path / "i", wide, "x.tif")[0, 0], [51])
    with pytest.raises(UserError, match=r"x\.tif"):
        one(tmp_path / "n", Image.fromarray(np.full((6, 6), 20, np.float32)), "x.tif")


def _png_of_16_bits(color):
    """A 6 x 6 PNG of one colour with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">3H", *color) * 6) * 6
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


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

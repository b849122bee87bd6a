"""Decoding of image files of every mode to 8-bit grey or RGB, and resizing."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from ddarts_jax.errors import UserError, first_line

_T = TypeVar("_T")

_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA", "F", *_16_BIT_MODES)
_WHITES = (0, 255, 1023, 4095, 16383, 65535)
_MOST_PIXELS = 2**30


def read_file(file: Path, read: Callable[[BinaryIO], _T]) -> _T:
    """Applies `read` to the open file; UserError naming the file where that fails."""
    try:
        with open(file, "rb") as stream:
            return read(stream)
    except Exception as error:  # Corrupt images make Pillow's decoders raise nearly anything.
        raise UserError(
            f"Cannot read {file} as an image: {reason(error)}; repair or remove it."
        ) from error


def open_image(stream: BinaryIO) -> Any:
    """Opens an image with Pillow, which decodes it later.

    Pillow refuses images of more than 179 megapixels, as a protection against files that are small but
    decode to far more than the memory. Photographs have reached that; the limit here is a gigapixel.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2  # an error beyond twice this, a warning before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(stream)


class Header(NamedTuple):
    """What an image file tells before it is decoded.

    Attributes:
        width: pixels.
        height: pixels.
        grey: whether it has one channel.
        deep: whether it has 16 bits.
    """

    width: int
    height: int
    grey: bool
    deep: bool


def read_header(stream: BinaryIO) -> Header:
    """Reads size and kind of an image; the size is that before the camera's rotation."""
    with open_image(stream) as image:
        return Header(*image.size, image.mode in _GREY_MODES, image.mode in _16_BIT_MODES)


def brightest(stream: BinaryIO) -> int:
    """Returns the largest value of an image of 16 bits, 0 for any other image."""
    with open_image(stream) as image:
        return int(np.asarray(image).max()) if image.mode in _16_BIT_MODES else 0


def white_of(largest: int) -> int:
    """Returns the value that becomes white in a data set of 16-bit images.

    Cameras and scanners store 8, 10, 12 or 14 bits in 16, unscaled: divided by 65535 they would be
    black.

    Args:
        largest: value in all images of 16 bits; 0: there are none.

    Returns:
        The lowest of 255, 1023, 4095, 16383 and 65535 that is not below it; 0 for 0.
    """
    return next((white for white in _WHITES if largest <= white), _WHITES[-1])


def read_image(stream: BinaryIO, image_size: int, white: int = 65535) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 1] if it is grey, else [H, W, 3]; see `grey_or_rgb`.

    `image_size` > 0 resizes the whole image to that many pixels per side (bilinear, antialiased,
    the aspect ratio is not kept).
    """
    from PIL import Image

    with open_image(stream) as image:
        image = grey_or_rgb(image, white)
    if image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, -1)


def grey_or_rgb(image: Any, white: int = 65535, upright: bool = True) -> Any:
    """Decodes an open Pillow image of any mode to mode L if it is grey, else to RGB.

    16 bits are scaled to 8 so that `white` (0: 65535) becomes 255, transparent parts become white
    (what they look like on a page), a palette or CMYK becomes RGB, the camera's rotation is applied
    unless `upright` is False, and an animation is reduced to its first frame.
    """
    from PIL import Image

    image.load()
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    image = _upright(image) if upright else image
    if image.mode == "F":
        image = Image.fromarray(to_uint8(np.asarray(image), 1))
    elif image.mode in _16_BIT_MODES:
        values = np.asarray(image)
        if values.max() <= _WHITES[-1]:
            values = np.minimum(values, white or _WHITES[-1])
        image = Image.fromarray(to_uint8(values, white or _WHITES[-1]))
    elif image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def orientation(image: Any) -> int:
    """Returns the camera's rotation of an open image, 1 to 8 as EXIF counts; 1 where none is told."""
    from PIL import ExifTags

    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that is damaged says nothing about the pixels
        return 1
    return found if found in range(1, 9) else 1


def _upright(image: Any) -> Any:
    """Applies the camera's rotation.

    Not Pillow's own `exif_transpose`: it also writes the EXIF anew, which fails for sound photographs
    whose tags are of unusual types.
    """
    from PIL import Image

    turn = Image.Transpose
    turns = (
        *(None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM),
        *(turn.TRANSPOSE, turn.ROTATE_270, turn.TRANSVERSE, turn.ROTATE_90),
    )
    needed = turns[orientation(image) - 1]
    if needed is None:
        return image
    transparency = image.info.get("transparency")
    image = image.transpose(needed)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def stack(images: list[np.ndarray]) -> np.ndarray:
    """Stacks images of one size; grey ones get 3 equal channels if any has colour."""
    channels = max(image.shape[2] for image in images)
    stacked = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for target, image in zip(stacked, images):
        target[...] = image
    return stacked


def resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes uint8 [n, H, W, C] with any number of channels to `image_size`, unless that is 0."""
    from PIL import Image

    if not image_size or images.shape[1:3] == (image_size, image_size):
        return images
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for target, image in zip(resized, images):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            target[..., channel] = plane.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return resized


def to_uint8(values: np.ndarray, full_scale: float) -> np.ndarray:
    """Maps 0..full_scale to 0..255, rounded; ValueError for values outside (or NaN)."""
    if not (values.min() >= 0 and values.max() <= full_scale):
        raise ValueError(f"values from {values.min()} to {values.max()} exceed 0 to {full_scale}")
    return np.round(values * np.float32(255 / full_scale)).astype(np.uint8)


def reason(error: Exception) -> str:
    """Returns why an image cannot be used, given what its decoder raised."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # would name the open stream, not the file
        return "its content is of no known kind"
    return first_line(error).rstrip(".")

"""Decoding of image files of every mode to 8-bit grey or RGB, and resizing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from ddarts_jax.errors import UserError

_T = TypeVar("_T")

_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA", "F", *_16_BIT_MODES)


def read_file(file: Path, read: Callable[[BinaryIO], _T]) -> _T:
    """Applies `read` to the open file; UserError naming the file where that fails."""
    try:
        with open(file, "rb") as stream:
            return read(stream)
    except Exception as error:  # Corrupt images make Pillow's decoders raise nearly anything.
        raise UserError(
            f"Cannot read {file} as an image: {reason(error)}; repair or remove it."
        ) from error


def read_size(stream: BinaryIO) -> tuple[int, int]:
    """Reads width and height of an image from its header."""
    from PIL import Image

    with Image.open(stream) as image:
        return image.size


def read_image(stream: BinaryIO, image_size: int) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 1] if it is grey, else [H, W, 3]; see `grey_or_rgb`.

    `image_size` > 0 resizes the whole image to that many pixels per side (bilinear, antialiased,
    the aspect ratio is not kept).
    """
    from PIL import Image

    with Image.open(stream) as image:
        image = grey_or_rgb(image)
    if image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, -1)


def grey_or_rgb(image: Any) -> Any:
    """Decodes an open Pillow image of any mode, in place, to mode L if it is grey, else to RGB.

    16 bits are scaled to 8, transparent parts become white (what they look like on a page), a
    palette or CMYK becomes RGB, the camera's rotation is applied, and an animation is reduced to
    its first frame.
    """
    from PIL import Image, ImageOps

    image.load()
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        image = Image.fromarray(to_uint8(np.asarray(image), 1))
    elif image.mode in _16_BIT_MODES:
        image = Image.fromarray(to_uint8(np.asarray(image), 65535))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


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
    """Returns the first line of an exception, or its type where it says nothing."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # would name the open stream, not the file
        return "its content is of no known kind"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

"""Crops of encoded images: a box of the image, decoded and resized at once."""

import io
import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from ddarts_jax.data import decoding

CENTRAL = 224 / 256  # share of the shorter side that the central crop keeps, as for ImageNet
_TRIES = 10  # boxes drawn for a random crop until one fits, as in torchvision
_RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height of a random crop


def crop(
    encoded: bytes,
    box: Callable[[int, int], Sequence[float]],
    size: int,
    white: int = 65535,
) -> np.ndarray:
    """Decodes an image of any mode and resizes a box of it, bilinearly and antialiased.

    Args:
        encoded: content of an image file.
        box: `(width, height) -> (left, top, right, bottom)` of the upright image, in pixels.
        size: pixels per side of the result.
        white: see `decoding.grey_or_rgb`.

    Returns:
        uint8 [size, size, 3], red, green, blue.
    """
    from PIL import Image

    with decoding.open_image(io.BytesIO(encoded)) as image:
        sideways = decoding.orientation(image) in (5, 6, 7, 8)
        width, height = image.size[::-1] if sideways else image.size
        left, top, right, bottom = box(width, height)
        # A JPEG can be decoded at 1/2, 1/4, 1/8 of its size, much quicker; the box stays larger
        # than `size`. Other kinds of image ignore this.
        shrink = max(1, min(right - left, bottom - top) / size)
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
        image = decoding.grey_or_rgb(image, white)
    if image.mode != "RGB":
        image = image.convert("RGB")
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, right * x, bottom * y)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))


def central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Returns the central square of 7/8 of the shorter side: resized to 256 and cropped to 224."""
    side = CENTRAL * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(
    generator: random.Random, width: int, height: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a box of random area, aspect and place, as torchvision's RandomResizedCrop does.

    The share of the area is uniform, the aspect log-uniform, the place uniform. A box that does not
    fit is drawn again; after ten tries it is the largest central one that the aspect allows.

    Returns:
        left, top, right, bottom.
    """
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            # Python promises the same numbers in all versions only for `random` itself.
            left, top = (int(generator.random() * (room + 1)) for room in (width - w, height - h))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h

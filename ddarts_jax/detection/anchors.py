"""Anchors: the boxes of fixed shapes, on a grid for each level, that a detector's output refers to.

They are NumPy arrays, constants of the program that is traced with them.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # height / width
_MULTIPLE = 32  # of which the sides of padded images are multiples in MMDetection, in pixels


def octaves(smallest: float, count: int) -> tuple[float, ...]:
    """`count` scales that divide an octave evenly, from the smallest on (RetinaNet, section 4)."""
    return tuple(smallest * 2 ** (k / count) for k in range(count))


def grid(
    size: tuple[int, int], stride: int, scales: Sequence[float], rounded: bool = False
) -> np.ndarray:
    """The anchors of one level, ordered by y, x, ratio and scale.

    Their centres are at (x stride, y stride), which is not where the pixels' centres are (MMDetection
    and torchvision).

    Args:
        size: height and width of the level's features.
        stride: pixels from one position to the next.
        scales: square roots of the areas, in strides.
        rounded: whether scales and corners are whole pixels, as torchvision has them.

    Returns:
        float32 [height * width * ratios * scales, 4].
    """
    sides = np.array([stride * scale for scale in scales])
    sides = np.float32(np.floor(sides) if rounded else sides)
    stretch = np.sqrt(np.float32(RATIOS))[:, None]
    shapes = np.stack([1 / stretch * sides, stretch * sides], -1).reshape(-1, 2)
    corners = np.concatenate([-shapes, shapes], -1) / 2
    corners = np.round(corners) if rounded else corners
    centres = _centres(size, stride)
    return (np.tile(centres, 2)[:, None] + corners).reshape(-1, 4)


def _centres(size, stride) -> np.ndarray:
    """(x, y) of a level's positions: float32 [height * width, 2]."""
    y, x = np.indices(size, np.float32) * np.float32(stride)
    return np.stack([x, y], -1).reshape(-1, 2)


def in_image(size: tuple[int, int], stride: int, count: int, image):
    """Which anchors of one level have their centre in the image and not in the padding beside it.

    The image's sides are first rounded up to multiples of 32, as MMDetection pads images.

    Args:
        size: height and width of the level's features.
        stride: pixels from one position to the next.
        count: anchors of each position.
        image: int32 [2], the image's height and width.

    Returns:
        bool [height * width * count].
    """
    height, width = -(-image // _MULTIPLE) * _MULTIPLE
    x, y = _centres(size, stride).T
    return jnp.repeat((x < width) & (y < height), count)

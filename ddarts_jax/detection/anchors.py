"""Anchors: the boxes of fixed shapes, on a grid for each level, that a detector's output refers to.

They are NumPy arrays, constants of the program that is traced with them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
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


@dataclasses.dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid (static and hashable).

    Attributes:
        strides: of the levels, in pixels, the finest first.
        scales: square roots of the areas, in strides.
        rounded: see `grid`.
        over_padding: whether anchors beside the image take part in the training.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    rounded: bool
    over_padding: bool

    def of(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The anchors of levels of these heights and widths, float32 [N, 4] each; see `grid`."""
        return [
            grid(size, stride, self.scales, self.rounded)
            for size, stride in zip(sizes, self.strides, strict=True)
        ]

    def counted(self, sizes: Sequence[tuple[int, int]], image):
        """Which anchors of all levels take part in the training on an image of a size [2]."""
        if self.over_padding:
            return True
        count = len(RATIOS) * len(self.scales)
        inside = [
            in_image(size, stride, count, image)
            for size, stride in zip(sizes, self.strides, strict=True)
        ]
        return jnp.concatenate(inside)


class Output(NamedTuple):
    """What is said of one level's anchors.

    Attributes:
        logits: float32 [B, H, W, A, classes].
        deltas: float32 [B, H, W, A, 4], see `boxes.encode`.
    """

    logits: jax.Array
    deltas: jax.Array

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the level."""
        return self.logits.shape[1:3]

    def flat(self) -> tuple[jax.Array, jax.Array]:
        """The same with all anchors on one axis: [B, H W A, classes] and [B, H W A, 4]."""
        return tuple(x.reshape(x.shape[0], -1, x.shape[-1]) for x in self)


def output(logits, deltas, count: int) -> Output:
    """Splits channels [B, H, W, A n] of convolutions, ordered by anchor, for A = `count` anchors."""
    by_anchor = [x.reshape(*x.shape[:3], count, -1) for x in (logits, deltas)]
    return Output(*(x.astype(jnp.float32) for x in by_anchor))

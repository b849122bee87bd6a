"""RoIAlign: features of equally many bins for boxes of any size (He et al. 2017, "Mask R-CNN").

A box reads one level of a feature pyramid, the coarser the larger it is. Each bin of it is the mean of
2 x 2 samples, read bilinearly between the centres of the level's positions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddarts_jax.detection import boxes as bx
from ddarts_jax.distributed import sharding

_SAMPLES = 2  # of each bin, along each side


def levels_of(boxes, finest: float, count: int):
    """Chooses the level that each box reads, by its size (Lin et al. 2017, equation 1).

    Args:
        boxes: float32 [..., 4].
        finest: side in pixels, as the square root of a box's area, from twice which on the second
            level is read; from four times on the third, and so on.
        count: number of levels.

    Returns:
        int32 [...], floor(log2(square root of the area / finest)), but one of the levels.
    """
    # As in torchvision, a side that rounding has made a little too small still counts.
    level = jnp.floor(jnp.log2(jnp.sqrt(bx.area(boxes)) / finest) + 1e-6)
    return jnp.clip(level, 0, count - 1).astype(jnp.int32)


def roi_align(
    features: Sequence,
    boxes,
    strides: Sequence[int],
    size: int,
    *,
    finest: float,
    aligned: bool = True,
):
    """Reads the features of boxes; the gradient reaches the features only.

    Args:
        features: of the levels, the finest first, [B, h, w, C] each.
        boxes: float32 [B, T, 4], in pixels of the canvas.
        strides: pixels from one position of each level to the next.
        size: bins of a box along each side.
        finest: see `levels_of`.
        aligned: whether positions' centres are in the middle of the pixels that they stand for; if not
            they are in the corner, and a box has sides of one position at least (torchvision's
            detectors).

    Returns:
        [B, T, size, size, C], of the features' dtype; 0 where a sample is more than one position
        outside of the level.
    """
    shapes = [level.shape[1:3] for level in features]
    height, width = np.array(shapes, np.int32).T
    first = np.cumsum([0, *(height * width)], dtype=np.int32)[:-1]
    by_level = first, width, height, np.float32(1) / np.array(strides, np.float32)
    flat = [level.reshape(level.shape[0], -1, level.shape[-1]) for level in features]

    def read(flat, boxes):
        level = levels_of(boxes, finest, len(shapes))
        first, width, height, scale = (jnp.asarray(each)[level, None] for each in by_level)
        corners = boxes * scale - (0.5 if aligned else 0)
        rows = _neighbours(corners[:, 1::2], height, size, aligned)
        columns = _neighbours(corners[:, ::2], width, size, aligned)
        # In float32, so that the gradients of overlapping boxes add up in it.
        wide = flat.astype(jnp.float32)
        samples = 0.0
        for row, of_row in rows:
            for column, of_column in columns:
                place = (first + row * width)[:, :, None] + column[:, None]
                weight = of_row[:, :, None] * of_column[:, None]
                samples += weight[..., None] * wide.at[place].get(mode="promise_in_bounds")
        bins = samples.reshape(-1, size, _SAMPLES, size, _SAMPLES, flat.shape[-1])
        return bins.mean((2, 4)).astype(flat.dtype)

    with jax.named_scope("roi_align"):
        return sharding.map_images(read, jnp.concatenate(flat, 1), lax.stop_gradient(boxes))


def steps(size: int) -> np.ndarray:
    """Where the samples of `size` bins lie along a side of 1: float32 [size * _SAMPLES]."""
    count = size * _SAMPLES
    return (np.arange(count, dtype=np.float32) + 0.5) / np.float32(count)


def _neighbours(ends, length, size, aligned):
    """The two positions between which each sample lies along one side of the boxes.

    Args:
        ends: float32 [T, 2], both ends of the side, in positions.
        length: int32 [T, 1], number of positions of the level.
        size: number of bins.
        aligned: see `roi_align`.

    Returns:
        Twice int32 [T, size * _SAMPLES], a position, and float32 of the same shape, its weight.
    """
    side = ends[:, 1:] - ends[:, :1]
    side = side if aligned else jnp.maximum(side, 1)
    at = ends[:, :1] + side * steps(size)
    inside = (at >= -1) & (at <= length)
    at = jnp.clip(at, 0, length - 1)
    low = jnp.floor(at).astype(jnp.int32)
    part = at - low
    high = jnp.minimum(low + 1, length - 1)
    return (low, jnp.where(inside, 1 - part, 0)), (high, jnp.where(inside, part, 0))

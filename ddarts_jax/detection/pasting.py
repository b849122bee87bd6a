"""Masks of detections, 28 x 28 in their boxes, as pixels of the original image; on the host."""

import numpy as np

from ddarts_jax.detection.outlines import interpolated, rle_of

_THRESHOLD = 0.5  # probability from which on a pixel belongs to the object


def to_rle(
    probabilities: np.ndarray, boxes: np.ndarray, height: int, width: int
) -> list[dict[str, object]]:
    """Pastes masks into their image.

    Args:
        probabilities: float [n, S, S], of each object within its box.
        boxes: float [n, 4], x1, y1, x2, y2 in pixels of the image.
        height: of the image.
        width: likewise.

    Returns:
        An RLE of each mask as `outlines.rle_of`, of the pixels from a probability of 0.5 on.
    """
    found = []
    for own, box in zip(probabilities, boxes):
        corner, values = pasted(own, box, height, width)
        found.append(rle_of(values >= _THRESHOLD, corner, (height, width)))
    return found


def masks_of(probabilities: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pastes masks into their image, bool [n, height, width]; see `to_rle`."""
    found = np.zeros((len(boxes), height, width), bool)  # memory that is not written is not taken
    for own, part, box in zip(found, probabilities, boxes):
        (y, x), values = pasted(part, box, height, width)
        own[y : y + values.shape[0], x : x + values.shape[1]] = values >= _THRESHOLD
    return found


def pasted(
    probabilities: np.ndarray, box: np.ndarray, height: int, width: int
) -> tuple[tuple[int, int], np.ndarray]:
    """Reads a mask at the centres of an image's pixels, bilinearly, with zeros around it.

    As Detectron2 and MMDetection do. The box is not rounded, which would cost precision.

    Args:
        probabilities: float [S, S], whose pixels fill the box.
        box: float [4], x1, y1, x2, y2 in pixels of the image; it may reach over the border.
        height: of the image.
        width: likewise.

    Returns:
        y and x of the first pixel, and float32 [h, w], the part of the image that is not all 0.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
    y, vertical = _pixels(y1, y2, height, probabilities.shape[0])
    x, horizontal = _pixels(x1, x2, width, probabilities.shape[1])
    return (y, x), interpolated(interpolated(probabilities, vertical).T, horizontal).T


def _pixels(start: float, stop: float, size: int, count: int) -> tuple[int, np.ndarray]:
    """Returns the first row (or column) that reads from a mask, and where each does, float64 [n]."""
    side = max(stop - start, 1e-6)  # a box that was cut off may have none
    positions = (np.arange(size) + 0.5 - start) / side * count - 0.5
    inside = np.flatnonzero((positions > -1) & (positions < count))
    return int(inside[0]) if len(inside) else 0, positions[inside]

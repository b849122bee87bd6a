"""Image files for an exported detector: onto its canvas, and boxes back to the files' pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ddarts_jax.detection import canvases
from ddarts_jax.detection.canvas_stream import transformed
from ddarts_jax.detection.draw_detections import Boxes
from ddarts_jax.detection.instances import Objects


def resized(size: Sequence[int], preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Computes the size of an image on the canvas as the training's stream does.

    Args:
        size: height and width of the image.
        preprocessing: of the export.

    Returns:
        int32 [2]; more than the canvas holds of images that the training would have had another for.
    """
    return canvases.resized(size, preprocessing["short_side"], preprocessing["long_side"])


def place(image: np.ndarray, preprocessing: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image, puts it into the top left corner of the canvas, and normalises it.

    An image that is too large for the canvas is made smaller, see `canvases.fitted`.

    Args:
        image: uint8 [h, w, C].
        preprocessing: of the export.

    Returns:
        float32 [H, W, C], 0 beside the image, and int32 [2], the image's height and width there.
    """
    canvas = preprocessing["canvas"]
    height, width = size = canvases.fitted(resized(image.shape[:2], preprocessing), canvas)
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int32))
    image, _ = transformed(image, nothing, size, flipped=False)
    mean, std = (np.array(preprocessing[key], np.float32) for key in ("mean", "std"))
    placed = np.zeros((*canvas, image.shape[2]), np.float32)
    placed[:height, :width] = (image.astype(np.float32) / 255 - mean) / std
    return placed, size


def find(forward: Callable, image: np.ndarray, preprocessing: Mapping[str, Any]) -> Boxes:
    """Finds the objects in an image.

    Args:
        forward: the exported program: canvases [1, H, W, C] and sizes [1, 2] to the arrays of
            `found.Detections`.
        image: uint8 [h, w, C].
        preprocessing: of the export.

    Returns:
        The objects, the most probable first, with boxes in pixels of the image.
    """
    placed, size = place(image, preprocessing)
    boxes, scores, labels, count = (
        np.asarray(part)[0] for part in forward(placed[None], size[None])
    )
    scale = (np.array(image.shape[:2]) / size)[[1, 0, 1, 0]]
    return Boxes(boxes[:count] * scale, labels[:count], scores[:count])

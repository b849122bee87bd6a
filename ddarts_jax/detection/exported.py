"""Image files for an exported detector: onto its canvas, and objects back to the files' pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.detection import canvases, pasting
from ddarts_jax.detection.canvas_stream import transformed
from ddarts_jax.detection.draw_detections import Boxes
from ddarts_jax.detection.instances import Objects


class Found(NamedTuple):
    """The objects that were found in an image, the most probable first.

    Attributes:
        boxes: float [k, 4], x1, y1, x2, y2 in pixels of the image.
        labels: integers [k].
        scores: float [k], probabilities.
        masks: float [k, S, S], for each part of the box the probability that the object covers it; None
            of a detector of boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


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


def find(forward: Callable, image: np.ndarray, preprocessing: Mapping[str, Any]) -> Found:
    """Finds the objects in an image.

    Args:
        forward: the exported program: canvases [1, H, W, C] and sizes [1, 2] to the arrays of
            `found.Detections`, without masks if there are none.
        image: uint8 [h, w, C].
        preprocessing: of the export.
    """
    placed, size = place(image, preprocessing)
    arrays = (np.asarray(part)[0] for part in forward(placed[None], size[None]))
    return of_image(*arrays, scale=image.shape[:2] / size)


def of_image(boxes, scores, labels, count, masks=None, *, scale: np.ndarray) -> Found:
    """Returns what was found in one image of a batch.

    Args:
        boxes: float [limit, 4], in pixels of the canvas, as all else of `found.Detections`.
        scores: float [limit].
        labels: integers [limit].
        count: number of objects.
        masks: float [limit, S, S]; None: there are none.
        scale: float [2], pixels of the image to one of the canvas, vertically and horizontally.
    """
    parts = (boxes * scale[[1, 0, 1, 0]], labels, scores, masks)
    return Found(*(None if part is None else part[:count] for part in parts))


def shown(found: Found, score: float, size: Sequence[int]) -> Boxes:
    """Returns the objects from a probability on as they are drawn, masks as pixels of the image.

    Args:
        found: in an image.
        score: the least probability.
        size: height and width of the image.
    """
    boxes, labels, scores, masks = (
        None if part is None else part[found.scores >= score] for part in found
    )
    pixels = None if masks is None else pasting.masks_of(masks, boxes, *size)
    return Boxes(boxes, labels, scores, pixels)

"""What a detector finds in images, and what it is asked for: the same for every head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddarts_jax.detection import boxes as bx


class Options(NamedTuple):
    """Which boxes count as detections.

    Attributes:
        score: probability above which a box counts.
        nms: IoU above which the worse of two boxes of a class is suppressed.
        per_level: boxes of each level of the pyramid that are looked at, the most probable ones.
        limit: objects of each image at most.
    """

    score: float = 0.05
    nms: float = 0.5
    per_level: int = 1000
    limit: int = 100


class Detections(NamedTuple):
    """The objects found in each image, the best first, then padding.

    Attributes:
        boxes: float32 [B, limit, 4], in pixels of the canvas; 0 where there is none.
        scores: float32 [B, limit], probabilities; likewise.
        classes: int32 [B, limit]; -1 where there is none.
        count: int32 [B], number of objects.
        masks: float32 [B, limit, 28, 28], for each part of the box the probability that the object
            covers it; likewise. None of a detector of boxes alone.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    count: jax.Array
    masks: jax.Array | None = None


def best(boxes, scores, classes, valid, options: Options) -> Detections:
    """The objects of one image among candidates, by non-maximum suppression.

    Args:
        boxes: float32 [N, 4].
        scores: float32 [N].
        classes: int32 [N].
        valid: bool [N], the candidates that count.
        options: IoU and number of objects.

    Returns:
        Arrays without the axis of images, no masks.
    """
    kept, count = bx.nms(boxes, scores, classes, valid, options.nms, options.limit)
    real = jnp.arange(options.limit) < count
    return Detections(
        jnp.where(real[:, None], boxes[kept], 0),
        jnp.where(real, scores[kept], 0),
        jnp.where(real, classes[kept], -1),
        count,
    )

"""Boxes: areas, overlaps, their coding relative to other boxes, and suppression of what overlaps.

A box is (x1, y1, x2, y2) in pixels, x to the right, y down. Coordinates are continuous: a box that
covers one pixel has sides of 1. All arrays of boxes are float32.
"""

import math

import jax.numpy as jnp
from jax import lax

# A side is at most this many times that of its anchor, however large its delta (Detectron).
_LARGEST_RATIO = 1000 / 16


def area(boxes):
    """Areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a, b):
    """Intersection over union of every pair of boxes; 0 of two that are empty.

    Args:
        a: [..., N, 4].
        b: [..., M, 4].

    Returns:
        [..., N, M].
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(sides, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def encode(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Describes boxes relative to anchors (R-CNN, appendix C).

    Args:
        boxes: [..., 4], with sides above 0.
        anchors: [..., 4], likewise.
        weights: factors of the four deltas.

    Returns:
        Deltas [..., 4]: the shift of the centre in sides of the anchor, horizontal and vertical, and
        the logarithms of the ratios of the widths and of the heights, times `weights`.
    """
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shifts = (centres - anchor_centres) / anchor_sides
    deltas = jnp.concatenate([shifts, jnp.log(sides / anchor_sides)], -1)
    return deltas * jnp.asarray(weights, deltas.dtype)


def decode(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """The boxes [..., 4] that `encode` has described by deltas [..., 4] relative to anchors [..., 4].

    A side of more than 1000 / 16 times the anchor's is cut to that.
    """
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = anchor_centres + deltas[..., :2] * anchor_sides
    sides = anchor_sides * jnp.exp(jnp.minimum(deltas[..., 2:], math.log(_LARGEST_RATIO)))
    return jnp.concatenate([centres - sides / 2, centres + sides / 2], -1)


def _centres_and_sides(boxes):
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides


def clip(boxes, sizes):
    """Cuts boxes off at the borders of their image.

    Args:
        boxes: [..., N, 4].
        sizes: [..., 2], integers, the image's height and width.
    """
    height, width = sizes[..., 0, None], sizes[..., 1, None]
    borders = jnp.stack([width, height, width, height], -1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, borders)


def nms(boxes, scores, classes, valid, threshold: float, limit: int):
    """Greedy non-maximum suppression within classes: the best boxes that no better one overlaps.

    Box after box, the best score first, is kept unless a box kept before it has the same class and an
    IoU above the threshold with it; of equal scores the lower index comes first. Here, all boxes at
    once are suppressed by those kept in the round before, until nothing changes: after n rounds the
    first n boxes are final, and mostly all are after ten or so.

    Args:
        boxes: [N, 4].
        scores: [N].
        classes: [N], integers; for proposals, the level. They are compared: boxes shifted apart by
            class, as other programs do it, lose digits of their IoU.
        valid: bool [N]; other boxes are neither kept nor suppress.
        threshold: IoU, in (0, 1).
        limit: number of boxes that are kept at most.

    Returns:
        int32 [limit], indices of the kept, the best first, then zeros; and their number, int32.
    """
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf))  # stable
    boxes, classes, valid = boxes[order], classes[order], valid[order]
    place = jnp.arange(len(boxes))
    suppresses = (
        (iou(boxes, boxes) > threshold) & (classes[:, None] == classes) & (place[:, None] < place)
    )

    def suppress(kept):
        return valid & ~jnp.any(suppresses & kept[:, None], axis=0)

    _, kept = lax.while_loop(
        lambda rounds: jnp.any(rounds[0] != rounds[1]),
        lambda rounds: (rounds[1], suppress(rounds[1])),
        (valid, suppress(valid)),
    )
    first = min(limit, len(boxes))
    # Of equal values top_k takes the first: those kept, in order.
    is_kept, places = lax.top_k(kept.astype(jnp.int32), first)
    indices = jnp.where(is_kept, order[places], 0)
    return jnp.pad(indices, (0, limit - first)).astype(jnp.int32), jnp.sum(is_kept)

"""Which ground truth each anchor, or each proposal, is trained to find."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ddarts_jax.detection import boxes as bx

BACKGROUND, NEITHER = -1, -2


class GroundTruth(NamedTuple):
    """The objects of a batch of images.

    Attributes:
        boxes: float32 [B, G, 4], in pixels of the canvas.
        labels: int32 [B, G], their classes; -1 where there is no object.
        sizes: int32 [B, 2], height and width of the images, which lie top left on the canvas.
        masks: uint8 [B, G, 112, 112], for each part of the object's box how much of it the object
            covers, 255 all; None: the boxes alone are known.
    """

    boxes: jax.Array
    labels: jax.Array
    sizes: jax.Array
    masks: jax.Array | None = None


def match(
    anchors,
    boxes,
    real,
    counted=True,
    *,
    positive: float,
    background: float,
    least: float | None = None,
):
    """Gives each anchor of one image the ground truth that it overlaps most, if it does so enough.

    The rule is torchvision's. An anchor that attains the largest IoU of some ground truth, at least
    `least` and above 0, belongs to the ground truth that it overlaps most *itself*. (In MMDetection it
    belongs to the one whose best it is; and in both programs a ground truth that touches no anchor
    makes every anchor that touches nothing a positive one.)

    Args:
        anchors: float32 [N, 4].
        boxes: float32 [G, 4], the ground truth; of equally good ones the first is taken.
        real: bool [G], false for padding, which nothing matches.
        counted: bool [N]; others belong to nothing and are nobody's best.
        positive: IoU from which on an anchor belongs to its best ground truth.
        background: IoU below which an anchor belongs to the background.
        least: see above; None: no anchor below `positive` belongs to a ground truth.

    Returns:
        int32 [N]: the index of a ground truth, `BACKGROUND` or `NEITHER`.
    """
    overlaps = jnp.where(real[:, None] & counted, bx.iou(boxes, anchors), 0)
    # Computed once: equal numbers are looked for below, and a program that computes them for each use
    # may round them differently.
    overlaps = lax.optimization_barrier(overlaps)
    best, index = overlaps.max(0), jnp.argmax(overlaps, 0)
    matched = best >= positive
    if least is not None:
        largest = overlaps.max(1, keepdims=True)
        wanted = (largest > 0) & (largest >= least)
        matched |= jnp.any(wanted & (overlaps == largest), 0)
    rest = jnp.where(best < background, BACKGROUND, NEITHER)
    found = jnp.where(matched, index, rest)
    return jnp.where(counted, found, NEITHER).astype(jnp.int32)


def sample(found, priorities, count: int, most: int):
    """Draws the anchors, or the proposals, of one image that are trained.

    Of the positive ones and then of the background those of the highest priorities are taken, of equal
    ones the first; so a random draw is one of random priorities.

    Args:
        found: int32 [N], from `match`.
        priorities: float32 [N].
        count: how many are taken, if there are so many.
        most: how many of them are positive at most; no more than `count`.

    Returns:
        int32 [count], indices of those taken, the positive ones first, then the background, then zeros;
        and bool [count], false for those zeros.
    """

    def ranked(wanted, number):
        number = min(number, len(found))
        best, index = lax.top_k(jnp.where(wanted, priorities, -jnp.inf), number)
        real = jnp.sum(best > -jnp.inf)
        return jnp.pad(index, (0, count - number)), real

    positive, positives = ranked(found >= 0, most)
    background, others = ranked(found == BACKGROUND, count)
    place = jnp.arange(count)
    behind = jnp.maximum(place - positives, 0)
    index = jnp.where(place < positives, positive, background[behind])
    taken = place < positives + others
    return jnp.where(taken, index, 0).astype(jnp.int32), taken

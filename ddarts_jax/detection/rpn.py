"""The region proposal network: boxes that may hold an object of any class (Ren et al. 2015).

A convolution over every level of a feature pyramid says of each anchor how likely an object is there, and
moves the anchor onto it. The best of these boxes are proposals, which other heads look at again.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.detection import anchors, losses, matching
from ddarts_jax.detection import boxes as bx
from ddarts_jax.detection.anchors import Anchors, Output
from ddarts_jax.detection.convolution import Convolution
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.distributed import sharding

_ANCHORS = len(anchors.RATIOS)  # of each position
_POSITIVE, _BACKGROUND = 0.7, 0.3  # IoU of an anchor and its ground truth
_SMALLEST = 1e-3  # side of a proposal, in pixels; others lie beside the image


class Head(nnx.Module):
    """The network, the same for all levels: a 3x3 convolution with ReLU, then two of 1x1."""

    def __init__(self, channels: int):
        self.hidden = Convolution(channels, channels, 3)
        self.logits = Convolution(channels, _ANCHORS, 1)
        self.deltas = Convolution(channels, _ANCHORS * 4, 1)

    def __call__(self, features: Sequence[jax.Array]) -> list[Output]:
        """Maps features [B, H, W, channels] of the levels to one logit and four deltas an anchor."""
        hidden = [jax.nn.relu(self.hidden(x)) for x in features]
        return [anchors.output(self.logits(x), self.deltas(x), _ANCHORS) for x in hidden]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How proposals are trained and chosen.

    Attributes:
        anchors: of all levels, of one scale.
        samples: anchors of an image that are trained, at most half of them positive.
        least: see `matching.match`.
        beta: of the loss of deltas, see `losses.smooth_l1`.
        nms: IoU above which the worse of two boxes of a level is suppressed.
        per_level: boxes of each level that are looked at in training, the most probable ones.
        limit: proposals of an image.
    """

    anchors: Anchors
    samples: int
    least: float
    beta: float
    nms: float
    per_level: int
    limit: int


class Losses(NamedTuple):
    """The two losses of a batch, float32 scalars."""

    objectness: jax.Array
    boxes: jax.Array


def loss(settings: Settings, outputs: Sequence[Output], truth: GroundTruth, priorities) -> Losses:
    """The losses of a batch, divided by the number of all anchors that are sampled.

    The cross-entropy is that of all sampled anchors, the difference of the deltas that of the positive
    ones.

    Args:
        settings: of the network.
        outputs: from `Head`.
        truth: the objects.
        priorities: float32 [B, N] for all anchors, which of them are sampled; see `matching.sample`.
    """
    sizes = [output.size for output in outputs]
    with jax.named_scope("matching"):
        labels, deltas = sharding.map_images(
            lambda *one: _targets(settings, sizes, *one), truth, priorities
        )
    own_logits, own_deltas = _joined(outputs)
    sampled = labels != matching.NEITHER
    positive = labels >= 0
    entropy = jax.nn.softplus(jnp.where(positive, -own_logits, own_logits))
    apart = losses.smooth_l1(own_deltas, deltas, settings.beta).sum(-1)
    count = jnp.maximum(sampled.sum(), 1)
    return Losses(
        jnp.where(sampled, entropy, 0).sum() / count, jnp.where(positive, apart, 0).sum() / count
    )


def _joined(outputs):
    """Logits [B, N] and deltas [B, N, 4] of all levels."""
    logits, deltas = zip(*(output.flat() for output in outputs))
    return jnp.concatenate(logits, 1)[..., 0], jnp.concatenate(deltas, 1)


def _targets(settings, sizes, truth, priorities):
    """What the anchors of one image should say.

    Args:
        settings: of the network.
        sizes: height and width of each level.
        truth: of one image.
        priorities: float32 [N].

    Returns:
        int32 [N]: the index of a ground truth, `matching.BACKGROUND`, or `matching.NEITHER` where the
        anchor is not sampled; float32 [N, 4], the deltas, 0 of anchors without a ground truth.
    """
    every = np.concatenate(settings.anchors.of(sizes))
    matched = matching.match(
        *(every, truth.boxes, truth.labels >= 0, settings.anchors.counted(sizes, truth.sizes)),
        positive=_POSITIVE,
        background=_BACKGROUND,
        least=settings.least,
    )
    index, taken = matching.sample(matched, priorities, settings.samples, settings.samples // 2)
    # Padding is written behind the end, that is nowhere.
    index = jnp.where(taken, index, len(every))
    sampled = jnp.zeros(len(every), bool).at[index].set(True, mode="drop")
    matched = jnp.where(sampled, matched, matching.NEITHER)
    own = jnp.where((matched >= 0)[:, None], truth.boxes[matched], every)
    return matched, bx.encode(own, every)


class Proposals(NamedTuple):
    """Boxes that may hold an object, the most probable first, then padding.

    Attributes:
        boxes: float32 [B, limit, 4], in pixels of the canvas; 0 where there is none.
        valid: bool [B, limit], where there is one.
    """

    boxes: jax.Array
    valid: jax.Array


def proposals(settings: Settings, outputs: Sequence[Output], sizes, per_level: int) -> Proposals:
    """The best boxes of all levels, without those that a better one of their level overlaps.

    Args:
        settings: of the network.
        outputs: from `Head`; no gradient reaches them.
        sizes: int32 [B, 2], height and width of the images, at which boxes are cut off.
        per_level: boxes of each level that are looked at, the most probable ones.
    """
    every = settings.anchors.of([output.size for output in outputs])

    def propose(levels, size):
        levels = [
            _best_of_level(own, *level, size, settings.nms, per_level)
            for own, level in zip(every, levels)
        ]
        boxes, logits = (jnp.concatenate(parts) for parts in zip(*levels))
        logits, best = lax.top_k(logits, min(settings.limit, len(logits)))
        padding = (0, settings.limit - len(best))
        # Not the boxes themselves: the converter to ONNX gives padding of float32 another dtype.
        best, valid = jnp.pad(best, padding), jnp.pad(logits > -jnp.inf, padding)
        return Proposals(jnp.where(valid[:, None], boxes[best], 0), valid)

    with jax.named_scope("proposals"):
        flat = lax.stop_gradient([output.flat() for output in outputs])
        return sharding.map_images(propose, flat, sizes)


def _best_of_level(own, logits, deltas, size, threshold, count):
    """The boxes of one level and image, the most probable first, and their logits, -inf of none.

    Levels are suppressed one by one: all at once would compare every pair of boxes of two levels too.
    """
    logits, best = lax.top_k(logits[:, 0], min(count, len(own)))
    boxes = bx.clip(bx.decode(deltas[best], jnp.asarray(own)[best]), size)
    valid = jnp.all(boxes[:, 2:] - boxes[:, :2] >= _SMALLEST, -1)
    alike = jnp.zeros(len(best), jnp.int32)
    kept, number = bx.nms(boxes, logits, alike, valid, threshold, len(best))
    return boxes[kept], jnp.where(jnp.arange(len(best)) < number, logits[kept], -jnp.inf)

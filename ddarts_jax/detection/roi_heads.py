"""What Mask R-CNN says of proposals: their class, a better box, and a mask (He et al. 2017).

Boxes, scores and losses are float32, layers have the dtype of the features. The classes of boxes are
0 to K - 1; class K, the last, is the background.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.detection import boxes as bx
from ddarts_jax.detection import found, losses, matching, roi_align
from ddarts_jax.detection.convolution import Convolution
from ddarts_jax.detection.found import Detections, Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.rpn import Proposals
from ddarts_jax.distributed import sharding
from ddarts_jax.models.layers import kernel
from ddarts_jax.ops.convolution import convolve

_BOX_BINS, _MASK_BINS = 7, 14  # along each side of a box, of the features that the heads read
MASK_SIDE = 2 * _MASK_BINS  # parts along each side of a box that a mask tells of
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the deltas, see `boxes.encode`
_POSITIVE = 0.5  # IoU of a proposal and its ground truth
_PAIRS = 2000  # of a proposal and a class that are looked at, the most probable ones
_SMALLEST = 1e-2  # side of a detection, in pixels
_UNIT = (0.0, 0.0, 1.0, 1.0)  # a box in place of those that are not there


class BoxHead(nnx.Module):
    """Two layers with ReLU over all features of a box, then its classes and its deltas."""

    def __init__(self, channels: int, width: int, num_classes: int):
        # 1x1 convolutions, so that their gradients are added up over the devices as the others are.
        self.hidden = nnx.List(
            [Convolution(_BOX_BINS**2 * channels, width, 1), Convolution(width, width, 1)]
        )
        self.logits = Convolution(width, num_classes + 1, 1)
        self.deltas = Convolution(width, num_classes * 4, 1)

    def __call__(self, x):
        """Maps [B, T, 7, 7, channels] to float32 [B, T, classes + 1] and [B, T, classes, 4]."""
        x = x.reshape(*x.shape[:2], 1, -1)
        for hidden in self.hidden:
            x = jax.nn.relu(hidden(x))
        logits, deltas = (each(x).astype(jnp.float32) for each in (self.logits, self.deltas))
        return logits[:, :, 0], deltas.reshape(*deltas.shape[:2], -1, 4)


class MaskHead(nnx.Module):
    """Four 3x3 convolutions, one that doubles the size, and one to a mask for each class."""

    def __init__(self, channels: int, num_classes: int):
        self.hidden = nnx.List([Convolution(channels, channels, 3) for _ in range(4)])
        self.doubled = Doubled(channels, channels)
        self.logits = Convolution(channels, num_classes, 1)

    def __call__(self, x, classes):
        """Maps [B, T, 14, 14, channels] to float32 logits [B, T, 28, 28] of one class int32 [B, T]."""
        batch, count = x.shape[:2]
        x = x.reshape(batch * count, *x.shape[2:])
        for hidden in self.hidden:
            x = jax.nn.relu(hidden(x))
        x = self.logits(jax.nn.relu(self.doubled(x)))
        x = own(x.reshape(batch, count, *x.shape[1:]), classes[:, :, None, None])
        return x.astype(jnp.float32)


class Doubled(nnx.Module):
    """A transposed 2x2 convolution of stride 2, with a bias: each position becomes four."""

    def __init__(self, cin: int, cout: int):
        self.kernel = kernel(2, 2, cin, cout)
        self.bias = nnx.Param(np.zeros(cout, np.float32))

    def __call__(self, x):
        """Maps [N, H, W, cin] to [N, 2 H, 2 W, cout]."""
        count, height, width, _ = x.shape
        joined = self.kernel[...].transpose(2, 0, 1, 3).reshape(1, 1, x.shape[-1], -1)
        four = convolve(x, joined).reshape(count, height, width, 2, 2, -1)
        pixels = four.transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, -1)
        return (pixels + self.bias[...]).astype(x.dtype)


def own(x, index):
    """x[..., index] for each place: [..., K] and int32 [...]; 0 where the index is none.

    As a sum, whose gradient is no scatter.
    """
    return jnp.where(index[..., None] == jnp.arange(x.shape[-1]), x, 0).sum(-1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the heads read proposals, and how they are trained.

    Attributes:
        strides: of the pyramid's levels that they read, in pixels, the finest first.
        aligned: see `roi_align.roi_align`.
        num_classes: K.
        finest: see `roi_align.levels_of`, but in strides of the finest level.
        samples: proposals of an image that are trained, at most a quarter of them positive.
        beta: of the loss of deltas, see `losses.smooth_l1`.
    """

    strides: tuple[int, ...]
    aligned: bool
    num_classes: int
    finest: float
    samples: int
    beta: float

    def of_boxes(self, features: Sequence[jax.Array], boxes):
        """Reads the pyramid's features [B, T, 7, 7, C] of boxes [B, T, 4] for `BoxHead`."""
        return self._read(features, boxes, _BOX_BINS)

    def of_masks(self, features: Sequence[jax.Array], boxes):
        """Reads those [B, T, 14, 14, C] for `MaskHead`."""
        return self._read(features, boxes, _MASK_BINS)

    def _read(self, features, boxes, size):
        return roi_align.roi_align(
            *(features[: len(self.strides)], boxes, self.strides, size),
            finest=self.finest * self.strides[0],
            aligned=self.aligned,
        )


class Samples(NamedTuple):
    """The proposals that the heads are trained with; positive ones are among the first quarter.

    Attributes:
        boxes: float32 [B, S, 4].
        labels: int32 [B, S], their classes, `num_classes` of the background; -1 where there is none.
        index: int32 [B, S // 4], the ground truth of each positive one; else below 0.
        deltas: float32 [B, S // 4, 4], how the positive ones should be moved; else 0.
        masks: bool [B, S // 4, 28, 28], what of the positive ones the object covers; None without
            masks of the ground truth.
    """

    boxes: jax.Array
    labels: jax.Array
    index: jax.Array
    deltas: jax.Array
    masks: jax.Array | None


def sample(settings: Settings, proposals: Proposals, truth: GroundTruth, priorities) -> Samples:
    """Chooses the proposals to train with, and what should be said of them.

    The ground truth is among the proposals: there are few good ones at first.

    Args:
        settings: of the heads.
        proposals: of the batch, P of each image.
        truth: the objects, G of each image.
        priorities: float32 [B, P + G], which ones are taken; see `matching.sample`.
    """

    def choose(proposals, truth, priorities):
        real = truth.labels >= 0
        candidates = jnp.concatenate([proposals.boxes, truth.boxes])
        matched = matching.match(
            *(candidates, truth.boxes, real, jnp.concatenate([proposals.valid, real])),
            positive=_POSITIVE,
            background=_POSITIVE,
        )
        quarter = settings.samples // 4
        place, taken = matching.sample(matched, priorities, settings.samples, quarter)
        boxes = jnp.where(taken[:, None], candidates[place], 0)
        index = jnp.where(taken, matched[place], matching.NEITHER)
        labels = jnp.where(index >= 0, truth.labels[index], settings.num_classes)
        index = index[:quarter]
        positive = (index >= 0)[:, None]
        unit = jnp.array(_UNIT)
        inner, outer = (
            jnp.where(positive, each, unit) for each in (boxes[:quarter], truth.boxes[index])
        )
        masks = None
        if truth.masks is not None:
            masks = mask_targets(truth.masks[index], outer, inner) & positive[:, None]
        deltas = bx.encode(outer, inner, _WEIGHTS)
        return Samples(boxes, jnp.where(taken, labels, -1), index, deltas, masks)

    with jax.named_scope("sampling"):
        return sharding.map_images(choose, proposals, truth, priorities)


def mask_targets(crops, outer, inner):
    """What parts of boxes are covered by objects, of which the masks in other boxes are known.

    This is RoIAlign of the masks, with zeros beside them: each part is the mean of 2 x 2 samples. Along
    each side it is a product with a matrix.

    Args:
        crops: uint8 [T, n, n], the masks, 255 where all is covered.
        outer: float32 [T, 4], the boxes that they fill.
        inner: float32 [T, 4], boxes.

    Returns:
        bool [T, 28, 28], whether at least half of each part of `inner` is covered.
    """
    pixels, parts = crops.shape[-1], MASK_SIDE

    def weights(axis):
        """How much each part reads of each pixel along one side: [T, 28, n]."""
        low, high = inner[:, axis, None], inner[:, axis + 2, None]
        start, end = outer[:, axis, None], outer[:, axis + 2, None]
        at = low + (high - low) * roi_align.steps(parts)
        at = (at - start) / (end - start) * pixels - 0.5  # pixels' centres are at whole numbers
        near = jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(pixels)), 0)
        return near.reshape(len(near), parts, -1, pixels).mean(2)

    soft = jnp.einsum(
        *("tiy,tyx,tjx->tij", weights(1), crops.astype(jnp.float32), weights(0)),
        precision=lax.Precision.HIGHEST,
    )
    return soft >= 255 / 2


class BoxLosses(NamedTuple):
    """The two losses of the box head, float32 scalars."""

    classification: jax.Array
    boxes: jax.Array


def box_loss(settings: Settings, logits, deltas, samples: Samples) -> BoxLosses:
    """The losses of a batch, divided by the number of all proposals that are trained.

    The cross-entropy is that of all of them, the difference of the deltas that of the positive ones, of
    their true class.

    Args:
        settings: of the heads.
        logits: float32 [B, S, K + 1], from `BoxHead`.
        deltas: float32 [B, S, K, 4], likewise.
        samples: what they should be.
    """
    labels = samples.labels
    count = jnp.maximum((labels >= 0).sum(), 1)
    entropy = -own(jax.nn.log_softmax(logits), labels)  # 0 where there is none
    positive = samples.index >= 0
    quarter = positive.shape[1]
    of_class = own(deltas[:, :quarter].swapaxes(2, 3), labels[:, :quarter, None])
    apart = losses.smooth_l1(of_class, samples.deltas, settings.beta).sum(-1)
    return BoxLosses(entropy.sum() / count, jnp.where(positive, apart, 0).sum() / count)


def mask_loss(logits, targets, positive):
    """The mean cross-entropy of the masks' parts, over the positive proposals of a batch.

    Args:
        logits: float32 [B, Q, 28, 28], from `MaskHead`, of the true classes.
        targets: [B, Q, 28, 28], bool, or shares from 0 to 1.
        positive: bool [B, Q].

    Returns:
        float32 scalar; 0 where none is positive.
    """
    entropy = jax.nn.softplus(logits) - logits * targets
    count = jnp.maximum(positive.sum(), 1)
    return jnp.where(positive, entropy.mean((2, 3)), 0).sum() / count


def detections(
    settings: Settings, proposals: Proposals, logits, deltas, sizes, options: Options
) -> Detections:
    """Finds the objects, without their masks.

    Args:
        settings: of the heads.
        proposals: of each image, P.
        logits: float32 [B, P, K + 1], from `BoxHead`.
        deltas: float32 [B, P, K, 4], likewise.
        sizes: int32 [B, 2], height and width of the images, at which boxes are cut off.
        options: which boxes count; `per_level` belongs to the proposals.
    """
    classes = settings.num_classes

    def detect(proposals, logits, deltas, size):
        scores = jax.nn.softmax(logits)[:, :classes]
        scores = jnp.where(proposals.valid[:, None], scores, 0).reshape(-1)
        # Most pairs are improbable: all would be a hundred thousand for a suppression to compare. As it
        # goes by the score, those left out are missed only by an image with less than `limit` objects.
        scores, pairs = lax.top_k(scores, min(_PAIRS, len(scores)))
        moved = deltas.reshape(-1, 4)[pairs]
        boxes = bx.clip(bx.decode(moved, proposals.boxes[pairs // classes], _WEIGHTS), size)
        large = jnp.all(boxes[:, 2:] - boxes[:, :2] >= _SMALLEST, -1)
        valid = large & (scores > options.score)
        return found.best(boxes, scores, pairs % classes, valid, options)

    with jax.named_scope("detections"):
        return sharding.map_images(detect, proposals, logits, deltas, sizes)

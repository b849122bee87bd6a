"""RetinaNet above its backbone (Lin et al. 2017, "Focal loss for dense object detection").

Every anchor of every level of a feature pyramid is classified by one tower of convolutions and moved
onto its object by another. The modules are built once and split, as those of `models.network`; what is
computed are pure functions over pytrees:

    net, variables = build(widths, strides, num_classes, key=key)
    outputs = predict(net, variables, features)
    loss(net, outputs, truth)
    detections(net, outputs, sizes)

Losses, boxes and scores are float32, convolutions have the dtype of the features.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.detection import anchors, convolution, losses, matching
from ddarts_jax.detection import boxes as bx
from ddarts_jax.detection.convolution import Convolution
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.pyramid import Pyramid
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.models import layers
from ddarts_jax.models.layers import Variables

_OCTAVE = 3  # anchor scales from one level to the next
_ANCHORS = _OCTAVE * len(anchors.RATIOS)  # of each position
_POSITIVE, _BACKGROUND = 0.5, 0.4  # IoU of an anchor and its ground truth


class Tower(nnx.Module):
    """One head, the same for all levels: 3x3 convolutions with ReLU, then one to the outputs."""

    def __init__(self, channels: int, convs: int, outputs: int):
        self.hidden = nnx.List([Convolution(channels, channels, 3) for _ in range(convs)])
        self.output = Convolution(channels, outputs, 3)

    def __call__(self, x):
        """Maps [B, H, W, channels] to float32 [B, H, W, outputs]."""
        for hidden in self.hidden:
            x = jax.nn.relu(hidden(x))
        return self.output(x).astype(jnp.float32)


class Layers(nnx.Module):
    """Pyramid and towers; see `build` for the arguments."""

    def __init__(self, widths, num_classes, *, channels, levels, convs):
        self.pyramid = Pyramid(widths, channels, levels - len(widths))
        self.classes = Tower(channels, convs, _ANCHORS * num_classes)
        self.boxes = Tower(channels, convs, _ANCHORS * 4)

    def __call__(self, features):
        """Maps features [B, H, W, C] of the backbone to an `Output` for each level."""
        with jax.named_scope("pyramid"):
            features = self.pyramid(features)
        with jax.named_scope("head"):
            return [
                Output(_by_anchor(self.classes(x)), _by_anchor(self.boxes(x))) for x in features
            ]


def _by_anchor(x):
    return x.reshape(*x.shape[:3], _ANCHORS, -1)


class Output(NamedTuple):
    """What the towers say of one level's anchors.

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


@dataclasses.dataclass(frozen=True)
class RetinaNet:
    """The detector's structure (static and hashable); its arrays are in `Variables`.

    Attributes:
        graph: definition of the modules.
        strides: of the pyramid's levels, in pixels.
        scale: the smallest anchors, in strides.
        rounded: whether the anchors are torchvision's, of whole pixels.
        over_padding: whether anchors beside the image take part in the training.
    """

    graph: nnx.GraphDef
    strides: tuple[int, ...]
    scale: float
    rounded: bool
    over_padding: bool

    def anchors(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The anchors of levels of these heights and widths, float32 [H W A, 4] each."""
        scales = anchors.octaves(self.scale, _OCTAVE)
        return [
            anchors.grid(size, stride, scales, self.rounded)
            for size, stride in zip(sizes, self.strides, strict=True)
        ]

    def counted(self, sizes: Sequence[tuple[int, int]], image):
        """Which anchors of all levels take part in the training on an image of a size [2]."""
        if self.over_padding:
            return True
        inside = [
            anchors.in_image(size, stride, _ANCHORS, image)
            for size, stride in zip(sizes, self.strides, strict=True)
        ]
        return jnp.concatenate(inside)


def build(
    widths: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    channels: int = 256,
    levels: int = 5,
    convs: int = 4,
    scale: float = 4.0,
    prior: float = 0.01,
    rounded: bool = False,
    over_padding: bool = False,
    key: jax.Array | None,
) -> tuple[RetinaNet, Variables]:
    """Builds the detector above a backbone with random weights.

    Args:
        widths: channels of the backbone's levels that it reads, the finest first.
        strides: their pixels from one position to the next, each twice the one before.
        num_classes: number of classes.
        channels: of the pyramid and the towers.
        levels: of the pyramid; those that the backbone lacks are made on top.
        convs: hidden convolutions of each tower.
        scale: the smallest anchors, in strides.
        prior: what the probability of each class is about at the start.
        rounded: see `RetinaNet`.
        over_padding: see `RetinaNet`.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.

    Returns:
        The structure and its variables, whose weights have the keys pyramid, classes and boxes; there
        are no statistics.

    Raises:
        UserError: the pyramid has fewer levels than it reads.
    """
    if levels < len(widths):
        raise UserError(
            f"config.fpn.levels={levels}, but the pyramid reads {len(widths)} levels of the backbone: "
            f"raise it, or name fewer in config.backbone.levels."
        )
    module = Layers(widths, num_classes, channels=channels, levels=levels, convs=convs)
    graph, variables = layers.split(module)
    weights = dict(variables.weights)
    if key is not None:
        keys = jax.random.split(key, 3)
        weights["pyramid"] = convolution.xavier(keys[0], weights["pyramid"])
        weights["classes"] = convolution.normal(keys[1], weights["classes"])
        weights["boxes"] = convolution.normal(keys[2], weights["boxes"])
    bias = weights["classes"]["output"]["bias"]
    weights["classes"]["output"]["bias"] = np.full_like(bias, -math.log((1 - prior) / prior))
    strides = [*strides, *(strides[-1] * 2**k for k in range(1, levels - len(strides) + 1))]
    net = RetinaNet(graph, tuple(strides), scale, rounded, over_padding)
    return net, variables._replace(weights=weights)


def predict(net: RetinaNet, variables: Variables, features: Sequence[jax.Array]) -> list[Output]:
    """Runs pyramid and towers on the backbone's features [B, H, W, C], the finest level first."""
    return nnx.merge(net.graph, *variables)(features)


class Losses(NamedTuple):
    """The two losses, of a batch or of every image: float32 scalars or [B]."""

    classification: jax.Array
    boxes: jax.Array


def loss(net: RetinaNet, outputs: Sequence[Output], truth: GroundTruth) -> Losses:
    """The losses of a batch, divided by its number of positive anchors.

    Each image counts as one positive anchor at least (MMDetection). Images are those of all devices.
    """
    sums, positives = image_losses(net, outputs, truth)
    count = jnp.maximum(positives, 1).sum()
    return Losses(*(part.sum() / count for part in sums))


def image_losses(net: RetinaNet, outputs: Sequence[Output], truth: GroundTruth):
    """The losses of every image, summed over its anchors.

    The focal loss is over all classes of the anchors that are positive or background, the absolute
    difference of the deltas over those that are positive.

    Returns:
        `Losses` of arrays [B], and int32 [B], the numbers of positive anchors.
    """
    sizes = [output.size for output in outputs]
    with jax.named_scope("matching"):
        labels, deltas = sharding.map_images(lambda one: _targets(net, sizes, one), truth)
    ends = np.cumsum([height * width * _ANCHORS for height, width in sizes])[:-1]
    by_level = outputs, jnp.split(labels, ends, 1), jnp.split(deltas, ends, 1)
    classification = boxes = 0.0
    for output, label, delta in zip(*by_level):
        own_logits, own_deltas = output.flat()
        label = label[..., None]
        focal = losses.sigmoid_focal(own_logits, label == jnp.arange(own_logits.shape[-1]))
        classification += jnp.where(label != matching.NEITHER, focal, 0).sum((1, 2))
        apart = losses.smooth_l1(own_deltas, delta)
        boxes += jnp.where(label >= 0, apart, 0).sum((1, 2))
    return Losses(classification, boxes), (labels >= 0).sum(1)


def _targets(net: RetinaNet, sizes, truth: GroundTruth):
    """What the anchors of one image should say.

    Args:
        net: structure.
        sizes: height and width of each level.
        truth: of one image.

    Returns:
        int32 [N], class, `matching.BACKGROUND` or `matching.NEITHER`; float32 [N, 4], the deltas, 0
        of anchors without a class.
    """
    every = np.concatenate(net.anchors(sizes))
    found = matching.match(
        *(every, truth.boxes, truth.labels >= 0, net.counted(sizes, truth.sizes)),
        positive=_POSITIVE,
        background=_BACKGROUND,
        least=0.0,
    )
    positive = found >= 0
    labels = jnp.where(positive, truth.labels[found], found)
    own = jnp.where(positive[:, None], truth.boxes[found], every)
    return labels, bx.encode(own, every)


class Detections(NamedTuple):
    """The objects found in each image, the best first, then padding.

    Attributes:
        boxes: float32 [B, limit, 4], in pixels of the canvas; 0 where there is none.
        scores: float32 [B, limit], probabilities; likewise.
        classes: int32 [B, limit]; -1 where there is none.
        count: int32 [B], number of objects.
        masks: float32 [B, limit, 28, 28], probabilities of the pixels within each box; None: the detector
            finds boxes alone.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    count: jax.Array
    masks: jax.Array | None = None


def detections(
    net: RetinaNet,
    outputs: Sequence[Output],
    sizes,
    *,
    score: float = 0.05,
    nms: float = 0.5,
    per_level: int = 1000,
    limit: int = 100,
) -> Detections:
    """Finds the objects.

    Args:
        net: structure.
        outputs: from `predict`.
        sizes: int32 [B, 2], height and width of the images, at which boxes are cut off.
        score: probability above which a box counts.
        nms: IoU above which the worse of two boxes of a class is suppressed.
        per_level: anchor and class pairs of each level that are looked at, the most probable ones.
        limit: objects of each image at most.
    """
    every = net.anchors([output.size for output in outputs])

    def detect(levels, size):
        found = [_candidates(own, *level, per_level) for own, level in zip(every, levels)]
        boxes, scores, classes = (jnp.concatenate(parts) for parts in zip(*found))
        boxes = bx.clip(boxes, size)
        kept, count = bx.nms(boxes, scores, classes, scores > score, nms, limit)
        real = jnp.arange(limit) < count
        return Detections(
            jnp.where(real[:, None], boxes[kept], 0),
            jnp.where(real, scores[kept], 0),
            jnp.where(real, classes[kept], -1),
            count,
        )

    with jax.named_scope("detections"):
        return sharding.map_images(detect, [output.flat() for output in outputs], sizes)


def _candidates(own, logits, deltas, count):
    """The most probable pairs of an anchor and a class, of one level and image.

    They are among as many anchors, those with the most probable best classes: sorting these and then
    their pairs is quicker than sorting all pairs.

    Args:
        own: float32 [N, 4], the level's anchors.
        logits: [N, classes].
        deltas: [N, 4].
        count: number of pairs, if there are so many.

    Returns:
        Boxes [count, 4], scores and classes [count], the most probable first; of equal ones the first
        anchor, then the first class.
    """
    num_classes = logits.shape[-1]
    _, best = lax.top_k(jax.nn.sigmoid(logits.max(-1)), min(count, len(own)))
    best = jnp.sort(best)  # so that pairs are in the order of all pairs
    scores = jax.nn.sigmoid(logits[best]).reshape(-1)
    scores, pairs = lax.top_k(scores, min(count, len(scores)))
    best = best[pairs // num_classes]
    return bx.decode(deltas[best], jnp.asarray(own)[best]), scores, pairs % num_classes

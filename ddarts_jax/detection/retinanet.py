"""RetinaNet above its backbone (Lin et al. 2017, "Focal loss for dense object detection").

Every anchor of every level of a feature pyramid is classified by one tower of convolutions and moved
onto its object by another. The modules are built once and split, as those of `models.network`; what is
computed are pure functions over pytrees:

    net, variables = build(widths, strides, num_classes, key=key)
    outputs = predict(net, variables, features)
    loss(net, outputs, truth)
    detections(net, outputs, sizes, options)

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

from ddarts_jax.detection import anchors, convolution, found, losses, matching
from ddarts_jax.detection import boxes as bx
from ddarts_jax.detection.anchors import Anchors, Output
from ddarts_jax.detection.convolution import Convolution
from ddarts_jax.detection.found import Detections, Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.pyramid import Pyramid, all_strides
from ddarts_jax.distributed import sharding
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
            return [anchors.output(self.classes(x), self.boxes(x), _ANCHORS) for x in features]


@dataclasses.dataclass(frozen=True)
class RetinaNet:
    """The detector's structure (static and hashable); its arrays are in `Variables`.

    Attributes:
        graph: definition of the modules.
        anchors: of all levels.
    """

    graph: nnx.GraphDef
    anchors: Anchors

    def losses(self, variables: Variables, maps, truth: GroundTruth, key) -> dict[str, jax.Array]:
        """Computes the parts of the loss of a batch, scalars, by name; nothing is drawn with the key.

        Args:
            variables: weights.
            maps: of the backbone, see `predict`.
            truth: the objects of the batch.
            key: random key of the step.
        """
        return loss(self, predict(self, variables, maps), truth)._asdict()

    def detect(self, variables: Variables, maps, sizes, options: Options) -> Detections:
        """Finds the objects from the maps of the backbone; see `detections`."""
        return detections(self, predict(self, variables, maps), sizes, options)


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
        rounded: see `Anchors`.
        over_padding: see `Anchors`.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.

    Returns:
        The structure and its variables, whose weights have the keys pyramid, classes and boxes; there
        are no statistics.

    Raises:
        UserError: the pyramid has fewer levels than it reads.
    """
    strides = all_strides(strides, levels)
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
    own = Anchors(strides, anchors.octaves(scale, _OCTAVE), rounded, over_padding)
    return RetinaNet(graph, own), variables._replace(weights=weights)


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
    every = np.concatenate(net.anchors.of(sizes))
    matched = matching.match(
        *(every, truth.boxes, truth.labels >= 0, net.anchors.counted(sizes, truth.sizes)),
        positive=_POSITIVE,
        background=_BACKGROUND,
        least=0.0,
    )
    positive = matched >= 0
    labels = jnp.where(positive, truth.labels[matched], matched)
    own = jnp.where(positive[:, None], truth.boxes[matched], every)
    return labels, bx.encode(own, every)


def detections(
    net: RetinaNet,
    outputs: Sequence[Output],
    sizes,
    options: Options,
) -> Detections:
    """Finds the objects.

    Args:
        net: structure.
        outputs: from `predict`.
        sizes: int32 [B, 2], height and width of the images, at which boxes are cut off.
        options: which boxes count; `per_level` counts pairs of an anchor and a class.
    """
    every = net.anchors.of([output.size for output in outputs])

    def detect(levels, size):
        levels = [_candidates(own, *level, options.per_level) for own, level in zip(every, levels)]
        boxes, scores, classes = (jnp.concatenate(parts) for parts in zip(*levels))
        boxes = bx.clip(boxes, size)
        return found.best(boxes, scores, classes, scores > options.score, options)

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

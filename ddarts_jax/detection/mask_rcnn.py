"""Faster and Mask R-CNN above their backbone (Ren et al. 2015; He et al. 2017).

A region proposal network proposes boxes from all levels of a feature pyramid. A head for boxes, and in
Mask R-CNN one for masks, read the features in each of them. The modules are built once and split, as
those of `retinanet`; what is computed are pure functions over pytrees:

    net, variables = build(widths, strides, num_classes, proposing=rpn, looking=roi, key=key)
    loss(net, variables, maps, truth, key)
    detections(net, variables, maps, sizes, options)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.detection import convolution, roi_heads, rpn
from ddarts_jax.detection.anchors import Anchors
from ddarts_jax.detection.found import Detections, Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.pyramid import Pyramid, all_strides
from ddarts_jax.models import layers
from ddarts_jax.models.layers import Variables


class Layers(nnx.Module):
    """Pyramid and heads; see `build` for the arguments, and `BoxHead` for its width."""

    def __init__(self, widths, num_classes, width, *, channels, levels, masks):
        self.pyramid = Pyramid(widths, channels, levels - len(widths), "subsampled")
        self.rpn = rpn.Head(channels)
        self.box = roi_heads.BoxHead(channels, width, num_classes)
        self.mask = roi_heads.MaskHead(channels, num_classes) if masks else None

    def proposed(self, maps):
        """Maps features of the backbone to those of the pyramid, and to what is said of its anchors."""
        with jax.named_scope("pyramid"):
            features = self.pyramid(maps)
        with jax.named_scope("rpn"):
            return features, self.rpn(features)


@dataclasses.dataclass(frozen=True)
class MaskRCNN:
    """The detector's structure (static and hashable); its arrays are in `Variables`.

    Attributes:
        graph: definition of the modules.
        rpn: how boxes are proposed.
        roi: how proposals are looked at.
        masks: whether it finds masks; else it is a Faster R-CNN.
    """

    graph: nnx.GraphDef
    rpn: rpn.Settings
    roi: roi_heads.Settings
    masks: bool

    def losses(self, variables: Variables, maps, truth: GroundTruth, key) -> dict[str, jax.Array]:
        """Computes the parts of the loss of a batch, scalars, by name; see `loss`."""
        parts = loss(self, variables, maps, truth, key)._asdict()
        return {name: part for name, part in parts.items() if part is not None}

    def detect(self, variables: Variables, maps, sizes, options: Options) -> Detections:
        """Finds the objects from the maps of the backbone; see `detections`."""
        return detections(self, variables, maps, sizes, options)


def build(
    widths: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    masks: bool = True,
    channels: int = 256,
    levels: int = 5,
    proposing: Mapping[str, float],
    looking: Mapping[str, float],
    rounded: bool = False,
    over_padding: bool = False,
    aligned: bool = True,
    key: jax.Array | None,
) -> tuple[MaskRCNN, Variables]:
    """Builds the detector above a backbone with random weights.

    Args:
        widths: channels of the backbone's levels that it reads, the finest first.
        strides: their pixels from one position to the next, each twice the one before.
        num_classes: number of classes.
        masks: whether it finds masks, and not boxes alone.
        channels: of the pyramid, the proposal network and the mask head.
        levels: of the pyramid; only proposals read those that the backbone lacks.
        proposing: section `rpn` of a detector's config: `scale`, of the anchors in strides, and all else
            of `rpn.Settings`.
        looking: section `roi`: `width`, of the box head's layers, and all else of `roi_heads.Settings`.
        rounded: see `Anchors`, as for `over_padding`.
        aligned: see `roi_heads.Settings`.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.

    Returns:
        The structure and its variables, whose weights have the keys pyramid, rpn, box and, with masks,
        mask; there are no statistics.

    Raises:
        UserError: the pyramid has fewer levels than it reads.
    """
    proposing, looking = dict(proposing), dict(looking)
    grid = Anchors(all_strides(strides, levels), (proposing.pop("scale"),), rounded, over_padding)
    module = Layers(
        *(widths, num_classes, looking.pop("width")), channels=channels, levels=levels, masks=masks
    )
    graph, variables = layers.split(module)
    if key is not None:
        variables = variables._replace(weights=_drawn(key, variables.weights))
    net = MaskRCNN(
        graph,
        rpn.Settings(grid, **proposing),
        roi_heads.Settings(tuple(strides), aligned, num_classes, **looking),
        masks,
    )
    return net, variables


def _drawn(key, weights):
    """Draws all kernels as MMDetection does."""
    keys = jax.random.split(key, 6)
    box = weights["box"]
    drawn = {
        "pyramid": convolution.xavier(keys[0], weights["pyramid"]),
        "rpn": convolution.normal(keys[1], weights["rpn"]),
        "box": {
            "hidden": convolution.xavier(keys[2], box["hidden"]),
            "logits": convolution.normal(keys[3], box["logits"]),
            "deltas": convolution.normal(keys[4], box["deltas"], 0.001),
        },
    }
    if "mask" in weights:
        drawn["mask"] = convolution.he_normal(keys[5], weights["mask"])
    return drawn


class Losses(NamedTuple):
    """The parts of a batch's loss, float32 scalars.

    Attributes:
        objectness: of the proposal network, whether an object is there.
        proposals: of the proposal network, where.
        classification: of the box head, of which class it is.
        boxes: of the box head, where.
        masks: of the mask head; None of a Faster R-CNN.
    """

    objectness: jax.Array
    proposals: jax.Array
    classification: jax.Array
    boxes: jax.Array
    masks: jax.Array | None


def loss(net: MaskRCNN, variables: Variables, maps, truth: GroundTruth, key) -> Losses:
    """The losses of a batch, of anchors and of proposals that are drawn at random.

    Each is divided by the number of what it is summed over in the whole batch, on all devices.

    Args:
        net: structure.
        variables: weights.
        maps: of the backbone, [B, h, w, C] each, the finest first.
        truth: the objects; with masks where the detector finds some.
        key: random key of the draws.
    """
    modules = nnx.merge(net.graph, *variables)
    features, outputs = modules.proposed(maps)
    anchors = sum(output.logits[0].size for output in outputs)
    batch, objects = truth.labels.shape
    keys = jax.random.split(key)
    with jax.named_scope("loss_of_proposals"):
        first = rpn.loss(net.rpn, outputs, truth, jax.random.uniform(keys[0], (batch, anchors)))
    proposals = rpn.proposals(net.rpn, outputs, truth.sizes, net.rpn.per_level)
    if not net.masks:
        truth = truth._replace(masks=None)
    priorities = jax.random.uniform(keys[1], (batch, net.rpn.limit + objects))
    samples = roi_heads.sample(net.roi, proposals, truth, priorities)
    return Losses(*first, *head_losses(net, modules, features, samples))


def head_losses(net: MaskRCNN, modules: Layers, features, samples: roi_heads.Samples):
    """The last three of `Losses`.

    Args:
        net: structure.
        modules: its pyramid and heads.
        features: of the pyramid.
        samples: the proposals that are trained.
    """
    with jax.named_scope("box"):
        logits, deltas = modules.box(net.roi.of_boxes(features, samples.boxes))
        boxes = roi_heads.box_loss(net.roi, logits, deltas, samples)
    if not net.masks:
        return *boxes, None
    quarter = samples.index.shape[1]
    with jax.named_scope("mask"):
        read = net.roi.of_masks(features, samples.boxes[:, :quarter])
        logits = modules.mask(read, samples.labels[:, :quarter])
        masks = roi_heads.mask_loss(logits, samples.masks, samples.index >= 0)
    return *boxes, masks


def detections(net: MaskRCNN, variables: Variables, maps, sizes, options: Options) -> Detections:
    """Finds the objects, with their masks where the detector has a head for them.

    Args:
        net: structure.
        variables: weights.
        maps: of the backbone, [B, h, w, C] each, the finest first.
        sizes: int32 [B, 2], height and width of the images, at which boxes are cut off.
        options: which boxes count; `per_level` counts those that become proposals.
    """
    modules = nnx.merge(net.graph, *variables)
    features, outputs = modules.proposed(maps)
    proposals = rpn.proposals(net.rpn, outputs, sizes, options.per_level)
    with jax.named_scope("box"):
        said = modules.box(net.roi.of_boxes(features, proposals.boxes))
    found = roi_heads.detections(net.roi, proposals, *said, sizes, options)
    if not net.masks:
        return found
    with jax.named_scope("mask"):
        logits = modules.mask(net.roi.of_masks(features, found.boxes), found.classes)
    real = (found.classes >= 0)[:, :, None, None]
    return found._replace(masks=jnp.where(real, jax.nn.sigmoid(logits), 0))

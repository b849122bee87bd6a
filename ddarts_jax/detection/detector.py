"""A detector: a network as the backbone, and a head above it, RetinaNet or Mask R-CNN.

    detector, variables = build(config, source, num_classes, channels, key)
    parts, statistics = losses(detector, variables, images, truth, key)
    found = detect(detector, variables, images, sizes)

Modules are built once and split, as in `models.network`; what is computed are pure functions.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.data.augment import normalize
from ddarts_jax.detection import mask_rcnn, retinanet
from ddarts_jax.detection.found import Detections, Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import lookup
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import backbone, cost, network
from ddarts_jax.models.layers import Variables
from ddarts_jax.runs import facts, layout
from ddarts_jax.training import trained

# The stride of the finest level that a head reads, and the number of levels.
_LEVELS = {"retinanet": (8, 3), "faster_rcnn": (4, 4), "mask_rcnn": (4, 4)}
_SIZES = ("channels", "stem", "stem_multiplier")


class Source(NamedTuple):
    """Where the backbone comes from.

    Attributes:
        genotype: of the whole network.
        sizes: its channels, stem and stem_multiplier.
        weights: the file of its weights; None: random ones.
        data: facts of the images that it was trained on, see `facts.of_data`; empty without weights.
    """

    genotype: Genotype
    sizes: dict
    weights: Path | None
    data: dict


def find_source(settings) -> Source:
    """Finds the backbone that section `backbone` of a config names; a run goes before a genotype.

    Raises:
        UserError: it names neither, the run has no trained network, or random weights were frozen.
    """
    if settings.run:
        return _trained_source(settings)
    if not settings.genotype:
        raise UserError(
            "A detector needs a backbone: set config.backbone.run, the workdir of a training, or "
            "config.backbone.genotype, a network that begins with random weights."
        )
    if settings.frozen_levels:
        raise UserError(
            f"config.backbone.frozen_levels is {settings.frozen_levels}, but without config.backbone.run "
            "the weights are random and must be trained: set it to 0."
        )
    if settings.norm == "frozen":
        raise UserError(
            "config.backbone.norm is 'frozen', but without config.backbone.run there are no statistics "
            "to keep: set it to batch or auto."
        )
    sizes = {key: settings[key] for key in _SIZES}
    return Source(lookup.find_genotype(settings.genotype), sizes, None, {})


def _trained_source(settings) -> Source:
    folder = Path(settings.run)
    exported = (folder / layout.EXPORT_META).is_file()
    weights = folder / (layout.EXPORT_WEIGHTS if exported else layout.NETWORK)
    if not weights.is_file():
        raise UserError(
            f"config.backbone.run={settings.run} holds no trained network ({weights.name}): name the "
            "workdir of a task 'train' or 'pipeline' that has ended."
        )
    data = facts.of_weights(weights)
    sizes = trained.sizes_in(folder)
    if data is None or data.get("mean") is None or len(sizes) < len(_SIZES):
        raise UserError(
            f"config.backbone.run={settings.run} does not tell what its network was trained on: evaluate "
            "an imported network once, or name the workdir of a training."
        )
    name = layout.GENOTYPE if exported else layout.NETWORK_GENOTYPE
    return Source(Genotype.load(folder / name), sizes, weights, data)


class Head(Protocol):
    """What stands above the backbone: static and hashable, with its arrays in `Variables`."""

    def losses(self, variables: Variables, maps, truth: GroundTruth, key) -> dict[str, jax.Array]:
        """Computes the parts of the loss of a batch, float32 scalars, by name.

        Args:
            variables: of the head.
            maps: of the backbone, [B, h, w, C] each, the finest first.
            truth: the objects of the batch.
            key: random key of the step.
        """

    def detect(self, variables: Variables, maps, sizes, options: Options) -> Detections:
        """Finds the objects in images of heights and widths int32 [B, 2]."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """The detector's structure (static and hashable); its arrays are in `Variables`.

    Weights have the key backbone and those of the head, one of them pyramid; statistics only backbone.

    Attributes:
        backbone: structure of the network up to the last level.
        levels: positions of the feature maps that the pyramid reads, see `network.features`.
        frozen_cells: see `network.features`.
        batch_norm: whether BatchNorm uses the batch in training; else its running statistics always.
        head: what stands above it.
        options: which boxes count as detections.
    """

    backbone: network.Network
    levels: tuple[int, ...]
    frozen_cells: int
    batch_norm: bool
    head: Head
    options: Options


def build(
    config, source: Source, num_classes: int, image_channels: int, key: jax.Array | None
) -> tuple[Detector, Variables]:
    """Builds the detector of a config.

    Args:
        config: the whole config.
        source: of the backbone.
        num_classes: number of classes.
        image_channels: channels of the images.
        key: random key of all weights that the source does not have; None leaves the kernels zero, for
            weights that are loaded.

    Returns:
        The structure and its variables.

    Raises:
        UserError: the backbone has no such levels, or its weights do not fit its genotype.
    """
    settings, stem = config.backbone, source.sizes["stem"]
    if settings.levels:
        levels = backbone.given_levels(source.genotype, stem, settings.levels)
    else:
        levels = backbone.choose_levels(source.genotype, stem, *_LEVELS[config.detector])
    keys = (None, None) if key is None else [jax.random.fold_in(key, k) for k in (1, 2)]
    body, variables = backbone.build(
        source.genotype,
        levels,
        image_channels=image_channels,
        key=keys[0] if source.weights is None else None,
        **source.sizes,
    )
    if source.weights is not None:
        variables = backbone.load(source.weights, variables)
    # By abstract evaluation: the widths of the levels.
    size = network.smallest_image(source.genotype, stem)
    images = jax.ShapeDtypeStruct((1, size, size, image_channels), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda v, x: network.features(body, v, x, False, levels.positions), variables, images
    )
    widths = [each.shape[-1] for each in maps]
    head, own = _head(config, widths, levels.strides, num_classes, keys[1])
    detector = Detector(
        backbone=body,
        levels=levels.positions,
        frozen_cells=backbone.frozen_cells(source.genotype, settings.frozen_levels),
        batch_norm=settings.norm == "batch" or (settings.norm == "auto" and not source.weights),
        head=head,
        options=Options(*(config.test[key] for key in Options._fields)),
    )
    joined = Variables(
        {"backbone": variables.weights, **own.weights}, {"backbone": variables.statistics}
    )
    return detector, jax.tree.map(jnp.asarray, joined)


def _head(config, widths, strides, num_classes, key) -> tuple[Head, Variables]:
    """Builds the head of a config above levels of these widths and strides."""
    pyramid = {"channels": config.fpn.channels, "levels": config.fpn.levels}
    if config.detector == "retinanet":
        return retinanet.build(
            *(widths, strides, num_classes),
            **pyramid,
            convs=config.head.convs,
            scale=config.anchor.scale,
            prior=config.head.prior,
            key=key,
        )
    return mask_rcnn.build(
        *(widths, strides, num_classes),
        **pyramid,
        masks=config.detector == "mask_rcnn",
        proposing=config.rpn,
        looking=config.roi,
        key=key,
    )


def learning(detector: Detector, weights):
    """Tells which weights learn: a tree of booleans."""
    body = backbone.learning(weights["backbone"], detector.frozen_cells)
    everything = jax.tree.map(lambda _: True, weights)
    return everything | {"backbone": body}


def prepared(images, sizes, mean, std, dtype):
    """Normalises images; the canvas beside them becomes 0, the mean colour.

    Args:
        images: uint8 [B, H, W, C].
        sizes: int32 [B, 2], height and width of the images on their canvas.
        mean: [C], in units of [0, 1].
        std: [C], likewise.
        dtype: of the result.
    """
    rows = jnp.arange(images.shape[1]) < sizes[:, :1]
    columns = jnp.arange(images.shape[2]) < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, normalize(images, mean, std, dtype), 0)


def features(detector: Detector, variables: Variables, images, train: bool):
    """Runs the backbone.

    Args:
        detector: structure.
        variables: weights and statistics.
        images: [B, H, W, C], from `prepared`.
        train: whether the detector is trained, see `Detector.batch_norm`.

    Returns:
        The maps that the head reads, [B, h, w, C] each, the finest first; new statistics.
    """
    own = Variables(variables.weights["backbone"], variables.statistics["backbone"])
    batch_norm = train and detector.batch_norm
    with jax.named_scope("backbone"):
        maps, statistics = network.features(
            *(detector.backbone, own, images, batch_norm, detector.levels),
            frozen_cells=detector.frozen_cells,
        )
    return maps, {"backbone": statistics}


def _of_head(variables: Variables) -> Variables:
    weights = {name: part for name, part in variables.weights.items() if name != "backbone"}
    return Variables(weights, {})


def losses(detector: Detector, variables: Variables, images, truth: GroundTruth, key):
    """Computes the parts of the loss of a batch in training.

    Args:
        detector: structure.
        variables: weights and statistics.
        images: [B, H, W, C], from `prepared`.
        truth: the objects.
        key: random key of the step.

    Returns:
        Float32 scalars by name, see `Head.losses`; new statistics.
    """
    maps, statistics = features(detector, variables, images, train=True)
    return detector.head.losses(_of_head(variables), maps, truth, key), statistics


def detect(detector: Detector, variables: Variables, images, sizes) -> Detections:
    """Finds the objects in images [B, H, W, C], from `prepared`, of heights and widths int32 [B, 2]."""
    maps, _ = features(detector, variables, images, train=False)
    return detector.head.detect(_of_head(variables), maps, sizes, detector.options)


def parameters(variables: Variables) -> dict[str, int]:
    """Counts the weights of backbone, pyramid and heads."""
    counts = {
        name: sum(np.size(leaf) for leaf in jax.tree.leaves(part))
        for name, part in variables.weights.items()
    }
    return _by_part(counts)


def macs(detector: Detector, variables: Variables, shape: tuple[int, int, int]) -> dict[str, int]:
    """Counts the multiply-accumulates of backbone, pyramid and heads for an image [H, W, C].

    The heads of proposals are counted for as many as there may be.
    """
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return _by_part(cost.macs(functools.partial(detect, detector), variables, image, sizes))


def _by_part(counts: Mapping[str, int]) -> dict[str, int]:
    """Sums what is neither the backbone's nor the pyramid's up as the heads'."""
    own = {part: counts[part] for part in ("backbone", "pyramid")}
    return own | {"heads": sum(counts.values()) - sum(own.values())}


def check_canvas(
    detector: Detector, variables: Variables, stem: str, images: jax.ShapeDtypeStruct
) -> None:
    """Refuses canvases that are too large for the backbone, see `backbone.check_canvas`."""
    own = Variables(variables.weights["backbone"], variables.statistics["backbone"])
    backbone.check_canvas(detector.backbone, own, detector.levels, stem, images)

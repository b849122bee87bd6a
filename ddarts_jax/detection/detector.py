"""A detector: a network as the backbone, and RetinaNet above it.

    detector, variables = build(config, source, num_classes, channels, key)
    outputs, statistics = run(detector, variables, images, train)
    found = detect(detector, variables, images, sizes)

Modules are built once and split, as in `models.network`; what is computed are pure functions.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.data.augment import normalize
from ddarts_jax.detection import retinanet
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import lookup
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import backbone, cost, network
from ddarts_jax.models.layers import Variables
from ddarts_jax.runs import facts, layout
from ddarts_jax.training import trained

_FINEST, _COUNT = 8, 3  # stride of the finest level that RetinaNet reads, and their number
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


@dataclasses.dataclass(frozen=True)
class Detector:
    """The detector's structure (static and hashable); its arrays are in `Variables`.

    Weights have the keys backbone, pyramid, classes and boxes; statistics only backbone.

    Attributes:
        backbone: structure of the network up to the last level.
        levels: positions of the feature maps that the pyramid reads, see `network.features`.
        frozen_cells: see `network.features`.
        batch_norm: whether BatchNorm uses the batch in training; else its running statistics always.
        head: RetinaNet.
        score, nms, per_level, limit: see `retinanet.detections`.
    """

    backbone: network.Network
    levels: tuple[int, ...]
    frozen_cells: int
    batch_norm: bool
    head: retinanet.RetinaNet
    score: float
    nms: float
    per_level: int
    limit: int


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
        levels = backbone.choose_levels(source.genotype, stem, _FINEST, _COUNT)
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
    head, own = retinanet.build(
        [each.shape[-1] for each in maps],
        levels.strides,
        num_classes,
        channels=config.fpn.channels,
        levels=config.fpn.levels,
        convs=config.head.convs,
        scale=config.anchor.scale,
        prior=config.head.prior,
        key=keys[1],
    )
    detector = Detector(
        backbone=body,
        levels=levels.positions,
        frozen_cells=backbone.frozen_cells(source.genotype, settings.frozen_levels),
        batch_norm=settings.norm == "batch" or (settings.norm == "auto" and not source.weights),
        head=head,
        **{key: config.test[key] for key in ("score", "nms", "per_level", "limit")},
    )
    joined = Variables(
        {"backbone": variables.weights, **own.weights}, {"backbone": variables.statistics}
    )
    return detector, jax.tree.map(jnp.asarray, joined)


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


def run(detector: Detector, variables: Variables, images, train: bool):
    """Runs backbone, pyramid and towers.

    Args:
        detector: structure.
        variables: weights and statistics.
        images: [B, H, W, C], from `prepared`.
        train: whether the detector is trained, see `Detector.batch_norm`.

    Returns:
        Outputs by level, see `retinanet.predict`; new statistics.
    """
    weights = dict(variables.weights)
    body = Variables(weights.pop("backbone"), variables.statistics["backbone"])
    batch_norm = train and detector.batch_norm
    with jax.named_scope("backbone"):
        maps, statistics = network.features(
            *(detector.backbone, body, images, batch_norm, detector.levels),
            frozen_cells=detector.frozen_cells,
        )
    outputs = retinanet.predict(detector.head, Variables(weights, {}), maps)
    return outputs, {"backbone": statistics}


def detect(detector: Detector, variables: Variables, images, sizes) -> retinanet.Detections:
    """Finds the objects in images [B, H, W, C], from `prepared`, of heights and widths int32 [B, 2]."""
    outputs, _ = run(detector, variables, images, train=False)
    options = {key: getattr(detector, key) for key in ("score", "nms", "per_level", "limit")}
    return retinanet.detections(detector.head, outputs, sizes, **options)


def parameters(variables: Variables) -> dict[str, int]:
    """Counts the weights of backbone, pyramid and heads."""
    counts = {
        name: sum(np.size(leaf) for leaf in jax.tree.leaves(part))
        for name, part in variables.weights.items()
    }
    heads = counts.pop("classes") + counts.pop("boxes")
    return counts | {"heads": heads}


def macs(detector: Detector, variables: Variables, shape: tuple[int, int, int]) -> dict[str, int]:
    """Counts the multiply-accumulates of backbone, pyramid and heads for an image [H, W, C]."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    counts = cost.macs(functools.partial(run, detector, train=False), variables, image)
    return {"backbone": counts["backbone"], "pyramid": counts["pyramid"], "heads": counts["head"]}


def check_canvas(
    detector: Detector, variables: Variables, stem: str, images: jax.ShapeDtypeStruct
) -> None:
    """Refuses canvases that are too large for the backbone, see `backbone.check_canvas`."""
    own = Variables(variables.weights["backbone"], variables.statistics["backbone"])
    backbone.check_canvas(detector.backbone, own, detector.levels, stem, images)

"""The export of a detector: its files, its facts, and their check."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax.data.splits import spread
from ddarts_jax.detection import datasets, exported, roi_heads, saved
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.exported import Found
from ddarts_jax.detection.instances import Instances
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.weights import named
from ddarts_jax.predict import FORMATS
from ddarts_jax.runs import layout
from ddarts_jax.runs.workdir import task_of
from ddarts_jax.tasks.export import card, checks, detector_checks, formats
from ddarts_jax.training import trained

_logger = logging.getLogger(__name__)

_COMPARED = 50  # test images on which the files are compared with the trained detector
# Of what is told of each kind: how names of it begin, and what it is called.
_KINDS = {"": "box", "mask_": "mask"}
# Difference of the AP that rounding explains: in float32 on a CPU, and elsewhere.
_AP, _ROUGH_AP = 1e-3, 1e-2


class Trained(NamedTuple):
    """A trained detector and its test images.

    Attributes:
        source: workdir of the training.
        own: what it keeps.
        config: that of the training, with the place where the data are now, and one canvas.
        measured: the evaluation by the training, content of `detection.json`.
        test: the test images.
        rows: positions of those that lie on the canvas.
    """

    source: Path
    own: saved.Saved
    config: ConfigDict
    measured: dict
    test: Instances
    rows: np.ndarray

    @property
    def canvas(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.config.data.canvases[0], self.own.pixels.channels)

    @property
    def masks(self) -> bool:
        """Whether it finds masks."""
        return datasets.with_masks(self.config)

    def stream(self, test: Instances) -> CanvasStream:
        """Opens test images on the canvas."""
        return datasets.test_stream(self.config, test, self.own.pixels)


def is_run(source: Path) -> bool:
    """Returns whether a folder is the workdir of a detector."""
    try:
        return task_of(source) == "detect"
    except UserError:  # which the export of a classifier tells in its own words
        return False


def load(source: Path, config: ConfigDict, output: Path) -> Trained:
    """Loads the trained detector in the workdir `source`.

    Args:
        source: the workdir.
        config: see `configuration.export_config`.
        output: the folder to be written; detection data have no folder that it could disturb.

    Raises:
        UserError: there is none, or its test images cannot be loaded or are others.
    """
    own = saved.load(source)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own.variables)):
        raise UserError("The trained detector has NaN or infinite weights: its training diverged.")
    measured = read_json(source / layout.DETECTION, "Evaluation")
    if not isinstance(measured, dict) or not measured.keys() >= {*_measured(own.config)}:
        raise UserError(
            f"{source / layout.DETECTION} is not the evaluation of a detector: run task "
            "'detect_evaluate' there with the config of the training."
        )
    settings = _with_data(own.config, config, source)
    test = datasets.load_test(settings.data, own.classes, datasets.with_masks(settings))
    if own.data.get("test") != test.identity:
        elsewhere = ", or name the place where they are now by config.data"
        raise UserError(
            f"The detector in {source} was tested on other images than those of {test.name} "
            f"({own.data.get('test')}; now {test.identity}): bring the former back"
            f"{elsewhere if settings.data.root else ''}."
        )
    by_canvas = datasets.test_stream(settings, test, own.pixels).images_by_canvas
    canvas = max(by_canvas, key=lambda canvas: len(by_canvas[canvas]))
    settings.data.canvases = (canvas,)
    return Trained(source, own, settings, measured, test, by_canvas[canvas])


def _measured(config: ConfigDict) -> tuple[str, ...]:
    """Returns what an evaluation tells of a detector, keys of `detection.json`."""
    masks = ("mask_numbers",) if datasets.with_masks(config) else ()
    return ("images", "objects", "crowds", "numbers", *masks)


def _with_data(training: ConfigDict, config: ConfigDict, source: Path) -> ConfigDict:
    """Returns the config of a training with the place where its data are now."""
    settings = training.copy_and_resolve_references()
    if config.data_dir:
        if "data_dir" not in datasets.places_of(settings.data.name):
            raise UserError(
                f"config.data_dir={config.data_dir} is for data sets of TFDS, but the detector in "
                f"{source} was trained on other data: leave it empty."
            )
        settings.data.data_dir = config.data_dir
    if config.data:
        if not settings.data.root:
            raise UserError(
                f"config.data={config.data} names the folder of COCO 2017 or Cityscapes, but the "
                f"detector in {source} was trained on data without such a folder: leave it empty."
            )
        settings.data.root = config.data
    return settings


def write(network: Trained, folder: Path, scratch: Path) -> dict:
    """Writes and checks all files.

    Args:
        network: the detector.
        folder: where to.
        scratch: an empty folder for the files exchanged with the fresh processes.

    Returns:
        The content of `meta.json`.

    Raises:
        UserError: a file does not find what the detector finds.
    """
    own, rows = network.own, network.rows
    some = network.test.select(rows[spread(len(rows), _COMPARED)])
    # Full float32 products on every device, in the exported program too.
    with jax.default_matmul_precision("highest"):
        expected, scales = _expected(network, some)
        formats.write_detector(folder, own.detector, own.variables, network.canvas)
    weights = named(own.variables)
    formats.write_weights(folder, weights)
    genotype = Genotype.load(network.source / layout.NETWORK_GENOTYPE)
    genotype.save(folder / "genotype.json")
    meta = _describe(network)
    write_json(folder / "meta.json", meta)
    _logger.info("export: reads every file again in a fresh process")
    checks.check_weights(folder, scratch, weights)
    images = [some.read(row, own.pixels.channels, own.pixels.white) for row in range(len(some))]
    tolerances = scales * detector_checks.box_tolerance(network.canvas[:2])
    meta["checks"] = detector_checks.check(folder, scratch, images, expected, tolerances)
    if len(rows) == len(network.test):
        meta["checks"]["model.stablehlo"] |= _checked_aps(network, folder / "model.stablehlo")
    write_json(folder / "meta.json", meta)
    (folder / "README.md").write_text(card.detector_card(meta, genotype), encoding="utf-8")
    return meta


def headline(meta: dict) -> str:
    """Returns how good the detector is, in a few words."""
    found = {kind: meta["test"].get(f"{prefix}numbers") for prefix, kind in _KINDS.items()}
    return "; ".join(
        f"{kind} AP {100 * numbers['AP']:.1f}, AP50 {100 * numbers['AP50']:.1f}"
        for kind, numbers in found.items()
        if numbers
    )


def _expected(network: Trained, some: Instances) -> tuple[list[Found], np.ndarray]:
    """Detects in some images as the training's evaluation does, in float32.

    Returns:
        What is found in each, with boxes in pixels of the image; and float [n], pixels of each image to
        one of the canvas.
    """
    own = network.own

    @jax.jit
    def find(images, sizes):
        images = detectors.prepared(images, sizes, own.pixels.mean, own.pixels.std, jnp.float32)
        return detectors.detect(own.detector, own.variables, images, sizes)

    expected, scales = [], []
    for batch in network.stream(some).batches():
        found = jax.device_get(find(batch.images, batch.sizes))
        for place in np.flatnonzero(batch.rows >= 0):
            arrays = (part[place] for part in found if part is not None)
            scale = some.sizes[batch.rows[place]] / batch.sizes[place]
            expected.append(exported.of_image(*arrays, scale=scale))
            scales.append(scale.max())
    return expected, np.array(scales)


def _checked_aps(network: Trained, path: Path) -> dict[str, float]:
    """Returns "AP", of boxes, and perhaps "mask_AP" of the exported program.

    Raises:
        UserError: the training has measured other ones.
    """
    test = network.test
    _logger.info("export: evaluates the exported program on all %d test images", len(test))
    found = detector_checks.measure_aps(path, network.stream(test), network.own.pixels)
    device = read_json(network.source / layout.VERSIONS, "Versions").get("device")
    exact = device == "cpu" and network.config.dtype != "bfloat16"
    for name, ap in found.items():
        prefix = name.removesuffix("AP")
        measured = network.measured[f"{prefix}numbers"]["AP"]
        if abs(ap - measured) > (_AP if exact else _ROUGH_AP):
            raise UserError(
                f"The exported program has a {_KINDS[prefix]} AP of {ap:.4f}, but "
                f"{network.source / layout.DETECTION} says {measured:.4f}: run task 'detect_evaluate' "
                "there with the config of the training."
            )
    return found


def _describe(network: Trained) -> dict:
    """Returns the content of `meta.json`, without the checks."""
    own, config, test = network.own, network.config, network.test
    height, width, channels = network.canvas
    name = config.data.name
    return {
        "format": FORMATS["detector"],
        "kind": "detector",
        # Only the last part of a path: the folders above it are private.
        "data": f"{name}:{Path(test.name).name}" if name == "coco" else name,
        "class_names": list(own.classes.class_names),
        "category_ids": own.classes.category_ids.tolist(),
        "preprocessing": {
            "canvas": [height, width],
            "short_side": int(max(config.data.short_side)),
            "long_side": config.data.long_side,
            "channels": channels,
            "mean": own.pixels.mean.tolist(),
            "std": own.pixels.std.tolist(),
            # Value of white in images of 16 bits; 0: the training had none.
            "white": own.pixels.white,
            "formula": "x = (image / 255 - mean) / std, float32 [batch, height, width, channels]",
        },
        # Height and width of the masks, each within its box; null: there are none.
        "masks": [roi_heads.MASK_SIDE] * 2 if network.masks else None,
        "network": {
            "detector": config.detector,
            **trained.sizes_in(network.source),
            "levels": list(own.detector.levels),
            "pyramid_channels": config.fpn.channels,
            "pyramid_levels": config.fpn.levels,
            **_head_of(config),
        },
        "detections": config.test.to_dict(),
        "test": {
            **{key: network.measured[key] for key in _measured(config)},
            "on_canvas": len(network.rows),
        },
        "test_checksum": test.identity["crc32"],
        "parameters": detectors.parameters(own.variables),
    } | card.written()


def _head_of(config: ConfigDict) -> dict[str, Any]:
    """Returns the sizes of what stands above the pyramid."""
    if config.detector == "retinanet":
        return {"head_convs": config.head.convs, "anchor_scale": config.anchor.scale}
    return {key: config[key].to_dict() for key in ("rpn", "roi")}

"""The export of a detector: its files, its facts, and their check."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.detector import Detector, Source
from ddarts_jax.detection.draw_detections import Boxes
from ddarts_jax.detection.instances import Instances
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.weights import load_network, named
from ddarts_jax.predict import FORMATS
from ddarts_jax.runs import layout
from ddarts_jax.tasks import detection
from ddarts_jax.tasks.export import card, checks, detector_checks, formats

_logger = logging.getLogger(__name__)

_COMPARED = 50  # test images on which the files are compared with the trained detector
# Difference of the AP that rounding explains: in float32 on a CPU, and elsewhere.
_AP, _ROUGH_AP = 1e-3, 1e-2


class Trained(NamedTuple):
    """A trained detector and its data.

    Attributes:
        source: workdir of the training.
        settings: its config, with the canvas as the only one.
        facts: content of its `dataset.json`.
        measured: content of its `detection.json`.
        genotype: of the backbone.
        detector: structure.
        variables: weights and statistics, float32.
        test: the test images.
        rows: positions of those that lie on the canvas.
    """

    source: Path
    settings: ConfigDict
    facts: dict[str, Any]
    measured: dict[str, Any]
    genotype: Genotype
    detector: Detector
    variables: Variables
    test: Instances
    rows: np.ndarray

    @property
    def canvas(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.settings.data.canvases[0], self.facts["channels"])

    def stream(self, test: Instances) -> CanvasStream:
        """Opens test images on the canvas."""
        return detection.open_stream(self.settings, test, self.facts["channels"], training=False)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and deviation of the training's pixels, float32 [C]."""
        return tuple(np.asarray(self.facts[key], np.float32) for key in ("mean", "std"))


def is_run(source: Path) -> bool:
    """Returns whether a folder is the workdir of a detector."""
    try:
        return json.loads((source / layout.CONFIG).read_bytes())["task"].startswith("detect")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def load(source: Path, config: ConfigDict, output: Path) -> Trained:
    """Loads the trained detector in the workdir `source`.

    Args:
        source: the workdir.
        config: see `configuration.export_config`.
        output: the folder to be written; detection data have no folder that it could disturb.

    Raises:
        UserError: there is none, or its data cannot be loaded or are others.
    """
    for name in (layout.DETECTOR, layout.NETWORK_GENOTYPE, layout.DATASET, layout.DETECTION):
        if not (source / name).is_file():
            raise UserError(
                f"There is no trained detector in {source}, which has no {name}: run task 'detect' to "
                "its end first."
            )
    settings = _settings(source, config)
    facts = _read(source / layout.DATASET, ("channels", "mean", "std", "test"))
    measured = _read(source / layout.DETECTION, ("images", "objects", "crowds", "numbers"))
    _, test = detection.load_instances(settings.data)
    _check_data(source, facts, measured, test)
    genotype = Genotype.load(source / layout.NETWORK_GENOTYPE)
    sizes = {key: settings.backbone[key] for key in ("channels", "stem", "stem_multiplier")}
    settings.backbone.frozen_levels = 0  # nothing is trained
    detector, variables = detectors.build(
        settings,
        Source(genotype, sizes, None, {}),
        *(test.num_classes, facts["channels"], "float32"),
    )
    variables = load_network(source / layout.DETECTOR, variables)
    by_canvas = detection.open_stream(
        settings, test, facts["channels"], training=False
    ).images_by_canvas
    canvas = max(by_canvas, key=lambda canvas: len(by_canvas[canvas]))
    settings.data.canvases = (canvas,)
    variables = jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), variables)
    return Trained(
        *(source, settings, facts, measured, genotype, detector, variables, test),
        by_canvas[canvas],
    )


def _read(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Reads a file of the run; UserError unless it has the keys."""
    found = read_json(path, "File of a run")
    if not isinstance(found, dict) or not found.keys() >= {*keys}:
        raise UserError(f"{path} is not what task 'detect' writes: train the detector again.")
    return found


def _settings(source: Path, config: ConfigDict) -> ConfigDict:
    """Reads the config of a detector's training, with the place where its data are now."""
    settings = configuration.load(source / layout.CONFIG)
    if config.data_dir:
        raise UserError(
            "config.data_dir is for data sets of TFDS, which detectors do not read: leave it empty."
        )
    if config.data:
        if not settings.data.root:
            raise UserError(
                f"config.data={config.data} names the folder of COCO 2017, but the detector in {source} "
                f"was trained on other data: leave it empty."
            )
        settings.data.root = config.data
    return settings


def _check_data(source: Path, facts: dict, measured: dict, test: Instances) -> None:
    """UserError unless the test images are those of the training and of its evaluation."""
    if facts["test"] != test.identity:
        raise UserError(
            f"The detector in {source} was tested on other images than those of {test.name} "
            f"({facts['test']}; now {test.identity}): bring the former back, or name the place where "
            "they are now by config.data."
        )
    crowds = int(test.crowd.sum())
    here = {"images": len(test), "objects": len(test.boxes) - crowds, "crowds": crowds}
    if any(measured[key] != value for key, value in here.items()):
        raise UserError(
            f"{source / layout.DETECTION} is about other images than the test images of the training: "
            "run task 'detect_evaluate' there with the config of the training."
        )


def write(own: Trained, folder: Path, scratch: Path) -> dict:
    """Writes and checks all files.

    Args:
        own: the detector.
        folder: where to.
        scratch: an empty folder for the files exchanged with the fresh processes.

    Returns:
        The content of `meta.json`.

    Raises:
        UserError: a file does not find what the detector finds.
    """
    compared = own.rows[np.unique(np.linspace(0, len(own.rows) - 1, _COMPARED).astype(int))]
    some = own.test.select(compared)
    weights = named(own.variables)
    if not all(np.isfinite(leaf).all() for leaf in weights.values()):
        raise UserError("The trained detector has NaN or infinite weights: its training diverged.")
    # Full float32 products on every device, in the exported program too.
    with jax.default_matmul_precision("highest"):
        expected, scales = _expected(own, some)
        formats.write_detector(folder, own.detector, own.variables, own.canvas)
    formats.write_weights(folder, weights)
    own.genotype.save(folder / "genotype.json")
    meta = _describe(own)
    write_json(folder / "meta.json", meta)
    _logger.info("export: reads every file again in a fresh process")
    checks.check_weights(folder, scratch, weights)
    images = [
        some.read(row, own.facts["channels"], own.settings.data.white) for row in range(len(some))
    ]
    pixels = scales * detector_checks.box_tolerance(own.canvas[:2])
    meta["checks"] = detector_checks.check(folder, scratch, images, expected, pixels)
    if len(own.rows) == len(own.test):
        meta["checks"]["model.stablehlo"]["AP"] = _checked_ap(own, folder / "model.stablehlo")
    write_json(folder / "meta.json", meta)
    (folder / "README.md").write_text(card.detector_card(meta, own.genotype), encoding="utf-8")
    return meta


def headline(meta: dict) -> str:
    """Returns how good the detector is, in a few words."""
    numbers = meta["test"]["numbers"]
    return f"box AP {100 * numbers['AP']:.1f}, AP50 {100 * numbers['AP50']:.1f}"


def _expected(own: Trained, some: Instances) -> tuple[list[Boxes], np.ndarray]:
    """Detects in some images as the training's evaluation does, in float32.

    Returns:
        What is found in each, with boxes in pixels of the image; and float [n], pixels of each image to
        one of the canvas.
    """

    @jax.jit
    def find(images, sizes):
        images = detectors.prepared(images, sizes, *own.moments(), jnp.float32)
        return detectors.detect(own.detector, own.variables, images, sizes)

    expected, scales = [], []
    for batch in own.stream(some).batches():
        found = jax.device_get(find(batch.images, batch.sizes))
        for row, size, *each in zip(batch.rows, batch.sizes, *found):
            if row >= 0:
                boxes, scores, labels, count = each
                scale = (some.sizes[row] / size)[[1, 0, 1, 0]]
                expected.append(Boxes(boxes[:count] * scale, labels[:count], scores[:count]))
                scales.append(scale.max())
    return expected, np.array(scales)


def _checked_ap(own: Trained, path: Path) -> float:
    """Returns the AP of the exported program; UserError if the training has measured another one."""
    _logger.info("export: evaluates the exported program on all %d test images", len(own.test))
    ap = detector_checks.measure_ap(path, own.stream(own.test), *own.moments())
    measured = own.measured["numbers"]["AP"]
    device = _read(own.source / layout.VERSIONS, ["device"])["device"]
    exact = device == "cpu" and own.settings.dtype != "bfloat16"
    if abs(ap - measured) > (_AP if exact else _ROUGH_AP):
        raise UserError(
            f"The exported program has a box AP of {ap:.4f}, but {own.source / layout.DETECTION} says "
            f"{measured:.4f}: run task 'detect_evaluate' there with the config of the training."
        )
    return ap


def _describe(own: Trained) -> dict:
    """Returns the content of `meta.json`, without the checks."""
    settings, test, facts = own.settings, own.test, own.facts
    height, width, channels = own.canvas
    files = isinstance(test.images[0], str)
    return {
        "format": FORMATS["detector"],
        "kind": "detector",
        # Only the last part of a path: the folders above it are private.
        "data": f"{settings.data.name}:{Path(test.name).name}" if files else settings.data.name,
        "class_names": list(test.class_names),
        "category_ids": test.category_ids.tolist(),
        "preprocessing": {
            "canvas": [height, width],
            "short_side": int(max(settings.data.short_side)),
            "long_side": settings.data.long_side,
            "channels": channels,
            "mean": facts["mean"],
            "std": facts["std"],
            # Value of white in images of 16 bits; 0: the training had none.
            "white": settings.data.white,
            "formula": "x = (image / 255 - mean) / std, float32 [batch, height, width, channels]",
        },
        "network": {
            "detector": "retinanet",
            **{key: settings.backbone[key] for key in ("channels", "stem", "stem_multiplier")},
            "levels": list(own.detector.levels),
            "pyramid_channels": settings.fpn.channels,
            "pyramid_levels": settings.fpn.levels,
            "head_convs": settings.head.convs,
            "anchor_scale": settings.anchor.scale,
        },
        "detections": settings.test.to_dict(),
        "test": {
            **{key: own.measured[key] for key in ("images", "objects", "crowds", "numbers")},
            "on_canvas": len(own.rows),
        },
        "test_checksum": facts["test"]["crc32"],
        "parameters": detectors.parameters(own.variables),
    } | card.written()

"""The tasks 'detect', which trains and evaluates a detector, and 'detect_evaluate', which evaluates one.

An evaluation of other test images than those of the training, by another section `test` of the config, or
of an exported detector writes files of its own, and the run's results stay as they are.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax import predict
from ddarts_jax.configuration import differences
from ddarts_jax.data.splits import spread
from ddarts_jax.detection import (
    coco_evaluation,
    datasets,
    draw_detections,
    exported,
    outlines,
    saved,
)
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.datasets import Pixels
from ddarts_jax.detection.detector import Detector, Source
from ddarts_jax.detection.evaluate import Tested, evaluate_stream
from ddarts_jax.detection.instances import Classes, Instances
from ddarts_jax.detection.training import Feed, make_step
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.models import weights
from ddarts_jax.models.layers import Variables
from ddarts_jax.reports import detection_drawing, report
from ddarts_jax.runs import layout
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.runs.workdir import Clock
from ddarts_jax.tasks import evaluation, pipeline
from ddarts_jax.training import compilation, loop, optim, schedule
from ddarts_jax.training.checkpoint import Checkpoints

_logger = logging.getLogger(__name__)

_PICTURES = 12
_SHOWN = 0.3  # score from which on a detection is drawn
_KINDS = {"bbox": "box", "segm": "mask"}  # what is told of, by COCO's name for it
_SAID = ("AP", "AP50", "AP75")  # of COCO's numbers, in the summary


class _Run(NamedTuple):
    """Everything that a training is made of.

    Attributes:
        config: the whole config.
        source: of the backbone.
        detector: structure.
        variables: weights and statistics at the start, which the training takes over (donates).
        pixels: how images reach the detector.
        training: stream of the training images.
        test: stream of the test images.
        dtype: compute dtype.
    """

    config: ConfigDict
    source: Source
    detector: Detector
    variables: Variables
    pixels: Pixels
    training: CanvasStream
    test: CanvasStream
    dtype: str

    def evaluate(self, variables: Variables) -> Tested:
        """Evaluates the detector with some weights on the test images."""
        return evaluate_stream(self.detector, variables, self.test, self.pixels, self.dtype)


def run(config, workdir: Path, dtype, clock: Clock) -> dict:
    """Trains a detector, or continues to, and evaluates it.

    Writes `detector.npz` (see `weights.save_network`), `detections.json` (all detections of the test, in
    COCO's format), `detection.json` (the evaluation), `summary.json`, pictures in `pictures/`, what
    `saved.keep` does, and metrics, checkpoints and report as every run.

    Args:
        config: the whole config.
        workdir: an existing folder that no other process uses.
        dtype: compute dtype.
        clock: clock of the run.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the user can fix the problem; nothing has been written where the workdir belongs to
            another run.
        Stopped: a signal ended the run; the state is saved.
    """
    source = detectors.find_source(config.backbone)
    train, test = datasets.load(config.data, datasets.with_masks(config))
    identity = saved.identity_of(config, source, train)
    saved.check(workdir, identity, train, test)
    own = _prepare(config, source, train, test, dtype)
    live = report.Live(workdir)
    writer = MetricsWriter(workdir, pipeline.after_epoch(clock, live))
    with contextlib.closing(writer), pipeline.kept_if_stopped(clock, live):
        variables, tested = _train(own, identity, workdir, writer)
    weights.save_network(workdir / layout.DETECTOR, variables)
    tested = tested or own.evaluate(variables)
    _write_results(workdir, test, own.pixels.white, tested, "")
    summary = _summarize(own, variables, tested, workdir, clock)
    live.close()
    return summary


def _prepare(config, source: Source, train, test, dtype) -> _Run:
    """Builds the detector and opens the images; all that can be refused is refused here."""
    sharding.data_mesh(config.train.batch_images, key="train.batch_images")
    pixels = datasets.pixels_of(config.data, train, source.data)
    streams = (
        datasets.training_stream(config, train, pixels),
        datasets.test_stream(config, test, pixels),
    )
    key = jax.random.key(config.seed)
    detector, variables = detectors.build(config, source, train.num_classes, pixels.channels, key)
    for canvas in streams[0].shapes:
        images = jax.ShapeDtypeStruct((config.train.batch_images, *canvas), dtype)
        detectors.check_canvas(detector, variables, source.sizes["stem"], images)
    _logger.info(
        "%s: %d training and %d test images, %d and %d objects of %d classes",
        *(config.data.name, len(train), len(test), len(train.boxes), len(test.boxes)),
        train.num_classes,
    )
    return _Run(config, source, detector, variables, pixels, *streams, dtype)


def _train(
    own: _Run, identity: dict, workdir: Path, writer: MetricsWriter
) -> tuple[Variables, Tested | None]:
    """Trains from the newest checkpoint to the end.

    Returns:
        The variables, and their test after the last epoch; None if that was in an earlier start.
    """
    config, settings = own.config, own.config.train
    plan = schedule.schedule(
        own.training.batches_per_epoch * settings.batch_images,
        *(settings.batch_images, settings.epochs, config.chunk_steps),
    )
    init, step = make_step(own.detector, settings, plan, own.variables.weights)
    mesh = sharding.data_mesh(settings.batch_images)
    feed = Feed(own.training, step, plan, own.pixels, own.dtype, mesh, config.seed)
    _logger.info(
        "detect: %s parameters, levels %s, canvases %s, batch %d, %d epochs of %d steps",
        f"{sum(detectors.parameters(own.variables).values()):,}",
        *(own.detector.levels, [shape[:2] for shape in own.training.shapes]),
        *(settings.batch_images, plan.epochs, plan.epoch),
    )

    tested = None

    def end_epoch(epoch, state, means):
        nonlocal tested
        record = means | {"learning_rate": optim.weights_learning_rate(state.optimizer)}
        if epoch % config.evaluate.every == 0 or epoch == plan.epochs:
            tested = own.evaluate(state.variables)
            record |= _aps(tested, ("AP", "AP50"))
        return record

    directory = workdir / "checkpoints" / "detect"
    with (
        contextlib.closing(feed),
        Checkpoints(directory, identity, config.checkpoint.keep_last) as checkpoints,
    ):
        # Not reached if the workdir belongs to another run.
        instances = own.training.instances, own.test.instances
        saved.keep(workdir, config, own.source, *instances, own.pixels)
        state = loop.run(
            "detect",
            feed.start(init(own.variables)),
            feed.compile,
            num_batches=1,
            plan=plan,
            checkpoints=checkpoints,
            writer=writer,
            every_minutes=config.checkpoint.every_minutes,
            end_epoch=end_epoch,
            profile=workdir / "profile" / "detect" if config.profile else None,
        )
    return state.variables, tested


def _summarize(
    own: _Run, variables: Variables, tested: Tested, workdir: Path, clock: Clock
) -> dict:
    """Writes and prints what the run has come to; returns it."""
    canvas = own.training.shapes[-1]
    params = detectors.parameters(variables)
    macs = detectors.macs(own.detector, variables, canvas)
    clock.keep(compilation.spent())
    summary = {
        "task": own.config.task,
        "data": own.config.data.name,
        **_aps(tested, _SAID),
        "params": sum(params.values()),
        "params_by_part": params,
        "macs": sum(macs.values()),
        "macs_by_part": macs,
        "macs_canvas": canvas[:2],
        "seconds": round(clock.total(), 1),
        "compile_seconds": round(clock.compiling, 1),
        "workdir": str(workdir),
    }
    write_json(workdir / layout.SUMMARY, summary)
    height, width, _ = canvas
    print(
        f"parameters {summary['params']:,}, MACs {summary['macs']:,} for an image on {height} x {width} "
        "pixels"
    )
    _print_numbers(own.test.instances, tested)
    compiling = summary["compile_seconds"]
    note = f" ({compiling} s of them compiling)" if compiling else ""
    print(f"Done in {summary['seconds']} s{note}; results are in {workdir}.")
    return summary


def evaluate(config, workdir: Path, dtype) -> dict:
    """Evaluates the detector of a workdir, or an exported one, on the test images of the config.

    Writes `detections.json`, `detection.json` and `pictures/`; on other images than those of the
    training's test, by another section `test`, or of an exported detector, `detections-<name>.json` and
    so on in place of them.

    Args:
        config: the whole config. Besides the test images and section `test`, what it says about the
            detector and the size of images must be what it was trained with.
        workdir: of a task 'detect' that has ended; where `config.export` names a folder, any.
        dtype: compute dtype, which an exported detector does not need.

    Returns:
        The 12 numbers of COCO by name, those of masks as "mask_AP" and so on, and the paths of the files.

    Raises:
        UserError: there is no detector, or it was trained with other settings or classes.
    """
    if config.export:
        return _evaluate_export(config, workdir)
    own = saved.load(workdir, config.test)
    _check_settings(config, own.config, workdir)
    test = datasets.load_test(config.data, own.classes, datasets.with_masks(own.config))
    if test.identity == own.data.get("train"):
        _logger.warning(
            "detect_evaluate: the detector was trained on these very images: AP tells what it remembers"
        )
    stream = datasets.test_stream(config, test, own.pixels)
    tested = evaluate_stream(own.detector, own.variables, stream, own.pixels, dtype)
    same = test.identity == own.data.get("test") and config.test == own.config.test
    name = "" if same else evaluation.file_name(test.name)
    numbers = _finish(workdir, test, own.pixels.white, tested, name)
    report.Live(workdir).close()
    return numbers


def _evaluate_export(config, workdir: Path) -> dict:
    """Evaluates the program of an export, image by image as `predict` runs it; see `evaluate`."""
    folder = Path(config.export)
    meta, forward = predict.load_detector(folder)
    given = meta["preprocessing"]
    _check_export(config, meta)
    masks = bool(predict.mask_size(meta))
    ids = np.array(meta["category_ids"], np.int64)
    classes = Classes(str(folder), ids, tuple(meta["class_names"]))
    test = datasets.load_test(config.data, classes, masks)
    sizes = exported.resized(test.sizes, given)
    if smaller := int((sizes > given["canvas"]).any(1).sum()):
        _logger.warning(
            "detect_evaluate: %d of the %d images are made smaller to lie on the canvas of %d x %d",
            *(smaller, len(test), *given["canvas"]),
        )
    results = []
    for row in range(len(test)):
        image = test.read(row, given["channels"], given["white"])
        found = exported.find(forward, image, given)
        valid = np.ones(len(found.labels), bool)
        parts = (found.boxes, found.scores, found.labels, valid, *([found.masks] if masks else []))
        arrays = (part[None] for part in parts)
        results += coco_evaluation.results_of(test, np.array([row]), test.sizes[[row]], *arrays)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    evaluations = {kind: coco_evaluation.evaluate(test, results, kind) for kind in kinds}
    tested = Tested(results, evaluations)
    name = f"{evaluation.file_name(test.name)}-of-{evaluation.file_name(folder.resolve().name)}"
    return _finish(workdir, test, given["white"], tested, name)


def _check_export(config, meta: dict) -> None:
    """Refuses another size of images, or other boxes that count, than the exported program has."""
    given = meta["preprocessing"]
    there = {"data": {key: given[key] for key in ("short_side", "long_side")}}
    here = {"data": {"short_side": max(config.data.short_side), "long_side": config.data.long_side}}
    there["test"], here["test"] = meta["detections"], config.test.to_dict()
    if different := differences(there, here):
        raise UserError(
            f"The exported detector in {config.export} has other settings (there, here): "
            f"{'; '.join(different)}. Set them as there."
        )


def _check_settings(config, own, workdir: Path) -> None:
    """Refuses what a config says about a detector if it was trained with something else."""

    def kept(config):
        data = {key: config.data[key] for key in ("short_side", "long_side")}
        parts = {key: config[key].to_dict() for key in ("fpn", "anchor", "head", "rpn", "roi")}
        levels = {"levels": config.backbone.levels}
        return parts | {"detector": config.detector, "data": data, "backbone": levels}

    if different := differences(kept(own), kept(config)):
        raise UserError(
            f"The detector in {workdir} was trained with other settings (there, here): "
            f"{'; '.join(different)}. Take its own config, --config={workdir / layout.CONFIG} "
            "--config.task=detect_evaluate."
        )


def _print_numbers(test: Instances, tested: Tested) -> None:
    for kind, own in tested.evaluations.items():
        said = ", ".join(f"{name} {100 * own.numbers[name]:.1f}" for name in _SAID)
        print(f"{_KINDS[kind]} {said} on {len(test)} test images")


def _aps(tested: Tested, names: Sequence[str]) -> dict[str, float]:
    """Returns numbers of COCO under the names that metrics and summary have for them: "box_ap50"."""
    return {
        f"{_KINDS[kind]}_{name.lower()}": own.numbers[name]
        for kind, own in tested.evaluations.items()
        for name in names
    }


def _finish(workdir: Path, test: Instances, white: int, tested: Tested, name: str) -> dict:
    """Writes and prints an evaluation; returns its numbers and paths, see `_write_results`."""
    pattern = layout.DETECTION.replace(".", "-{}.")
    name = name and evaluation.apart(name, test.name, workdir, pattern)
    paths = _write_results(workdir, test, white, tested, name)
    _print_numbers(test, tested)
    print(f"By class and size: {paths['detection']}; all detections: {paths['detections']}.")
    numbers = {
        f"{coco_evaluation.PREFIXES[kind]}{number}": value
        for kind, own in tested.evaluations.items()
        for number, value in own.numbers.items()
    }
    return numbers | {key: str(path) for key, path in paths.items()}


def _write_results(
    workdir: Path, test: Instances, white: int, tested: Tested, name: str
) -> dict[str, Path]:
    """Writes detections, evaluation and pictures; with a name, as those of other data.

    Args:
        workdir: where to.
        test: the images.
        white: see `Pixels`.
        tested: what was found in them.
        name: part of the files' names; empty: the run's own.

    Returns:
        The paths, by "detections", "detection" and "pictures".
    """
    ending = f"-{name}" if name else ""
    paths = {
        "detections": workdir / layout.DETECTIONS,
        "detection": workdir / layout.DETECTION,
        "pictures": workdir / "pictures",
    }
    paths = {key: path.with_stem(path.stem + ending) for key, path in paths.items()}
    coco_evaluation.write_results(paths["detections"], tested.results)
    facts = coco_evaluation.facts(test, tested.evaluations)
    write_json(paths["detection"], {"data": test.name} | facts)
    _draw(test, white, tested, paths["pictures"])
    return paths


def _draw(test: Instances, white: int, tested: Tested, folder: Path) -> None:
    """Draws some test images with truth and detections, and how well all fit."""
    folder.mkdir(exist_ok=True)
    rows = spread(len(test), _PICTURES)
    wanted = {int(test.image_ids[row]): row for row in rows}
    found = {row: [] for row in rows}
    for each in tested.results:
        if each["image_id"] in wanted and each["score"] >= _SHOWN:
            found[wanted[each["image_id"]]].append(each)
    for number, row in enumerate(rows, 1):
        image = test.read(row, test.channels, white)
        pair = _truth(test, row, "segm" in tested.evaluations), _boxes(test, found[row])
        path = folder / f"{number:02d}.png"
        draw_detections.draw_pair(image, *pair, test.class_names, path)
    title, evaluation = Path(test.name).name, tested.evaluations["bbox"]
    detection_drawing.draw_precision_recall(
        evaluation.precision, coco_evaluation.THRESHOLDS, folder / "precision_recall", title
    )
    detection_drawing.draw_ap_by_class(
        test.class_names, evaluation.by_class[:, 0], folder / "ap_by_class", title
    )


def _truth(test: Instances, row: int, masks: bool) -> draw_detections.Boxes:
    """Returns the objects of an image as what is drawn."""
    objects = test.ground_truth(row)
    outlined = np.array([*test.masks(row)]) if masks else None
    return draw_detections.Boxes(objects.boxes, objects.labels, masks=outlined)


def _boxes(test: Instances, results: list[dict]) -> draw_detections.Boxes:
    """Returns results of an image as what is drawn."""
    boxes = np.array([each["bbox"] for each in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ids = np.array([each["category_id"] for each in results], np.int64)
    scores = np.array([each["score"] for each in results])
    rles = [each["segmentation"] for each in results if "segmentation" in each]
    masks = np.array([outlines.mask_of(rle, *rle["size"]) for rle in rles]) if rles else None
    return draw_detections.Boxes(boxes, np.searchsorted(test.category_ids, ids), scores, masks)

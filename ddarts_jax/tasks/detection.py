"""The tasks 'detect', which trains and evaluates a detector, and 'detect_evaluate'."""

import contextlib
import logging
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ddarts_jax import configuration
from ddarts_jax.detection import coco_evaluation, coco_json, composed_digits, draw_detections
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.canvases import default_canvases
from ddarts_jax.detection.evaluate import Tested, evaluate_stream
from ddarts_jax.detection.instances import Instances, pixel_statistics
from ddarts_jax.detection.training import Feed, make_step
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.models import backbone, weights
from ddarts_jax.reports import detection_drawing, report
from ddarts_jax.runs import facts, layout
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.runs.workdir import Clock
from ddarts_jax.training import compilation, loop, optim, schedule
from ddarts_jax.training.checkpoint import Checkpoints

_logger = logging.getLogger(__name__)

_DIGITS, _COCO = "digits", "coco"
_PATHS = ("train_annotations", "train_images", "test_annotations", "test_images")
_PICTURES = 12
_SHOWN = 0.3  # score from which on a detection is drawn


class Data(NamedTuple):
    """Images and objects, and how they reach the detector.

    Attributes:
        train: images of the training.
        test: images of the test.
        channels: 1 for grey, 3 for RGB.
        mean: float32 [C] of the pixels, in units of [0, 1].
        std: likewise.
    """

    train: Instances
    test: Instances
    channels: int
    mean: np.ndarray
    std: np.ndarray


def run(config, workdir: Path, dtype, clock: Clock) -> dict:
    """Trains a detector, or continues to, and evaluates it; or evaluates the workdir's.

    Writes `detector.npz` (see `weights.save_network`), `network_genotype.json` (of the backbone),
    `detections.json` (all detections of the test, in COCO's format), `detection.json` (the evaluation),
    `summary.json`, pictures in `pictures/`, and what every run has.

    Args:
        config: the whole config.
        workdir: an existing folder that no other process uses.
        dtype: compute dtype.
        clock: clock of the run.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the user can fix the problem.
        Stopped: a signal ended the run; the state is saved.
    """
    source = detectors.find_source(config.backbone)
    data = _load(config, source)
    detector, variables = detectors.build(
        config, source, data.train.num_classes, data.channels, dtype
    )
    live = report.Live(workdir)
    try:
        if config.task == "detect":
            variables = _train(
                config, source, data, detector, variables, workdir, dtype, clock, live
            )
            weights.save_network(workdir / layout.DETECTOR, variables)
            source.genotype.save(workdir / layout.NETWORK_GENOTYPE)
        else:
            _check_classes(workdir, data)
            variables = weights.load_network(workdir / layout.DETECTOR, variables)
        tested = _evaluate(config, data, detector, variables, dtype)
        return _summarize(config, data, variables, tested, workdir, clock)
    finally:
        clock.keep(compilation.spent())
        live.close()


def _load(config, source: detectors.Source) -> Data:
    """Reads the images' descriptions; pixels are normalised as those that the backbone has learnt."""
    train, test = _instances(config.data)
    channels = source.channels or train.channels
    if channels < train.channels:
        _logger.warning(
            "detect: the backbone takes grey images, so those of the data are made grey"
        )
    if source.data:
        mean, std = (np.asarray(source.data[key], np.float32) for key in ("mean", "std"))
    else:
        mean, std = pixel_statistics(train, channels, white=config.data.white)
    _logger.info(
        "%s: %d training and %d test images, %d and %d objects of %d classes",
        *(config.data.name, len(train), len(test), len(train.boxes), len(test.boxes)),
        train.num_classes,
    )
    return Data(train, test, channels, mean, std)


def _instances(settings) -> tuple[Instances, Instances]:
    """Returns the training and the test images that section `data` of a config names."""
    given = [settings[key] for key in _PATHS]
    if settings.name == _DIGITS:
        if settings.root or any(given):
            raise UserError(
                "config.data.name is 'digits', which are composed here: leave config.data.root and the "
                "paths of annotations and images empty, or set config.data.name=coco."
            )
        return composed_digits.load()
    if settings.name != _COCO:
        raise UserError(f"config.data.name is {settings.name!r}; it must be 'digits' or 'coco'.")
    if bool(settings.root) == any(given) or (any(given) and not all(given)):
        raise UserError(
            "Name either config.data.root, the folder of COCO 2017, or all four of "
            f"{', '.join(f'config.data.{key}' for key in _PATHS)}."
        )
    return coco_json.read_pair(
        *(coco_json.paths_of_2017(settings.root) if settings.root else given)
    )


def _stream(config, instances: Instances, channels: int, training: bool) -> CanvasStream:
    """Opens the images of the training or of the test."""
    settings = config.data
    sides = tuple(settings.short_side)
    rows = instances.trained_images if training else np.arange(len(instances))
    sizes = instances.sizes[rows] if len(rows) else instances.sizes
    return CanvasStream(
        instances=instances,
        batch_size=config.train.batch_images,
        sides=settings.canvases or default_canvases(sizes, max(sides), settings.long_side),
        short_side=sides,
        long_side=settings.long_side,
        channels=channels,
        training=training,
        seed=config.seed,
        flip=settings.flip,
        max_objects=settings.max_objects,
        num_workers=settings.num_workers if isinstance(instances.images[0], str) else 0,
        white=settings.white,
    )


def _train(config, source, data: Data, detector, variables, workdir, dtype, clock, live):
    """Trains from the newest checkpoint to the end; returns the variables."""
    settings = config.train
    stream = _stream(config, data.train, data.channels, training=True)
    plan = schedule.schedule(
        stream.batches_per_epoch * settings.batch_images,
        *(settings.batch_images, settings.epochs, config.chunk_steps),
    )
    mesh = sharding.data_mesh(settings.batch_images)
    for canvas in stream.shapes:
        images = jax.ShapeDtypeStruct((settings.batch_images, *canvas), dtype)
        levels = backbone.Levels(detector.levels, (), 0)
        backbone.check_canvas(
            *(detector.backbone, _body(variables), levels, source.sizes["stem"], images)
        )
    init, step = make_step(detector, settings, plan, variables.weights)
    feed = Feed(stream, step, plan, data.mean, data.std, dtype, mesh)
    counts = detectors.parameters(variables)
    _logger.info(
        "detect: %s parameters, levels %s, canvases %s, batch %d, %d epochs of %d steps",
        *(f"{sum(counts.values()):,}", detector.levels, [shape[:2] for shape in stream.shapes]),
        *(settings.batch_images, plan.epochs, plan.epoch),
    )

    def end_epoch(epoch, state, means):
        record = means | {"learning_rate": optim.weights_learning_rate(state.optimizer)}
        if epoch % config.evaluate.every == 0 or epoch == plan.epochs:
            numbers = _evaluate(config, data, detector, state.variables, dtype).evaluation.numbers
            record |= {"box_ap": numbers["AP"], "box_ap50": numbers["AP50"]}
        return record

    def after(workdir):
        clock.keep(compilation.spent())
        live.update()

    writer = MetricsWriter(workdir, after)
    try:
        with (
            contextlib.closing(feed),
            Checkpoints(
                workdir / "checkpoints" / "detect",
                _identity(config, source, data),
                config.checkpoint.keep_last,
            ) as checkpoints,
        ):
            _keep(workdir, config, data)
            state = loop.run(
                *(
                    "detect",
                    feed.start(init(variables)),
                    feed.compile,
                    1,
                    plan,
                    checkpoints,
                    writer,
                ),
                *(config.checkpoint.every_minutes, end_epoch),
                profile=workdir / "profile" / "detect" if config.profile else None,
            )
    finally:
        writer.close()
    return state.variables


def _body(variables):
    return variables._replace(
        weights=variables.weights["backbone"], statistics=variables.statistics["backbone"]
    )


def _identity(config, source: detectors.Source, data: Data) -> dict:
    """The values that define the training: checkpoints are resumed only if they match."""
    whole = config.to_dict()
    for key in ("evaluate", "test", "profile", "checkpoint"):
        del whole[key]
    for key in ("root", *_PATHS):  # which images they are says the checksum
        del whole["data"][key]
    del whole["backbone"]["run"]
    crc = None if source.weights is None else zlib.crc32(source.weights.read_bytes())
    own = {"genotype": source.genotype.to_dict(), "weights": crc, "images": data.train.identity}
    return whole | {"task": "detect", "of_backbone": own}


def _keep(workdir: Path, config, data: Data) -> None:
    """Writes what every run keeps: its config, the facts of its data, and its versions."""
    configuration.save(config.to_dict(), workdir / layout.CONFIG)
    kept = {
        "name": config.data.name,
        "class_names": list(data.train.class_names),
        "category_ids": data.train.category_ids.tolist(),
        "channels": data.channels,
        "mean": np.asarray(data.mean, np.float64).tolist(),
        "std": np.asarray(data.std, np.float64).tolist(),
        "train": data.train.identity,
        "test": data.test.identity,
    }
    write_json(workdir / layout.DATASET, kept)
    write_json(workdir / layout.VERSIONS, facts.versions())


def _check_classes(workdir: Path, data: Data) -> None:
    """Refuses data of other classes than the workdir's detector has learnt."""
    path = workdir / layout.DATASET
    if not path.is_file() or not (workdir / layout.DETECTOR).is_file():
        raise UserError(f"There is no detector in {workdir}: run task 'detect' there first.")
    own = read_json(path, "Facts of the training data").get("class_names")
    if own != list(data.train.class_names):
        raise UserError(
            f"The detector in {workdir} was trained with the classes {own}, but the data have "
            f"{list(data.train.class_names)}: name the data that it was trained on, or data like them."
        )


def _evaluate(config, data: Data, detector, variables, dtype) -> Tested:
    stream = _stream(config, data.test, data.channels, training=False)
    mesh = sharding.data_mesh(config.train.batch_images)
    return evaluate_stream(detector, variables, stream, data.mean, data.std, dtype, mesh)


def _summarize(config, data: Data, variables, tested: Tested, workdir: Path, clock) -> dict:
    """Writes the results of the run and prints them; returns the summary."""
    evaluation = tested.evaluation
    coco_evaluation.write_results(workdir / layout.DETECTIONS, tested.results)
    write_json(workdir / layout.DETECTION, coco_evaluation.facts(data.test, evaluation))
    _draw(data, tested, workdir / "pictures")
    counts = detectors.parameters(variables)
    clock.keep(compilation.spent())
    numbers = evaluation.numbers
    summary = {
        "task": config.task,
        "data": config.data.name,
        "box_ap": numbers["AP"],
        "box_ap50": numbers["AP50"],
        "box_ap75": numbers["AP75"],
        "params": sum(counts.values()),
        "params_by_part": counts,
        "seconds": round(clock.total(), 1),
        "compile_seconds": round(clock.compiling, 1),
        "workdir": str(workdir),
    }
    write_json(workdir / layout.SUMMARY, summary)
    print(
        f"box AP {100 * numbers['AP']:.1f}, AP50 {100 * numbers['AP50']:.1f}, AP75 "
        f"{100 * numbers['AP75']:.1f} on {len(data.test)} test images; "
        f"{sum(counts.values()):,} parameters"
    )
    print(f"Done in {summary['seconds']} s; results are in {workdir}.")
    return summary


def _draw(data: Data, tested: Tested, folder: Path) -> None:
    """Draws some test images with truth and detections, and how well all fit."""
    folder.mkdir(exist_ok=True)
    test = data.test
    rows = np.unique(np.linspace(0, len(test) - 1, _PICTURES).astype(int))
    wanted = {int(test.image_ids[row]): row for row in rows}
    found = {row: [] for row in rows}
    for each in tested.results:
        if each["image_id"] in wanted and each["score"] >= _SHOWN:
            found[wanted[each["image_id"]]].append(each)
    ranks = {int(number): label for label, number in enumerate(test.category_ids)}
    for number, row in enumerate(rows, 1):
        own = found[row]
        boxes = np.array([each["bbox"] for each in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        detected = draw_detections.Boxes(
            boxes,
            np.array([ranks[each["category_id"]] for each in own], int),
            np.array([each["score"] for each in own]),
        )
        truth = draw_detections.Boxes(*test.ground_truth(row))
        image = test.read(row, test.channels)
        path = folder / f"{number:02d}.png"
        draw_detections.draw_pair(image, truth, detected, test.class_names, path)
    name = os.path.basename(test.name)
    precision = tested.evaluation.precision
    detection_drawing.draw_precision_recall(
        precision, coco_evaluation.THRESHOLDS, folder / "precision_recall", name
    )
    detection_drawing.draw_ap_by_class(
        test.class_names, tested.evaluation.by_class[:, 0], folder / "ap_by_class", name
    )

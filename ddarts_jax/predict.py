"""Classification of image files with an exported network, or detection with an exported detector.

    python -m ddarts_jax.predict EXPORT_DIR IMAGE... [--top 3]
    python -m ddarts_jax.predict EXPORT_DIR IMAGE... [--score 0.3] [--draw DIR]

Prints a line for each image: the file, then its most probable classes with their probabilities,
separated by tabs. With a detector it prints a line for each object: the file, class, probability, and
the box x1, y1, x2, y2 in pixels of the upright image; pictures show masks too, where it finds some. Runs
the folder's `model.stablehlo`, which needs only JAX.
"""

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddarts_jax import files
from ddarts_jax.data import crops, decoding
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.runs import layout

if TYPE_CHECKING:
    from ddarts_jax.detection.draw_detections import Boxes

_logger = logging.getLogger(__name__)

# Of the folder, by what it holds; to be raised when an older reader would misread a newer folder.
FORMATS = {"classifier": 1, "detector": 2}
_BATCH_SIZE = 64


def predict(
    directory: str | os.PathLike, paths: Sequence[str | os.PathLike], top: int = 3
) -> list[list[tuple[str, float]] | UserError]:
    """Classifies image files with an exported network.

    Files are decoded like those of the training: 16 bits are scaled to 8 by its range, transparent parts
    become white, CMYK and palettes become RGB. They are resized to the network's size; a network for
    colour images sees grey ones as three equal channels, one for grey images sees colours as grey.

    Args:
        directory: a folder that task 'export' wrote.
        paths: image files, some of which may be missing or broken.
        top: number of classes per image, at least 1.

    Returns:
        For each path the (class name, probability) of the `top` most probable classes, the best
        first, or the UserError that says why this file cannot be classified.

    Raises:
        UserError: the folder holds no export that this version can run.
    """
    if top < 1:
        raise UserError(f"The number of classes per image, --top, must be 1 or more, not {top}.")
    meta = _meta_of(directory, "classifier")
    forward = _load_classifier(directory, meta)
    results: list = [None] * len(paths)
    images, positions = [], []
    for position, path in enumerate(paths):
        try:
            images.append(_read(path, meta["preprocessing"]))
            positions.append(position)
        except UserError as error:
            results[position] = error
    size = min(_BATCH_SIZE, len(images))
    for start in range(0, len(images), _BATCH_SIZE):
        start = min(start, len(images) - size)  # every batch is full: one program is compiled
        probabilities = _softmax(forward(np.stack(images[start : start + size])))
        for position, row in zip(positions[start:], probabilities):
            best = np.argsort(-row, kind="stable")[:top]
            results[position] = [(meta["class_names"][k], float(row[k])) for k in best]
    return results


def detect(
    directory: str | os.PathLike, paths: Sequence[str | os.PathLike], score: float = 0.3
) -> Iterator[tuple[np.ndarray | None, "Boxes | UserError"]]:
    """Finds the objects in image files with an exported detector.

    Files are decoded like those of the training, but turned upright if the camera says so. They are
    resized and put on the export's canvas as in the training; one that does not fit is made smaller,
    with a warning.

    Args:
        directory: a folder that task 'export' wrote.
        paths: image files, some of which may be missing or broken.
        score: the least probability of an object; the program itself leaves out those below the
            `detections.score` of `meta.json`.

    Yields:
        For each path its pixels, uint8 [h, w, C], and what was found there, the most probable object
        first, with masks if the detector finds some; or None and the UserError that says why this file
        cannot be used.

    Raises:
        UserError: the folder holds no export of a detector that this version can run.
    """
    from ddarts_jax.detection import exported  # reading ahead takes seconds to import

    if not 0 <= score <= 1:
        raise UserError(
            f"The least probability of an object, --score, is from 0 to 1, not {score}."
        )
    meta, forward = load_detector(directory)
    given = meta["preprocessing"]
    read = functools.partial(decoding.read_image, image_size=0, white=given["white"])
    for path in paths:
        try:
            image = _decode(path, given["channels"], read)
        except UserError as error:
            yield None, error
            continue
        if (exported.resized(image.shape[:2], given) > given["canvas"]).any():
            _logger.warning(
                "%s has %d x %d pixels, more than the canvas of %d x %d holds at the training's scale: "
                "it was made smaller, and small objects may be missed.",
                *(path, image.shape[1], image.shape[0], *reversed(given["canvas"])),
            )
        found = exported.find(forward, image, given)
        yield image, exported.shown(found, score, image.shape[:2])


def _meta_of(directory, kind: str) -> dict:
    """Reads the `meta.json` of an export that must be of a kind of `FORMATS`."""
    meta = read_meta(directory)
    if kind_of(meta) != kind:
        raise UserError(f"The export {directory} is not that of a {kind}.")
    return meta


def kind_of(meta: dict) -> str:
    """Returns what a `meta.json` describes, a key of `FORMATS`."""
    return meta.get("kind", "classifier")  # which the exports before detectors do not tell


def mask_size(meta: dict) -> tuple[int, ...]:
    """Returns height and width of the masks in their boxes; empty: the detector finds boxes alone."""
    return tuple(meta.get("masks") or ())  # which the exports before masks do not tell


def read_meta(directory: str | os.PathLike) -> dict:
    """Reads the `meta.json` of an export.

    Raises:
        UserError: when it is missing or broken, or the folder is of another format.
    """
    path = Path(directory) / layout.EXPORT_META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        wanted = FORMATS[kind_of(meta)]
        if meta["format"] != wanted:
            raise UserError(
                f"The export {directory} is of format {meta['format']!r}, but this version of "
                f"ddarts_jax reads format {wanted}: use the version that wrote it."
            )
        _check(meta)
    except OSError as error:
        raise UserError(
            f"{directory} is not a folder that task 'export' wrote: {path} cannot be read "
            f"({error.strerror})."
        ) from error
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is corrupt ({error!r}): export the network again.") from error
    return meta


def _check(meta: dict) -> None:
    """Raises an exception of any type unless a `meta.json` holds what that of its kind must."""
    names, given = meta["class_names"], meta["preprocessing"]
    numbers = np.array([given["mean"], given["std"]], np.float32)
    if kind_of(meta) == "detector":
        sides, others = (*given["canvas"], *mask_size(meta)), (given["white"],)
        # These only scale an image, which the canvas then bounds; a short side of 0 leaves it as it is.
        short, long = given["short_side"], given["long_side"]
        fits = (
            len(given["canvas"]) == 2
            and len(mask_size(meta)) in (0, 2)
            and given["channels"] in (1, 3)
            and len(meta["category_ids"]) == len(names)
            and all(
                type(each) is int
                for each in (*meta["category_ids"], meta["detections"]["limit"], short, long)
            )
            and 0 <= short < 2**63
            and 0 < long < 2**63
        )
    else:
        sides, others = (given["image_size"],), (given["channels"], given.get("white", 0))
        fits = given["crop"] in (None, crops.CENTRAL)
    if (
        not fits
        or not (isinstance(names, list) and all(isinstance(name, str) for name in names))
        or not all(type(number) is int and 0 <= number < 2**16 for number in (*sides, *others))
        or min(sides) == 0
        or numbers.shape != (2, given["channels"])
        or not (np.isfinite(numbers).all() and numbers[1].min() > 0)
    ):
        raise ValueError("class_names or preprocessing are not what an export holds")


def _load_classifier(directory, meta: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Loads the forward pass: uint8 images [B, H, W, C] to logits [B, classes]."""
    given = meta["preprocessing"]
    shape = (given["image_size"], given["image_size"], given["channels"])
    forward = _load_program(directory, [shape], [(len(meta["class_names"]),)])
    mean, std = (np.array(given[key], np.float32) for key in ("mean", "std"))
    return lambda images: np.asarray(forward((images.astype(np.float32) / 255 - mean) / std))


def load_detector(directory: str | os.PathLike) -> tuple[dict, Callable]:
    """Returns the `meta.json` and the program, see `exported.find`, of an exported detector.

    Raises:
        UserError: the folder holds no export of a detector that this version can run.
    """
    meta = _meta_of(directory, "detector")
    canvas = (*meta["preprocessing"]["canvas"], meta["preprocessing"]["channels"])
    limit, masks = meta["detections"]["limit"], mask_size(meta)
    outputs = [(limit, 4), (limit,), (limit,), (), *([(limit, *masks)] if masks else [])]
    return meta, _load_program(directory, [canvas, (2,)], outputs)


def _load_program(directory, inputs: Sequence[tuple], outputs: Sequence[tuple]) -> Callable:
    """Loads the program of an export, whose arrays have these shapes behind the batch."""
    import jax
    from jax import export

    from ddarts_jax.ops import backend

    processes.devices()
    path = Path(directory) / "model.stablehlo"
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
        shapes = [
            [each.shape[1:] for each in avals] for avals in (program.in_avals, program.out_avals)
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a corrupt file raises nearly anything
        raise UserError(
            f"{path} is corrupt, or of a version that JAX {jax.__version__} cannot read "
            f"({type(error).__name__}): export the network again."
        ) from error
    if shapes != [inputs, outputs]:
        raise UserError(f"{path} does not belong to meta.json beside it: export the network again.")
    if backend.name() not in ("cpu", "gpu"):
        raise UserError(
            f"{path} is for CPU and CUDA, not for {backend.name()}: set JAX_PLATFORMS=cpu."
        )
    return jax.jit(program.call)


def _read(path, preprocessing: dict) -> np.ndarray:
    """Decodes an image file as for training, to uint8 [image_size, image_size, channels]."""
    size, channels = preprocessing["image_size"], preprocessing["channels"]
    white = preprocessing.get("white", 0)
    if channels not in (1, 3):
        raise UserError(f"{path}: the network reads {channels} channels, image files have 1 or 3.")
    read = functools.partial(decoding.read_image, image_size=size, white=white)
    if preprocessing["crop"]:  # the network was trained on a stream

        def read(file):
            return crops.crop(file.read(), crops.central_box, size, white)

    return _decode(path, channels, read)


def _decode(path, channels: int, read: Callable) -> np.ndarray:
    """Decodes an image file, by `read`, to uint8 [h, w, channels]."""
    from PIL import Image

    if not os.path.isfile(path):
        raise UserError(f"There is no image file {path}.")
    image = decoding.read_file(Path(path), read)
    if channels < image.shape[2]:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.broadcast_to(image, (*image.shape[:2], channels))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the probabilities of logits [B, classes], in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit status: 0; 2 if anything was wrong with the folder or a file.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ddarts_jax.predict",
        description="Classifies image files with an exported network, or detects objects in them.",
    )
    parser.add_argument("export", metavar="EXPORT_DIR", help="a folder that task 'export' wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image file")
    parser.add_argument("--top", type=int, metavar="N", help="classes per image (3)")
    parser.add_argument(
        "--score", type=float, metavar="P", help="least probability of an object (0.3)"
    )
    parser.add_argument(
        "--draw", metavar="DIR", help="a folder for pictures with the objects found"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    if hasattr(sys.stdout, "reconfigure"):  # names of files may be any bytes
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        meta = read_meta(arguments.export)
        run = {"classifier": _classify_files, "detector": _detect_in_files}[kind_of(meta)]
        return 0 if run(arguments, meta["class_names"]) else 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _classify_files(arguments: argparse.Namespace, names: Sequence[str]) -> bool:
    """Prints the classes of each file; returns whether all could be read."""
    if arguments.score is not None or arguments.draw is not None:
        raise UserError(
            f"--score and --draw are for detectors, but {arguments.export} is a classifier: use --top."
        )
    top = 3 if arguments.top is None else arguments.top
    results = predict(arguments.export, arguments.images, top)
    for path, result in zip(arguments.images, results):
        if isinstance(result, UserError):
            print(f"error: {result}", file=sys.stderr)
        else:
            print(path, *(f"{name} {probability:.4f}" for name, probability in result), sep="\t")
    return not any(isinstance(result, UserError) for result in results)


def _detect_in_files(arguments: argparse.Namespace, names: Sequence[str]) -> bool:
    """Prints, and perhaps draws, the objects in each file; returns whether all could be read."""
    from ddarts_jax.detection import draw_detections

    if arguments.top is not None:
        raise UserError(
            f"--top is for classifiers, but {arguments.export} is a detector: use --score."
        )
    score = 0.3 if arguments.score is None else arguments.score
    pictures = _picture_names(arguments.images, arguments.draw)
    colours = draw_detections.class_colours(names)
    readable = True
    found = detect(arguments.export, arguments.images, score)
    for path, picture, (image, result) in zip(arguments.images, pictures, found):
        if isinstance(result, UserError):
            print(f"error: {result}", file=sys.stderr)
            readable = False
            continue
        for box, label, probability in zip(result.boxes, result.labels, result.scores):
            corners = (f"{corner:.2f}" for corner in box)
            print(path, names[label], f"{probability:.4f}", *corners, sep="\t")
        if picture:
            drawn = draw_detections.draw(image, result, names, colours)
            with files.writing(picture) as temporary:
                drawn.save(temporary, "png")
    return readable


def _picture_names(paths: Sequence[str], folder: str | None) -> list[Path | None]:
    """Creates a folder and names a picture there for each image file; None without a folder.

    No name is that of an image: the folder may be that of the images.
    """
    if folder is None:
        return [None] * len(paths)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder for pictures, --draw={folder}, cannot be made: {error.strerror}."
        ) from error
    stems, found = [Path(path).stem for path in paths], []
    for number, stem in enumerate(stems, 1):
        twice = f"-{number}" if stems.count(stem) > 1 else ""
        found.append(Path(folder, f"{stem}{twice}-detections.png"))
    return found


if __name__ == "__main__":
    sys.exit(main())

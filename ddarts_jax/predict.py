"""Classification of image files with an exported network.

    python -m ddarts_jax.predict EXPORT_DIR IMAGE... [--top 3]

Prints a line for each image: the file, then its most probable classes with their probabilities,
separated by tabs. Runs the folder's `model.stablehlo`, which needs only JAX.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ddarts_jax.data import crops, decoding
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.runs import layout

FORMAT = 1  # of the folder; to be raised when an older reader would misread a newer folder
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
    meta = read_meta(directory)
    forward = _load_program(directory, meta)
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


def read_meta(directory: str | os.PathLike) -> dict:
    """Reads the `meta.json` of an export.

    Raises:
        UserError: when it is missing or broken, or the folder is of another format.
    """
    path = Path(directory) / layout.EXPORT_META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise UserError(
                f"The export {directory} is of format {meta['format']!r}, but this version of "
                f"ddarts_jax reads format {FORMAT}: use the version that wrote it."
            )
        names, given = meta["class_names"], meta["preprocessing"]
        numbers = np.array([given["mean"], given["std"]], np.float32)
        if (
            not (isinstance(names, list) and all(isinstance(name, str) for name in names))
            or not all(type(given[key]) is int for key in ("image_size", "channels"))
            or type(given.get("white", 0)) is not int
            or not 0 <= given.get("white", 0) <= 65535
            or given["crop"] not in (None, crops.CENTRAL)
            or numbers.shape != (2, given["channels"])
            or not (np.isfinite(numbers).all() and numbers[1].min() > 0 < given["image_size"])
        ):
            raise ValueError("class_names or preprocessing are not what an export holds")
    except OSError as error:
        raise UserError(
            f"{directory} is not a folder that task 'export' wrote: {path} cannot be read "
            f"({error.strerror})."
        ) from error
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is corrupt ({error!r}): export the network again.") from error
    return meta


def _load_program(directory, meta: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Loads the forward pass: uint8 images [B, H, W, C] to logits [B, classes]."""
    import jax
    from jax import export

    from ddarts_jax.ops import backend

    processes.devices()
    path = Path(directory) / "model.stablehlo"
    given = meta["preprocessing"]
    shape = (given["image_size"], given["image_size"], given["channels"])
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
        (images,), (logits,) = program.in_avals, program.out_avals
        fits = images.shape[1:] == shape and logits.shape[1:] == (len(meta["class_names"]),)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a corrupt file raises nearly anything
        raise UserError(
            f"{path} is corrupt, or of a version that JAX {jax.__version__} cannot read "
            f"({type(error).__name__}): export the network again."
        ) from error
    if not fits:
        raise UserError(f"{path} does not belong to meta.json beside it: export the network again.")
    if backend.name() not in ("cpu", "gpu"):
        raise UserError(
            f"{path} is for CPU and CUDA, not for {backend.name()}: set JAX_PLATFORMS=cpu."
        )
    forward = jax.jit(program.call)
    mean, std = (np.array(given[key], np.float32) for key in ("mean", "std"))
    return lambda images: np.asarray(forward((images.astype(np.float32) / 255 - mean) / std))


def _read(path, preprocessing: dict) -> np.ndarray:
    """Decodes an image file as for training, to uint8 [image_size, image_size, channels]."""
    from PIL import Image

    size, channels = preprocessing["image_size"], preprocessing["channels"]
    white = preprocessing.get("white", 0)
    if channels not in (1, 3):
        raise UserError(f"{path}: the network reads {channels} channels, image files have 1 or 3.")
    if not os.path.isfile(path):
        raise UserError(f"There is no image file {path}.")
    read = functools.partial(decoding.read_image, image_size=size, white=white)
    if preprocessing["crop"]:  # the network was trained on a stream

        def read(file):
            return crops.crop(file.read(), crops.central_box, size, white)

    image = decoding.read_file(Path(path), read)
    if channels < image.shape[2]:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.broadcast_to(image, (size, size, channels))


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
        description="Classifies image files with an exported network.",
    )
    parser.add_argument("export", metavar="EXPORT_DIR", help="a folder that task 'export' wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image file")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes per image (3)")
    arguments = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):  # names of files may be any bytes
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        results = predict(arguments.export, arguments.images, arguments.top)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, result in zip(arguments.images, results):
        if isinstance(result, UserError):
            print(f"error: {result}", file=sys.stderr)
        else:
            print(path, *(f"{name} {probability:.4f}" for name, probability in result), sep="\t")
    return 2 if any(isinstance(result, UserError) for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes mini-CIFAR, CIFAR-10 at a quarter of its pixels: 6,000 training and all test images of 16x16.

    python benchmarks/mini_cifar/images.py [--data DIR]

DIR is a directory of tensorflow-datasets with CIFAR-10 in it (none: its default), or holds the two files
that `read_sheets` describes. The images are chosen and ordered by hashes of their pixels, so that every
source of CIFAR-10 gives the same file.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import protocol
from PIL import Image

import ddarts_jax as dd
from ddarts_jax.data import hashes
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.files import writing
from ddarts_jax.runs import facts

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
IMAGES_PER_CLASS = 600
_SHEETS = ("cifar10.part1.npz", "cifar10.part2.npz")
_SIDE = 32
_NUM_TRAIN = 50_000


def read_sheets(folder: Path) -> Dataset:
    """Reads CIFAR-10 from two npz files of sheets of images.

    In them are arrays `sheet00`, `sheet01` and so on, each the bytes of an image file with rows of
    32x32 images, in the official order, the training images first, and `labels`, integers [60000].
    """
    images, labels = [], None
    for name in _SHEETS:
        with np.load(folder / name) as archive:
            for key in sorted(key for key in archive.files if key.startswith("sheet")):
                sheet = np.asarray(Image.open(io.BytesIO(archive[key].tobytes())).convert("RGB"))
                rows = sheet.reshape(-1, _SIDE, sheet.shape[1] // _SIDE, _SIDE, 3)
                images.append(rows.swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 3))
            labels = archive["labels"] if "labels" in archive.files else labels
    if labels is None or sum(map(len, images)) != len(labels):
        raise UserError(
            f"The files {', '.join(_SHEETS)} in {folder} are not those of one data set."
        )
    images = np.concatenate(images)
    train, test = slice(None, _NUM_TRAIN), slice(_NUM_TRAIN, None)
    return Dataset.from_arrays(images[train], labels[train], images[test], labels[test])


def read(folder: str) -> Dataset:
    """Reads CIFAR-10 from a folder, see the head of this file.

    Raises:
        UserError: it is not there.
    """
    if all((Path(folder) / name).is_file() for name in _SHEETS):
        return read_sheets(Path(folder))
    data = dd.default_config().data
    data.name, data.data_dir = "cifar10", folder
    return dd.load_data(data)


def averaged(images: np.ndarray) -> np.ndarray:
    """Halves both sides: every pixel is the mean of four, rounded (halves to the even number).

    Args:
        images: uint8 [n, 2H, 2W, C].

    Returns:
        uint8 [n, H, W, C].
    """
    four = [images[:, i::2, j::2].astype(np.float32) for i in (0, 1) for j in (0, 1)]
    return np.rint(sum(four) / 4).astype(np.uint8)


def chosen(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """Chooses the images of each class whose hashes are smallest.

    Args:
        images: uint8 [n, H, W, C].
        labels: integers [n].
        per_class: how many of each; a class that has fewer keeps all.

    Returns:
        Indices, ascending by hash.
    """
    order = np.argsort(hashes.of_pixels(images), kind="stable")
    rank = np.empty(len(order), int)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return order[rank[order] < per_class]


def mini(whole: Dataset) -> dict[str, np.ndarray]:
    """Returns the arrays of mini-CIFAR, as the program reads them from an npz file.

    Args:
        whole: CIFAR-10.
    """
    train = chosen(whole.train_images, whole.train_labels, IMAGES_PER_CLASS)
    test = chosen(whole.test_images, whole.test_labels, whole.num_test)
    return {
        "images": averaged(whole.train_images[train]),
        "labels": whole.train_labels[train],
        "test_images": averaged(whole.test_images[test]),
        "test_labels": whole.test_labels[test],
        "class_names": np.array(CLASSES),
    }


def main(argv: list[str] | None = None) -> int:
    """Writes the file and prints its checksum; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default="", metavar="DIR", help="where CIFAR-10 is")
    try:
        arrays = mini(read(parser.parse_args(argv).data))
        protocol.MINI.images.parent.mkdir(parents=True, exist_ok=True)
        with writing(protocol.MINI.images) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    checksum = facts.of_images(Dataset.from_arrays(**arrays))["images_checksum"]
    counts = f"{len(arrays['images'])} training and {len(arrays['test_images'])} test images"
    print(f"{protocol.MINI.images}: {counts}, checksum {checksum}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`folder:PATH`: image files in a folder per class.

Either PATH holds the folders of the classes, or there are such folders below PATH/train and PATH/test
(or PATH/val; PATH/train alone has no test split).
"""

import dataclasses
import functools
import itertools
import os
import unicodedata
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ddarts_jax.data import decoding, hashes
from ddarts_jax.data.sources.source import (
    Loaded,
    Opened,
    Split,
    check_class_count,
    check_memory,
)
from ddarts_jax.errors import UserError

# Images of several sizes are resized to this where the user chose nothing: CIFAR's size, which the
# search space was made for.
_MIXED_SIZE = 32
_TEST_FOLDERS = ("test", "val")  # the first that is there
_STREAM = "set data.stream=True and data.image_size, or a smaller data.image_size"
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # hidden on Windows without a leading dot


def load(data: Any) -> Loaded:
    """Decodes all images.

    With `image_size` 0, images that all have one square size stay as stored, others become 32x32.

    Raises:
        UserError: as `open_files`; for a file that is not a readable image; for more images than the
            memory holds.
    """
    train, test, class_names = _list_splits(data.name.partition(":")[2])
    splits = [train, test] if test else [train]
    files = [file for split in splits for file in split.files]
    headers = [decoding.read_file(file, decoding.read_header) for file in files]
    image_size = data.image_size
    if not image_size:
        sizes = {(header.width, header.height) for header in headers}
        width, height = sizes.pop()
        if sizes or height != width:
            image_size = _MIXED_SIZE
            logging.info("Images are resized to %d x %d pixels.", image_size, image_size)
    channels = 1 if all(header.grey for header in headers) else 3
    side = image_size or headers[0].width
    check_memory(2 * len(files) * side**2 * channels, data.name, _STREAM)  # decoded, then stacked
    deep = [file for file, header in zip(files, headers) if header.deep]
    with ThreadPoolExecutor() as pool:
        white = data.white or decoding.white_of(
            max(
                pool.map(lambda file: decoding.read_file(file, decoding.brightest), deep), default=0
            )
        )
        read = functools.partial(decoding.read_image, image_size=image_size, white=white)
        images = list(pool.map(lambda file: decoding.read_file(file, read), files))
    if deep:
        logging.info("%d images have 16 bits; white is %d in them.", len(deep), white)
    images = decoding.stack(images)
    num_train = len(train.files)
    return Loaded(
        Split(images[:num_train], train.labels),
        Split(images[num_train:], test.labels) if test else None,
        class_names,
        white if deep else 0,
    )


def open_files(data: Any) -> Opened:
    """Lists the image files; opens none of them.

    A file that is hidden, or whose suffix is not that of an image, is skipped; the log counts them.

    Raises:
        UserError: for a folder that is missing or holds no class, for a class without images or in
            two spellings, for a class of the test split that is not in the training split.
    """
    path = data.name.partition(":")[2]
    train, test, class_names = _list_splits(path)
    root = os.path.expanduser(path)
    return Opened(_folder(root, train), _folder(root, test) if test else None, class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """The image files of a split.

    Attributes:
        root: the folder above all of them.
        files: bytes [n], their paths below `root`. An array: a list of a million paths would cost
            every worker a hundred bytes each and seconds to unpickle.
        labels: int32 [n].
    """

    root: str
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads an encoded image and its label."""
        with open(os.path.join(os.fsencode(self.root), self.files[index]), "rb") as file:
            return file.read(), self.labels[index]

    def failure(self, index: int, reason: str) -> str:
        """Returns the message for an image that cannot be read or decoded."""
        path = os.path.join(self.root, os.fsdecode(self.files[index]))
        return (
            f"Cannot read {path} as an image: {reason}; repair or replace it, then the same command "
            "continues."
        )

    def identity(self) -> dict[str, Any]:
        """Returns what distinguishes this split from others, as JSON."""
        return {
            "images": len(self),
            "files_crc32": zlib.crc32(self.labels.tobytes(), zlib.crc32(b"\n".join(self.files))),
        }

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        """Returns hashes of the paths below `root` and the files' sizes, uint64 [n].

        Not of the paths alone: cameras and scripts number the files of every folder alike.
        """
        root, files = os.fsencode(self.root), self.files[indices].tolist()

        def sizes(part):
            return [os.path.getsize(os.path.join(root, file)) for file in part]

        parts = [files[start : start + 1000] for start in range(0, len(files), 1000)]
        # A file system on the network answers many questions at once as quickly as one.
        with ThreadPoolExecutor(32) as pool:
            every = itertools.chain.from_iterable(pool.map(sizes, parts))
            return hashes.of_names(b"%b\0%d" % named for named in zip(files, every))


class _Files(NamedTuple):
    """The image files of a split.

    Attributes:
        files: n paths, class by class, each class by name.
        labels: int32 [n].
    """

    files: list[Path]
    labels: np.ndarray


def _folder(root: str, split: _Files) -> Folder:
    files = np.array([os.fsencode(os.path.relpath(file, root)) for file in split.files])
    return Folder(root, files, split.labels)


def _list_splits(path: str) -> tuple[_Files, _Files | None, tuple[str, ...]]:
    """Lists the training files, the test files (None: no test split) and the class names."""
    root = Path(os.path.expanduser(path))
    if not path or not os.path.isdir(root):
        raise UserError(f"There is no folder {path!r}; data.name must read folder:PATH.")
    top = [folder.name for folder in _listed(root) if folder.is_dir()]
    test_name = next((name for name in _TEST_FOLDERS if name in top), None)
    if "train" in top and (test_name or len(top) == 1):
        ignored = sorted({*top} - {"train", test_name})
        if ignored:
            logging.warning("Folders ignored in %s: %s.", root, ", ".join(ignored))
        train_files = _class_files(root / "train")
        test_files = _class_files(root / test_name) if test_name else {}
    else:
        train_files, test_files = _class_files(root), {}
    class_names = tuple(sorted(train_files))
    _check_spellings([*class_names, *test_files])
    check_class_count(class_names, f"folder:{path}")
    unknown = sorted(set(test_files) - set(train_files))
    if unknown:
        raise UserError(
            f"Class {unknown[0]!r} is in {root / test_name} but not in {root / 'train'}: no network "
            "can learn it; add training images or remove it from the test."
        )
    untested = sorted(set(train_files) - set(test_files))
    if test_files and untested:
        logging.warning(
            "%d of %d classes have no image in %s (%s): the accuracy says nothing about them.",
            *(len(untested), len(class_names), root / test_name),
            ", ".join(map(repr, untested[:5])),
        )

    def split(class_files: dict[str, list[Path]]) -> _Files:
        counts = [len(class_files.get(name, [])) for name in class_names]
        return _Files(
            [file for name in class_names for file in class_files.get(name, [])],
            np.repeat(np.arange(len(class_names), dtype=np.int32), counts),
        )

    return split(train_files), split(test_files) if test_files else None, class_names


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Lists the image files of every class below a folder.

    Raises:
        UserError: for no class, for a class without images, for a folder inside a class.
    """
    from PIL import Image

    suffixes = {
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN
    }
    classes, skipped = {}, []
    for child in _listed(folder):
        if not child.is_dir():
            continue
        files = []
        for entry in _listed(child):
            if entry.is_dir():
                raise UserError(
                    f"There is a folder {entry.name!r} in {child.path}; a class folder holds "
                    "images only, and splits need the folders train and test (or val)."
                )
            is_image = os.path.splitext(entry.name)[1].lower() in suffixes
            (files if is_image else skipped).append(Path(entry.path))
        if not files:
            raise UserError(
                f"Class {child.name!r} is empty: there is no image in {child.path}; "
                "add images (.jpg, .png, ...) or remove the folder."
            )
        classes[child.name] = files
    if not classes:
        raise UserError(f"There is no class in {folder}: put the images of a class in a folder.")
    if skipped:
        logging.warning(
            "Skipped %d files in %s without the suffix of an image, starting with %s.",
            *(len(skipped), folder, skipped[0]),
        )
    return classes


def _listed(folder: str | os.PathLike) -> list[os.DirEntry]:
    """Lists the content of a folder, sorted by name, without hidden files.

    Entries know whether they are folders, so a million files are listed without asking for each.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (
                    entry
                    for entry in entries
                    if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM_FILES
                ),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise UserError(f"Cannot list {os.fspath(folder)}: {decoding.reason(error)}.") from error


def _check_spellings(class_names: Sequence[str]) -> None:
    """Raises UserError for a name that is not Unicode, and for two that differ only in spelling.

    That is in case, spaces or encoding.
    """
    spellings: dict[str, str] = {}
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # any bytes make a file name, but not a text
            raise UserError(
                f"The name of the class folder {os.fsencode(name)!r} is not Unicode: rename it."
            ) from error
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if spellings.setdefault(key, name) != name:
            raise UserError(
                f"There are two spellings of a class, {spellings[key]!r} and {name!r}: "
                "merge or rename the folders."
            )

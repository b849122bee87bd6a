"""Labelled images of every source as arrays in memory, and stratified splits of them.

`config.data.name` is one of
    digits          scikit-learn's 1,797 handwritten digits, 8x8, grey; they come with the package
    folder:PATH     one folder of images a class; or such folders below PATH/train and PATH/test (or
                    PATH/val; PATH/train alone loses its test split as other data without one do)
    npz:PATH        arrays `images`, `labels`, perhaps `test_images`, `test_labels`, `class_names`
    any other name  a TensorFlow Datasets (TFDS) image classification set, prepared as ArrayRecord
"""

import dataclasses
import difflib
import functools
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from absl import logging

from ddarts_jax.errors import UserError

_T = TypeVar("_T")

# What a folder of images of several sizes is resized to where the user chose nothing: CIFAR's size,
# which the search space was made for.
_MIXED_FOLDER_SIZE = 32
# The split into train and test does not depend on `config.seed`, so that accuracies compare.
HOLD_OUT_SEED = 0
_TEST_FOLDERS = ("test", "val")  # the first that is there
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # hidden on Windows without a leading dot
_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA", "F", *_16_BIT_MODES)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split into train and test.

    Attributes:
        name: `config.data.name`.
        train_images: uint8 [n, H, H, C].
        train_labels: int32 [n], every one of 0..num_classes-1 at least once.
        test_images: uint8 [m, H, H, C].
        test_labels: int32 [m].
        class_names: One name a class.
        mean: float32 [C], of the training pixels in units of [0, 1].
        std: float32 [C], likewise; 1 for a channel that never changes, so that it can divide.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.train_images.shape[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, H, C)."""
        return self.train_images.shape[1:]

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour."""
        return self.train_images.shape[3]

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test_labels)

    @property
    def train(self) -> np.ndarray:
        """Indices of the training images."""
        return np.arange(self.num_train)

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the halves for the weights and for the alphas, see `stratified_halves`."""
        return stratified_halves(self.train_labels, seed)


class _Split(NamedTuple):
    images: np.ndarray  # uint8 [n, H, W, C]
    labels: np.ndarray  # integers [n]


def load(data: Any) -> Dataset:
    """Loads the data that `config.data` names; see the head of this file for the names.

    `image_size` > 0 resizes the whole image to that many pixels a side (bilinear, antialiased, the
    aspect ratio is not kept). Data without a test split lose `test_fraction` of each class to one.

    Args:
        data: `config.data`, of which it reads name, data_dir, image_size, test_fraction and
            images_per_class.

    Returns:
        The images and labels with the statistics of the training pixels.

    Raises:
        UserError: for an unknown name, for data that are missing, unreadable or not prepared, for
            labels that are not 0..K-1, for a class without images.
    """
    path = data.name.partition(":")[2]
    if data.name == "digits":
        train, test, class_names = _load_digits(data.image_size)
    elif data.name.startswith("folder:"):
        train, test, class_names = _load_folder(path, data.image_size)
    elif data.name.startswith("npz:"):
        train, test, class_names = _load_npz(path, data.image_size)
    else:
        train, test, class_names = _load_tfds(data.name, data.data_dir, data.image_size)

    train = _checked(train, class_names, f"the training split of {data.name!r}")
    missing = np.setdiff1d(np.arange(len(class_names)), train.labels)
    if missing.size:
        names = ", ".join(repr(class_names[i]) for i in missing[:5])
        raise UserError(
            f"{data.name!r} has {len(class_names)} classes, but its training split has no image of "
            f"{missing.size} of them ({names}); every class needs at least one."
        )
    if test is None:
        train, test = (
            _selected(train, part)
            for part in hold_out(train.labels, class_names, data.test_fraction)
        )
    else:
        test = _checked(test, class_names, f"the test split of {data.name!r}")
    if data.images_per_class:
        train, test = (
            _selected(split, at_most(split.labels, data.images_per_class))
            for split in (train, test)
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{data.name!r} has training images of shape {train.images.shape[1:]} but test images "
            f"of shape {test.images.shape[1:]}; give both the same."
        )
    # Some images at a time: the statistics need copies.
    mean, std = mean_std(np.array_split(train.images, -(-len(train.images) // 1000)))
    return Dataset(
        name=data.name,
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        class_names=class_names,
        mean=mean,
        std=std,
    )


def stratified_halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the training images into the halves for the weights and for the alphas.

    The halves are disjoint and cover everything; of each class, and in all, their sizes differ by
    at most one (D-DARTS paper: bilevel optimisation on two halves of the training set).

    Args:
        labels: integers [n], 0..K-1.
        seed: Chooses which image falls where.

    Returns:
        Indices of the weight half and of the architecture half, int32, ascending.
    """
    sizes = np.bincount(labels)
    odd = sizes % 2
    # The image left over in a class of odd size goes to the one half and the other in turn.
    return _split_by_class(labels, sizes // 2 + odd * (np.cumsum(odd) % 2 == 0), seed)


def _split_by_class(
    labels: np.ndarray, second_sizes: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moves `second_sizes[k]` random images of class k into a second part; both int32, sorted."""
    # RandomState: the stream of numbers is frozen for all versions of NumPy.
    random = np.random.RandomState(seed % 2**32)
    in_second = np.zeros(len(labels), bool)
    for label, size in enumerate(second_sizes):
        in_second[random.permutation(np.flatnonzero(labels == label))[:size]] = True
    first, second = np.flatnonzero(~in_second), np.flatnonzero(in_second)
    return first.astype(np.int32), second.astype(np.int32)


def hold_out(
    labels: np.ndarray, class_names: Sequence[str], test_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Takes `test_fraction` of each class, at least one image and never all, as the test split.

    Args:
        labels: integers [n], every class at least once.
        class_names: One name a class.
        test_fraction: Between 0 and 1.

    Returns:
        Indices of the training and of the test images, int32, ascending.

    Raises:
        UserError: for an impossible fraction, for a class of one image.
    """
    check_test_fraction(test_fraction)
    sizes = np.bincount(labels)
    if sizes.min() < 2:
        raise UserError(
            f"Class {class_names[sizes.argmin()]!r} has only 1 image, too few to hold one out for "
            "the test; add images or bring a test split."
        )
    test_sizes = np.clip(np.round(sizes * test_fraction).astype(int), 1, sizes - 1)
    return _split_by_class(labels, test_sizes, HOLD_OUT_SEED)


def check_test_fraction(test_fraction: float) -> None:
    """Raises UserError unless `test_fraction` leaves images in both splits."""
    if not 0 < test_fraction < 1:
        raise UserError(
            "The data have no test split, so data.test_fraction must lie between 0 and 1 "
            f"(both excluded), not {test_fraction}."
        )


def at_most(labels: np.ndarray, images_per_class: int) -> np.ndarray:
    """Chooses `images_per_class` images of each class, and all of a class that has no more.

    Args:
        labels: integers [n].
        images_per_class: At least 1.

    Returns:
        Indices, int32, ascending.
    """
    surplus = np.maximum(np.bincount(labels) - images_per_class, 0)
    return _split_by_class(labels, surplus, HOLD_OUT_SEED)[0]


def _selected(split: _Split, indices: np.ndarray) -> _Split:
    return _Split(split.images[indices], split.labels[indices])


def _check_class_count(class_names: Sequence[str], name: str) -> None:
    if len(class_names) < 2:
        raise UserError(f"{name!r} needs at least 2 classes, but has {len(class_names)}.")


def _checked(split: _Split, class_names: tuple[str, ...], where: str) -> _Split:
    """Makes the labels int32; UserError unless they name classes and the images are square."""
    if not len(split.labels):
        raise UserError(f"There are no images in {where}.")
    lowest, highest = split.labels.min(), split.labels.max()
    if lowest < 0 or highest >= len(class_names):
        raise UserError(
            f"The labels in {where} run from {lowest} to {highest}, but the {len(class_names)} "
            f"classes are 0 to {len(class_names) - 1}."
        )
    height, width = split.images.shape[1:3]
    if height != width:
        raise UserError(
            f"The images in {where} are not square ({height} x {width} pixels); "
            "set data.image_size to resize them."
        )
    return _Split(split.images, split.labels.astype(np.int32))


def mean_std(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of the images in all blocks together.

    Exact, from histograms.

    Args:
        blocks: each uint8 [n, H, W, C], at least one image in all.

    Returns:
        Both float32 [C], in units of [0, 1]; the deviation of a channel that never changes is 1.
    """
    histograms = sum(
        np.stack([np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(block, 3, 0)])
        for block in blocks
    )
    values = np.arange(256) / 255
    weights = histograms / histograms[0].sum()
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    constant = (histograms > 0).sum(axis=1) == 1
    return mean.astype(np.float32), np.where(constant, 1, std).astype(np.float32)


def _load_digits(image_size: int) -> tuple[_Split, None, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = _to_uint8(digits.images, 16)[..., None]
    return (
        _Split(_resize(images, image_size), digits.target),
        None,
        tuple(str(name) for name in digits.target_names),
    )


def _load_folder(path: str, image_size: int) -> tuple[_Split, _Split | None, tuple[str, ...]]:
    """Reads folder:PATH.

    With `image_size` 0, images that all have one square size stay as stored, others become 32x32.
    """
    train, test, class_names = folder_splits(path)
    splits = [train, test] if test else [train]
    files = [file for split in splits for file in split.files]
    if not image_size:
        sizes = {read_file(file, _read_size) for file in files}
        width, height = sizes.pop()
        if sizes or height != width:
            image_size = _MIXED_FOLDER_SIZE
            logging.info("Images are resized to %d x %d pixels.", image_size, image_size)
    read = functools.partial(read_image, image_size=image_size)
    with ThreadPoolExecutor() as pool:
        images = _stack(list(pool.map(lambda file: read_file(file, read), files)))
    num_train = len(train.files)
    return (
        _Split(images[:num_train], train.labels),
        _Split(images[num_train:], test.labels) if test else None,
        class_names,
    )


class Files(NamedTuple):
    """The image files of a split.

    Attributes:
        files: n paths, class by class, each class by name.
        labels: int32 [n].
    """

    files: list[Path]
    labels: np.ndarray


def folder_splits(path: str) -> tuple[Files, Files | None, tuple[str, ...]]:
    """Lists the image files below the folder of folder:PATH by their names; opens none of them.

    A file that is hidden, or whose suffix is not that of an image, is skipped; the log counts them.

    Returns:
        The training files, the test files (None where there is no test split), the class names.

    Raises:
        UserError: for a folder that is missing or holds no class, for a class without images or in
            two spellings, for a class of the test split that is not in the training split.
    """
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
    _check_class_count(class_names, f"folder:{path}")
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

    def split(class_files: dict[str, list[Path]]) -> Files:
        counts = [len(class_files.get(name, [])) for name in class_names]
        return Files(
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
            "Skipped %d files in %s that are no images by their names, %s first.",
            *(len(skipped), folder, skipped[0]),
        )
    return classes


def _listed(folder: str | os.PathLike) -> list[os.DirEntry]:
    """The content of a folder, sorted by name, without hidden files.

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
        raise UserError(f"Cannot list {os.fspath(folder)}: {reason(error)}.") from error


def _check_spellings(class_names: Sequence[str]) -> None:
    """Raises UserError where two different names are one but for case, spaces or encoding."""
    spellings: dict[str, str] = {}
    for name in class_names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if spellings.setdefault(key, name) != name:
            raise UserError(
                f"There are two spellings of a class, {spellings[key]!r} and {name!r}: "
                "merge or rename the folders."
            )


def _load_npz(path: str, image_size: int) -> tuple[_Split, _Split | None, tuple[str, ...]]:
    keys = ("images", "labels", "test_images", "test_labels", "class_names")
    try:
        with open(os.path.expanduser(path), "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not named arrays")
            arrays = {key: archive[key] for key in keys if key in archive.files}
    except Exception as error:  # A damaged archive makes zipfile and NumPy raise nearly anything.
        raise UserError(f"Cannot read {path!r} as an npz file: {reason(error)}.") from error

    prefixes = ["", "test_"] if {"test_images", "test_labels"} & set(arrays) else [""]
    splits = [_npz_split(arrays, prefix, path, image_size) for prefix in prefixes]
    labels = splits[0].labels
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind != "U":
            raise UserError(f"class_names in {path!r} must be a list of strings.")
        class_names = tuple(str(name) for name in names)
    elif labels.max() >= len(labels):
        raise UserError(
            f"The labels in {path!r} must be 0 to K-1 with an image of each, but the largest is "
            f"{labels.max()} among {len(labels)} images."
        )
    else:
        class_names = tuple(str(label) for label in range(labels.max() + 1))
    _check_class_count(class_names, f"npz:{path}")
    return splits[0], splits[1] if len(splits) > 1 else None, class_names


def _npz_split(arrays: dict[str, np.ndarray], prefix: str, path: str, image_size: int) -> _Split:
    """Checks `images` and `labels` (or `test_images`, `test_labels`) and makes images uint8."""
    for key in (prefix + "images", prefix + "labels"):
        if key not in arrays:
            raise UserError(f"There is no array {key!r} in {path!r}.")
    images, labels = arrays[prefix + "images"], arrays[prefix + "labels"]
    where = f"{prefix}images in {path!r}"
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"{where} must be [n,H,W] or [n,H,W,C], not {list(images.shape)}.")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(f"{where} are {list(images.shape)}: channels must come last, as [n,H,W,C].")
    if images.dtype.kind == "f":
        try:
            images = _to_uint8(images, 1)
        except ValueError as error:
            raise UserError(f"{where}: {error}; scale them or store uint8.") from error
    elif images.dtype != np.uint8:
        raise UserError(f"{where} must be uint8, or float in [0, 1], not {images.dtype}.")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise UserError(
            f"{prefix}labels in {path!r} must be {len(images)} integers, one an image, not "
            f"{labels.dtype} {list(labels.shape)}."
        )
    return _Split(_resize(images, image_size), labels)


def _load_tfds(
    name: str, data_dir: str, image_size: int
) -> tuple[_Split, _Split | None, tuple[str, ...]]:
    """Reads a prepared TFDS set."""
    sources, class_names, repair = tfds_splits(name, data_dir)
    images, labels, num_train = [], [], 0
    for part, source in sources.items():
        try:
            for example in source:
                images.append(read_image(io.BytesIO(example["image"]), image_size))
                labels.append(example["label"])
        except Exception as error:  # Readers of damaged files raise nearly anything.
            raise UserError(
                f"Cannot read the split {part!r} of {name!r} ({reason(error)}): {repair}."
            ) from error
        num_train = num_train or len(images)
    if len({image.shape[:2] for image in images}) > 1:
        raise UserError(f"The images of {name!r} differ in size: set data.image_size.")
    images, labels = _stack(images), np.array(labels)
    test = _Split(images[num_train:], labels[num_train:]) if len(sources) > 1 else None
    return _Split(images[:num_train], labels[:num_train]), test, class_names


def tfds_splits(name: str, data_dir: str) -> tuple[dict[str, Sequence], tuple[str, ...], str]:
    """Opens a prepared TFDS set; never downloads, never imports TensorFlow.

    Args:
        name: of TFDS, perhaps with configuration and version.
        data_dir: where it is prepared; empty: TFDS's default.

    Returns:
        The data source of "train" and, if there is one, of "test" or "validation" (ImageNet's test
        split has no labels, and is passed over), whose items hold `image`, encoded bytes, and
        `label`; the class names; what to do where reading fails.

    Raises:
        UserError: for an unknown name, for data not prepared, damaged or not of labelled images.
    """
    import tensorflow_datasets as tfds

    data_dir = os.path.expanduser(data_dir) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # A builder's own code may raise anything.
        raise UserError(_unknown_name(name, error)) from error
    argument = f", data_dir={data_dir!r}" if data_dir else ""
    recipe = (
        f"prepare it once where TensorFlow is installed, by tensorflow_datasets.builder({name!r}, "
        f"file_format='array_record'{argument}).download_and_prepare()"
    )
    repair = f"delete {builder.data_dir} and {recipe}"
    if not builder.is_prepared():
        raise UserError(
            f"{name!r} is not prepared in {builder.data_dir}: {recipe}; or set data.data_dir to "
            "the directory that holds it."
        )
    features, splits = builder.info.features, builder.info.splits
    if (
        not {"image", "label"} <= set(features)
        or not isinstance(features["image"], tfds.features.Image)
        or not isinstance(features["label"], tfds.features.ClassLabel)
        or features["image"].np_dtype not in (np.uint8, np.uint16)
        or "train" not in splits
    ):
        raise UserError(
            f"{name!r} is not for image classification: it needs a split 'train' and the features "
            "'image' (8 or 16 bits) and 'label' (a class)."
        )
    sources = {}
    for part in ("train", "test", "validation"):
        if part not in splits or len(sources) == 2:
            continue
        try:
            source = builder.as_data_source(
                split=part, decoders={"image": tfds.decode.SkipDecoding()}
            )
            if source[0]["label"] >= 0:
                sources[part] = source
        except NotImplementedError as error:
            raise UserError(
                f"{name!r} in {builder.data_dir} is stored as {builder.info.file_format.value}, "
                f"which only TensorFlow reads: {recipe}, into another data_dir."
            ) from error
        except Exception as error:  # Readers of damaged files raise nearly anything.
            raise UserError(
                f"Cannot open the split {part!r} of {name!r} in {builder.data_dir} "
                f"({reason(error)}): {repair}."
            ) from error
    class_names = tuple(features["label"].names)
    _check_class_count(class_names, name)
    return sources, class_names, repair


def _unknown_name(name: str, error: Exception) -> str:
    """What to tell about a name that TFDS cannot make a builder of."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name.partition("/")[0].partition(":")[0] in known:
        return f"TensorFlow Datasets cannot open data.name {name!r}: {reason(error)}."
    near = difflib.get_close_matches(name.lower(), ["digits", "folder:", "npz:", *known])
    if os.path.exists(os.path.expanduser(name)):
        near = [("folder:" if os.path.isdir(os.path.expanduser(name)) else "npz:") + name]
    return (
        f"Unknown data.name {name!r}"
        + (f", did you mean {' or '.join(map(repr, near))}?" if near else ".")
        + " Use 'digits', 'folder:PATH', 'npz:PATH' or a name of TensorFlow Datasets."
    )


def read_file(file: Path, read: Callable[[BinaryIO], _T]) -> _T:
    """Applies `read` to the open file; UserError naming the file where that fails."""
    try:
        with open(file, "rb") as stream:
            return read(stream)
    except Exception as error:  # Damaged images make Pillow's decoders raise nearly anything.
        raise UserError(
            f"Cannot read {file} as an image: {reason(error)}; repair or remove it."
        ) from error


def _read_size(stream: BinaryIO) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    from PIL import Image

    with Image.open(stream) as image:
        return image.size


def read_image(stream: BinaryIO, image_size: int) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 1] if it is grey, else [H, W, 3]; see `grey_or_rgb`.

    `image_size` > 0 resizes.
    """
    from PIL import Image

    with Image.open(stream) as image:
        image = grey_or_rgb(image)
    if image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, -1)


def grey_or_rgb(image: Any) -> Any:
    """Decodes an open Pillow image of any mode, in place, to mode L if it is grey, else to RGB.

    16 bits are scaled to 8, transparent parts become white (what they look like on a page), a
    palette or CMYK becomes RGB, the camera's rotation is applied, of an animation the first frame
    counts.
    """
    from PIL import Image, ImageOps

    image.load()
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        image = Image.fromarray(_to_uint8(np.asarray(image), 1))
    elif image.mode in _16_BIT_MODES:
        image = Image.fromarray(_to_uint8(np.asarray(image), 65535))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """Stacks images of one size; grey ones get 3 equal channels if any has colour."""
    channels = max(image.shape[2] for image in images)
    stacked = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for target, image in zip(stacked, images):
        target[...] = image
    return stacked


def _resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes uint8 [n, H, W, C] with any number of channels to `image_size`, unless that is 0."""
    from PIL import Image

    if not image_size or images.shape[1:3] == (image_size, image_size):
        return images
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for target, image in zip(resized, images):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            target[..., channel] = plane.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return resized


def _to_uint8(values: np.ndarray, full_scale: float) -> np.ndarray:
    """Maps 0..full_scale to 0..255, rounded; ValueError for values outside (or NaN)."""
    if not (values.min() >= 0 and values.max() <= full_scale):
        raise ValueError(f"values from {values.min()} to {values.max()} exceed 0 to {full_scale}")
    return np.round(values * np.float32(255 / full_scale)).astype(np.uint8)


def reason(error: Exception) -> str:
    """The first line of an exception, or its type where it says nothing."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # would name the open stream, not the file
        return "its content is of no known kind"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

"""Labelled images of every source as arrays in memory.

`config.data.name` is one of
    digits          scikit-learn's 1,797 handwritten digits, 8x8, grey; they come with the package
    folder:PATH     a folder of images per class; or such folders below PATH/train and PATH/test (or
                    PATH/val; PATH/train alone loses its test split as other data without one do)
    npz:PATH        arrays `images`, `labels` and optionally `test_images`, `test_labels`,
                    `class_names`
    any other name  a TensorFlow Datasets (TFDS) image classification set, prepared as ArrayRecord
See `sources.table` to add another.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ddarts_jax.data import arrays, hashes, splits
from ddarts_jax.data.sources import table
from ddarts_jax.data.sources.source import Loaded, Split
from ddarts_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split into train and test.

    Attributes:
        name: `config.data.name`, or the name given to `from_arrays`.
        train_images: uint8 [n, H, H, C].
        train_labels: int32 [n], every one of 0..num_classes-1 at least once.
        test_images: uint8 [m, H, H, C].
        test_labels: int32 [m].
        class_names: One name per class.
        mean: float32 [C], of the training pixels in units of [0, 1].
        std: float32 [C], likewise; 1 for a constant channel, to allow division.
        white: Value of white in images of 16 bits, see `decoding.white_of`; 0: there are none.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    white: int = 0

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        test_images: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        *,
        test_fraction: float = 0.2,
        name: str = "arrays",
        seed: int = splits.HOLD_OUT_SEED,
    ) -> "Dataset":
        """Makes a data set of images and labels in memory.

        Arrays that need no conversion and no split are not copied.

        Args:
            images: [n, H, H, C] or [n, H, H] (one channel), uint8, or floating in [0, 1].
            labels: Integers [n], every one of 0..K-1 at least once.
            test_images: [m, H, H, C] or [m, H, H], like `images`; None: `test_fraction` of each
                class, at least one image and never all, becomes the test split.
            test_labels: Integers [m]; given if and only if `test_images` are.
            class_names: K strings; None: "0" to the highest label.
            test_fraction: Between 0 and 1; without effect if there are test images.
            name: Name of the data set, for messages and reports.
            seed: Chooses which images are held out.

        Returns:
            The data set, with mean and standard deviation of the training pixels.

        Raises:
            UserError: For shapes or dtypes other than these, images that are not square, labels
                that are not one per image or not 0..K-1, fewer than two classes, a class without
                training images or of one image where a test split is to be made, test images of
                another size than the training images, an impossible `test_fraction`.
        """
        values = (images, labels, test_images, test_labels, class_names)
        given = {key: value for key, value in zip(arrays.KEYS, values) if value is not None}
        for key, value in given.items():
            try:
                given[key] = np.asarray(value)
            except ValueError as error:  # of nested lists of different lengths
                raise UserError(f"{key} in {name!r} are not an array: {error}.") from error
        return cls._of(arrays.check(given, name), name, test_fraction, seed=seed)

    @classmethod
    def _of(
        cls,
        loaded: Loaded,
        name: str,
        test_fraction: float,
        images_per_class: int = 0,
        seed: int = splits.HOLD_OUT_SEED,
    ) -> "Dataset":
        """Checks what a source has loaded, splits it and computes the statistics."""
        class_names = loaded.class_names
        train = _checked(loaded.train, class_names, f"the training split of {name!r}")
        missing = np.setdiff1d(np.arange(len(class_names)), train.labels)
        if missing.size:
            names = ", ".join(repr(class_names[i]) for i in missing[:5])
            raise UserError(
                f"{name!r} has {len(class_names)} classes, but its training split has no image of "
                f"{missing.size} of them ({names}); every class needs at least one."
            )
        if loaded.test is None:
            parts = splits.hold_out(train.labels, class_names, test_fraction, seed)
            train, test = (_selected(train, part) for part in parts)
        else:
            test = _checked(loaded.test, class_names, f"the test split of {name!r}")
        if images_per_class:
            train, test = (
                _selected(split, splits.at_most(split.labels, images_per_class))
                for split in (train, test)
            )
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UserError(
                f"{name!r} has training images of shape {train.images.shape[1:]} but test images "
                f"of shape {test.images.shape[1:]}; give both the same."
            )
        # Some images at a time: the statistics need copies.
        mean, std = mean_std(np.array_split(train.images, -(-len(train.images) // 1000)))
        return cls(
            name=name,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            class_names=class_names,
            mean=mean,
            std=std,
            white=loaded.white,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
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
    def crop(self) -> None:
        """Share of the shorter side that is seen: None, because whole images are resized."""
        return None

    def hashes(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns hashes of the images of part "train" or "test" (uint64 [n]) and the labels."""
        return self._hashes[part], np.asarray(getattr(self, f"{part}_labels"), np.int32)

    @functools.cached_property
    def _hashes(self) -> dict[str, np.ndarray]:
        parts = {"train": self.train_images, "test": self.test_images}
        return {part: hashes.of_pixels(images) for part, images in parts.items()}

    @property
    def train(self) -> np.ndarray:
        """Indices of the training images."""
        return np.arange(self.num_train)

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the halves for the weights and for the alphas, see `splits`."""
        return splits.stratified_halves(self.train_labels, seed)


def load(data: Any) -> Dataset:
    """Loads the data that `config.data` names; see the head of this file for the names.

    `image_size` > 0 resizes the whole image to that many pixels per side (bilinear, antialiased,
    the aspect ratio is not kept). Data without a test split lose `test_fraction` of each class to
    one.

    Args:
        data: `config.data`, from which it reads name, data_dir, image_size, test_fraction and
            images_per_class.

    Returns:
        The images and labels with the statistics of the training pixels.

    Raises:
        UserError: for an unknown name, for data that are missing, unreadable or not prepared, for
            labels that are not 0..K-1, for a class without images.
    """
    return Dataset._of(table.load(data), data.name, data.test_fraction, data.images_per_class)


def _selected(split: Split, indices: np.ndarray) -> Split:
    return Split(split.images[indices], split.labels[indices])


def _checked(split: Split, class_names: Sequence[str], where: str) -> Split:
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
            "resize them, as data.image_size does."
        )
    return Split(split.images, split.labels.astype(np.int32))


def mean_std(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of each channel over the images of all blocks.

    They are exact: computed from histograms.

    Args:
        blocks: each uint8 [n, H, W, C], together at least one image.

    Returns:
        Both float32 [C], in units of [0, 1]; the deviation of a constant channel is 1.
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

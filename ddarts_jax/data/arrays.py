"""Checks of images and labels that are given as arrays, by a caller or by an npz file."""

from collections.abc import Mapping

import numpy as np

from ddarts_jax.data import decoding
from ddarts_jax.data.sources.source import Loaded, Split, check_class_count
from ddarts_jax.errors import UserError

KEYS = ("images", "labels", "test_images", "test_labels", "class_names")


def check(arrays: Mapping[str, np.ndarray], name: str) -> Loaded:
    """Checks arrays and makes their images uint8 [n, H, W, C].

    Args:
        arrays: by `KEYS`; the last three may be missing, but test images and labels come together.
            Images are [n, H, W] or [n, H, W, C], uint8 or floating in [0, 1], labels integers [n],
            class names strings [K]; without names the classes are "0" to the highest label.
        name: of the data, for messages.

    Raises:
        UserError: for a missing array, for wrong shapes, dtypes or lengths, for fewer than two
            classes.
    """
    prefixes = ["", "test_"] if {"test_images", "test_labels"} & set(arrays) else [""]
    splits = [_split(arrays, prefix, name) for prefix in prefixes]
    class_names = _class_names(arrays.get("class_names"), splits[0].labels, name)
    check_class_count(class_names, name)
    return Loaded(splits[0], splits[1] if len(splits) > 1 else None, class_names)


def _split(arrays: Mapping[str, np.ndarray], prefix: str, name: str) -> Split:
    """Checks `images` and `labels` (or `test_images`, `test_labels`) and makes images uint8."""
    for key in (prefix + "images", prefix + "labels"):
        if key not in arrays:
            raise UserError(f"There is no array {key!r} in {name!r}.")
    images, labels = arrays[prefix + "images"], arrays[prefix + "labels"]
    where = f"{prefix}images in {name!r}"
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:  # as in MedMNIST, and CIFAR-10 in Keras
        labels = labels[:, 0]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"{where} must be [n,H,W] or [n,H,W,C], not {list(images.shape)}.")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(f"{where} are {list(images.shape)}: channels must come last, as [n,H,W,C].")
    if images.dtype.kind == "f":
        try:
            images = decoding.to_uint8(images, 1)
        except ValueError as error:
            raise UserError(f"{where}: {error}; scale them or use uint8.") from error
    elif images.dtype != np.uint8:
        raise UserError(f"{where} must be uint8, or float in [0, 1], not {images.dtype}.")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise UserError(
            f"{prefix}labels in {name!r} must be {len(images)} integers, one per image, not "
            f"{labels.dtype} {list(labels.shape)}."
        )
    return Split(images, labels)


def _class_names(given: np.ndarray | None, labels: np.ndarray, name: str) -> tuple[str, ...]:
    """The class names that are given, or else the numbers up to the highest label."""
    if given is not None:
        if given.ndim != 1 or given.dtype.kind != "U":
            raise UserError(f"class_names in {name!r} must be a list of strings.")
        return _checked(tuple(str(each) for each in given), name)
    largest = int(labels.max())  # one more may be beyond the labels' own type
    if largest >= len(labels):
        raise UserError(
            f"The labels in {name!r} must be 0 to K-1 with an image of each, but the largest is "
            f"{largest} among {len(labels)} images."
        )
    return tuple(str(label) for label in range(largest + 1))


def _checked(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Returns class names; UserError unless each is Unicode and there only once."""
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise UserError(f"class_names in {name!r} name {twice!r} twice: each class needs its own.")
    for each in names:
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"Class name {each!r} in {name!r} is not Unicode: rename it."
            ) from error
    return names

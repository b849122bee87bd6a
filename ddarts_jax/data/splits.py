"""Stratified splits of labelled images: hold-out for the test, halves for a search."""

from collections.abc import Sequence

import numpy as np

from ddarts_jax.errors import UserError

# The split into train and test does not depend on `config.seed`, so that accuracies compare.
HOLD_OUT_SEED = 0


def stratified_halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the training images into the halves for the weights and for the alphas.

    The halves are disjoint and complete; their sizes differ by at most one, within each class and
    overall (D-DARTS paper: bilevel optimisation on two halves of the training set).

    Args:
        labels: integers [n], 0..K-1.
        seed: Chooses which image goes to which half.

    Returns:
        Indices of the weight half and of the architecture half, int32, ascending.
    """
    sizes = np.bincount(labels)
    odd = sizes % 2
    # The images left over in classes of odd size go to the two halves in turn.
    return _split_by_class(labels, sizes // 2 + odd * (np.cumsum(odd) % 2 == 0), seed)


def hold_out(
    labels: np.ndarray,
    class_names: Sequence[str],
    test_fraction: float,
    seed: int = HOLD_OUT_SEED,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes `test_fraction` of each class, at least one image and never all, as the test split.

    Args:
        labels: integers [n], every class at least once.
        class_names: One name per class.
        test_fraction: Between 0 and 1.
        seed: Chooses which images are held out.

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
            "the test; add images or a test split."
        )
    test_sizes = np.clip(np.round(sizes * test_fraction).astype(int), 1, sizes - 1)
    return _split_by_class(labels, test_sizes, seed)


def check_test_fraction(test_fraction: float) -> None:
    """Raises UserError unless `test_fraction` leaves images in both splits."""
    if not 0 < test_fraction < 1:
        raise UserError(
            "The data have no test split, so data.test_fraction must be between 0 and 1 "
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


def spread(length: int, count: int) -> np.ndarray:
    """Returns at most `count` of the positions 0..length-1, spread evenly over all, ascending."""
    return np.unique(np.linspace(0, length - 1, count).astype(int))

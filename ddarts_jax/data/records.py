"""Encoded images that stay on disk, their splits and halves."""

import dataclasses
import zlib
from typing import Any

import numpy as np

from ddarts_jax.data import splits
from ddarts_jax.data.sources import table
from ddarts_jax.data.sources.source import Encoded


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Encoded images with labels.

    Attributes:
        source: where they are read.
        indices: int64 [n], which of the source's images these are, in order.
        class_names: one name per class.
    """

    source: Encoded
    indices: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [n]; None where only reading every image would tell."""
        labels = self.source.labels
        return None if labels is None else labels[self.indices]

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes these images from others, as JSON, for `Checkpoints`."""
        return self.source.identity() | {"indices_crc32": zlib.crc32(self.indices.tobytes())}

    def hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes the images by their names and sizes.

        Returns:
            uint64 [n], and the labels, int32 [n]; -1 where only reading every image would tell.
        """
        labels = self.labels
        if labels is None:
            labels = np.full(len(self), -1, np.int32)
        return self.source.hashes(self.indices), np.asarray(labels, np.int32)

    def select(self, indices: np.ndarray) -> "Records":
        """Selects some of the images by their positions."""
        return dataclasses.replace(self, indices=self.indices[indices])


def open_records(data: Any) -> tuple[Records, Records]:
    """Opens the training and the test images that `config.data` names, without decoding any.

    Where there is no test split, `test_fraction` of the images become one: of each class, or of the
    whole if the labels are not known in advance.

    Args:
        data: `config.data`, from which it reads name (folder:PATH or of TFDS), data_dir,
            test_fraction and images_per_class.

    Raises:
        UserError: for data that cannot be streamed, are missing or not prepared, for classes that
            are missing, empty or in two spellings.
    """
    opened = table.open_encoded(data)
    train, *test = (
        Records(source, np.arange(len(source)), opened.class_names)
        for source in (opened.train, opened.test)
        if source is not None
    )
    train, test = (train, *test) if test else _hold_out(train, data.test_fraction)
    if data.images_per_class:
        train, test = (
            split.select(splits.at_most(split.labels, data.images_per_class))
            for split in (train, test)
        )
    return train, test


def _hold_out(records: Records, test_fraction: float) -> tuple[Records, Records]:
    if records.labels is not None:
        parts = splits.hold_out(records.labels, records.class_names, test_fraction)
    else:
        splits.check_test_fraction(test_fraction)
        order = np.random.RandomState(splits.HOLD_OUT_SEED).permutation(len(records))
        count = round(len(records) * test_fraction)
        parts = np.sort(order[count:]), np.sort(order[:count])
    return records.select(parts[0]), records.select(parts[1])


def halves(records: Records, seed: int) -> tuple[Records, Records]:
    """Splits training images into the halves for the weights and for the alphas.

    By class, as `splits.stratified_halves`; at random if the labels are not known in advance.
    """
    labels = records.labels
    if labels is None:
        labels = np.zeros(len(records), np.int32)
    first, second = splits.stratified_halves(labels, seed)
    return records.select(first), records.select(second)

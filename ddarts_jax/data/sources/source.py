"""What a source of images is: functions that read `config.data`, and what they return."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ddarts_jax.distributed import memory
from ddarts_jax.errors import UserError


class Split(NamedTuple):
    """The images of a split in memory.

    Attributes:
        images: uint8 [n, H, W, C].
        labels: integers [n].
    """

    images: np.ndarray
    labels: np.ndarray


class Loaded(NamedTuple):
    """All images of a source in memory.

    Attributes:
        train: training images.
        test: test images; None where there is no test split.
        class_names: one name per class.
        white: value of white in images of 16 bits, see `decoding.white_of`; 0: there are none.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    white: int = 0


class Encoded(Protocol):
    """The encoded images of a split, read one by one, and in worker processes: it is pickled."""

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [n]; None where only reading every image would tell."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads an encoded image and its label."""

    def failure(self, index: int, reason: str) -> str:
        """Returns the message for an image that cannot be read or decoded."""

    def identity(self) -> dict[str, Any]:
        """Returns what distinguishes this split from others, as JSON."""

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        """Returns a hash of each of some images, uint64 [n], by name and size; none of them is read."""


class Opened(NamedTuple):
    """The images of a source on disk.

    Attributes:
        train: training images.
        test: test images; None where there is no test split.
        class_names: one name per class.
    """

    train: Encoded
    test: Encoded | None
    class_names: tuple[str, ...]


class Source(NamedTuple):
    """The functions of a source; each takes `config.data` and raises UserError.

    Attributes:
        load: reads all images, resized to `image_size` unless that is 0.
        open: opens the images without decoding any; None: the source cannot be streamed.
    """

    load: Callable[[Any], Loaded]
    open: Callable[[Any], Opened] | None = None


def check_class_count(class_names: Sequence[str], name: str) -> None:
    """Raises UserError for fewer than two classes; `name` is that of the data, for the message."""
    if len(class_names) < 2:
        raise UserError(f"{name!r} needs at least 2 classes, but has {len(class_names)}.")


def check_memory(needed: int, name: str, mend: str) -> None:
    """Raises UserError if images need more memory than there is, before they are read.

    Args:
        needed: bytes.
        name: of the data, for the message.
        mend: what to do, an imperative.
    """
    there = memory.available()
    if needed > there:
        raise UserError(
            f"The images of {name!r} need about {needed / 1e9:.1f} GB of memory, but this machine (or "
            f"its limit for this process) has {there / 1e9:.1f} GB: {mend}."
        )

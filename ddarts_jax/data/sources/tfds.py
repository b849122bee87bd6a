"""Any other name: an image classification set of TensorFlow Datasets (TFDS), prepared as ArrayRecord.

Reading it never downloads and never imports TensorFlow. Opening a set and its splits is here for the
boxes of detectors too.
"""

import contextlib
import dataclasses
import difflib
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.data import decoding, hashes
from ddarts_jax.data.sources.source import (
    Loaded,
    Opened,
    Split,
    check_class_count,
    check_memory,
)
from ddarts_jax.errors import UserError

_STREAM = "set data.stream=True and data.image_size, or a smaller data.image_size"


class UnknownName(LookupError):
    """TFDS knows no data set of this name.

    Attributes:
        known: the names that it knows.
    """

    def __init__(self, name: str, known: list[str]):
        super().__init__(name)
        self.known = known

    def sentence(self, others: Sequence[str], meant: Sequence[str] = ()) -> str:
        """Returns the beginning of the message: that the name is unknown, and which is close to it.

        Args:
            others: the names that are known besides.
            meant: what was meant, where that is clear; empty: what is written alike.
        """
        (name,) = self.args
        bare = name.lower().partition("/")[0]  # without the configuration
        near = meant or difflib.get_close_matches(bare, {*others, *self.known})
        return f"Unknown data.name {name!r}" + (
            f", did you mean {' or '.join(map(repr, near))}?" if near else "."
        )


def load(data: Any) -> Loaded:
    """Decodes all images.

    Raises:
        UnknownName: TFDS does not know `data.name`.
        UserError: for data that are not prepared, corrupt, not of labelled images, of several sizes,
            or too large for the memory.
    """
    prepared = _open(data.name, data.data_dir)
    white, images, labels, num_train = data.white, [], [], 0
    total = sum(len(records) for records in prepared.parts.values())
    for records in prepared.parts.values():
        try:
            if prepared.deep and not white:
                white = decoding.white_of(
                    max(decoding.brightest(io.BytesIO(each["image"])) for each in records.source)
                )
            for example in records.source:
                content = io.BytesIO(example["image"])
                images.append(decoding.read_image(content, data.image_size, white))
                labels.append(example["label"])
                if len(images) == 1:
                    check_memory(2 * total * images[0].nbytes, data.name, _STREAM)
        except UserError:
            raise
        except Exception as error:  # Readers of corrupt files raise nearly anything.
            raise UserError(
                f"Cannot read {records.name} ({decoding.reason(error)}): {records.repair}."
            ) from error
        num_train = num_train or len(images)
    if len({image.shape[:2] for image in images}) > 1:
        raise UserError(f"The images of {data.name!r} differ in size: set data.image_size.")
    images, labels = decoding.stack(images), np.array(labels)
    test = Split(images[num_train:], labels[num_train:]) if len(prepared.parts) > 1 else None
    train = Split(images[:num_train], labels[:num_train])
    return Loaded(train, test, prepared.class_names, white if prepared.deep else 0)


def open_prepared(data: Any) -> Opened:
    """Opens the splits; decodes no image.

    Raises:
        UnknownName: TFDS does not know `data.name`.
        UserError: for data that are not prepared, corrupt or not of labelled images, for
            `data.images_per_class`.
    """
    if data.images_per_class:
        raise UserError(
            f"The labels of {data.name!r} are not known before it is read, so a stream of it cannot "
            "have data.images_per_class; set it to 0."
        )
    prepared = _open(data.name, data.data_dir)
    train, *test = (
        Tfds(records.name, records.source, records.repair) for records in prepared.parts.values()
    )
    return Opened(train, test[0] if test else None, prepared.class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a split of a TFDS set; worker processes can be handed them.

    Attributes:
        name: of the split and the set, for messages.
        source: TFDS's data source, whose items hold `image`, encoded bytes, and what else there is.
        repair: what to do where reading fails.
    """

    name: str
    source: Sequence
    repair: str

    def __len__(self) -> int:
        return len(self.source)

    def failure(self, index: int, reason: str) -> str:
        """Returns the message for an image that cannot be read or decoded."""
        return f"Cannot read image {index} of {self.name} ({reason}): {self.repair}."


@dataclasses.dataclass(frozen=True, eq=False)
class Tfds(Examples):
    """The examples of a set with the feature `label`, as encoded images of a class."""

    @property
    def labels(self) -> None:
        """Unknown: only reading every image would tell."""

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads an encoded image and its label."""
        example = self.source[index]
        return example["image"], example["label"]

    def identity(self) -> dict[str, Any]:
        """Returns what distinguishes this split from others, as JSON."""
        return {"images": len(self), "tfds": self.source.dataset_info.full_name}

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        """Returns hashes of the split's name and the positions in it, uint64 [n]."""
        return hashes.of_names(f"{self.name} {index}".encode() for index in indices)


class Prepared(NamedTuple):
    """A prepared TFDS set.

    Attributes:
        name: of TFDS, as the user gave it.
        builder: TFDS's own.
        recipe: how it is prepared, an imperative.
    """

    name: str
    builder: Any
    recipe: str

    @property
    def info(self) -> Any:
        """TFDS's description of the set."""
        return self.builder.info

    def split(self, part: str) -> Examples:
        """Opens a split.

        Raises:
            UserError: it cannot be read, or only TensorFlow reads it.
        """
        import tensorflow_datasets as tfds

        name, where = f"the split {part!r} of {self.name!r}", self.builder.data_dir
        repair = f"delete {where} and {self.recipe}"
        decoders = {"image": tfds.decode.SkipDecoding()}
        try:
            source = self.builder.as_data_source(split=part, decoders=decoders)
            _ = source[0]  # files are opened when first read
        except NotImplementedError as error:
            raise UserError(
                f"{self.name!r} in {where} is stored as {self.info.file_format.value}, which only "
                f"TensorFlow reads: {self.recipe}, into another data_dir."
            ) from error
        except Exception as error:  # Readers of corrupt files raise nearly anything.
            raise UserError(
                f"Cannot open {name} in {where} ({decoding.reason(error)}): {repair}."
            ) from error
        return Examples(name, source, repair)


def open_set(name: str, data_dir: str) -> Prepared:
    """Opens a prepared TFDS set.

    Args:
        name: of TFDS, optionally with configuration and version.
        data_dir: where it is prepared; empty: TFDS's default.

    Raises:
        UnknownName: TFDS does not know the name.
        UserError: the set is not prepared or cannot be opened.
    """
    data_dir = os.path.expanduser(data_dir)
    argument = f", data_dir={data_dir!r}" if data_dir else ""
    recipe = (
        f"prepare it once where TensorFlow is installed, by tensorflow_datasets.builder({name!r}, "
        f"file_format='array_record'{argument}).download_and_prepare()"
    )
    builder = _builder(name, data_dir)
    if builder is None or not builder.is_prepared():
        where = builder.data_dir if builder else data_dir or "TFDS's own folder"
        raise UserError(
            f"{name!r} is not prepared in {where}: {recipe}; or set data.data_dir to the directory "
            "that holds it."
        )
    return Prepared(name, builder, recipe)


def _builder(name: str, data_dir: str) -> Any:
    """TFDS's builder of a name, None where it is not prepared and its code needs TensorFlow.

    Raises UserError where TFDS fails, UnknownName for an unknown name.
    """
    import tensorflow_datasets as tfds

    data_dir = data_dir or None
    try:
        try:  # What is prepared describes itself, and the code of some sets imports TensorFlow.
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            # Else TFDS prints how to install TensorFlow where that is missing.
            with contextlib.redirect_stdout(io.StringIO()):
                return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # A builder's own code may raise anything.
        known = tfds.list_builders(with_community_datasets=False)
        if name.partition("/")[0].partition(":")[0] not in known:
            raise UnknownName(name, known) from error
        if isinstance(error, ModuleNotFoundError):
            return None
        raise UserError(
            f"TensorFlow Datasets cannot open data.name {name!r}: {decoding.reason(error)}."
        ) from error


class _Labelled(NamedTuple):
    """A prepared TFDS set of labelled images.

    Attributes:
        parts: the examples of "train" and, if there is one, of "test" or "validation", each with
            `image` and `label`.
        class_names: one name per class.
        deep: whether the images have 16 bits.
    """

    parts: dict[str, Examples]
    class_names: tuple[str, ...]
    deep: bool


def _open(name: str, data_dir: str) -> _Labelled:
    """Opens a prepared TFDS set of labelled images; see `open_set`."""
    found = open_set(name, data_dir)
    _check_features(found.info, name)
    parts = {}
    for part in ("train", "test", "validation"):
        if part not in found.info.splits or len(parts) == 2:
            continue
        records = found.split(part)
        if records.source[0]["label"] >= 0:  # not, for instance, in ImageNet's test split
            parts[part] = records
    class_names = tuple(found.info.features["label"].names)
    check_class_count(class_names, name)
    return _Labelled(parts, class_names, found.info.features["image"].np_dtype == np.uint16)


def _check_features(info: Any, name: str) -> None:
    """Raises UserError unless a set is for image classification."""
    import tensorflow_datasets as tfds

    features = info.features
    if (
        not {"image", "label"} <= set(features)
        or not isinstance(features["image"], tfds.features.Image)
        or not isinstance(features["label"], tfds.features.ClassLabel)
        or features["image"].np_dtype not in (np.uint8, np.uint16)
        or "train" not in info.splits
    ):
        raise UserError(
            f"{name!r} is not for image classification: it needs a split 'train' and the features "
            "'image' (8 or 16 bits) and 'label' (a class)."
        )

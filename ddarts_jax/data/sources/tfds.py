"""Any other name: an image classification set of TensorFlow Datasets (TFDS), prepared as ArrayRecord.

Reading it never downloads and never imports TensorFlow.
"""

import dataclasses
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
    for part, records in prepared.parts.items():
        try:
            if prepared.deep and not white:
                white = decoding.white_of(
                    max(decoding.brightest(io.BytesIO(example["image"])) for example in records)
                )
            for example in records:
                content = io.BytesIO(example["image"])
                images.append(decoding.read_image(content, data.image_size, white))
                labels.append(example["label"])
                if len(images) == 1:
                    check_memory(2 * total * images[0].nbytes, data.name, _STREAM)
        except UserError:
            raise
        except Exception as error:  # Readers of corrupt files raise nearly anything.
            raise UserError(
                f"Cannot read the split {part!r} of {data.name!r} ({decoding.reason(error)}): "
                f"{prepared.repair}."
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
    train, *test = [
        Tfds(f"the split {part!r} of {data.name!r}", records, prepared.repair)
        for part, records in prepared.parts.items()
    ]
    return Opened(train, test[0] if test else None, prepared.class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class Tfds:
    """A split of a TFDS set.

    Attributes:
        name: of the split and the set, for messages.
        source: TFDS's data source of encoded images and labels.
        repair: what to do where reading fails.
    """

    name: str
    source: Sequence
    repair: str

    @property
    def labels(self) -> None:
        """Unknown: only reading every image would tell."""

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads an encoded image and its label."""
        example = self.source[index]
        return example["image"], example["label"]

    def failure(self, index: int, reason: str) -> str:
        """Returns the message for an image that cannot be read or decoded."""
        return f"Cannot read image {index} of {self.name} ({reason}): {self.repair}."

    def identity(self) -> dict[str, Any]:
        """Returns what distinguishes this split from others, as JSON."""
        return {"images": len(self), "tfds": self.source.dataset_info.full_name}

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        """Returns hashes of the split's name and the positions in it, uint64 [n]."""
        return hashes.of_names(f"{self.name} {index}".encode() for index in indices)


class _Prepared(NamedTuple):
    """A prepared TFDS set.

    Attributes:
        parts: the data source of "train" and, if there is one, of "test" or "validation", whose
            items hold `image`, encoded bytes, and `label`.
        class_names: one name per class.
        repair: what to do where reading fails.
        deep: whether the images have 16 bits.
    """

    parts: dict[str, Sequence]
    class_names: tuple[str, ...]
    repair: str
    deep: bool


def _open(name: str, data_dir: str) -> _Prepared:
    """Opens a prepared TFDS set.

    Args:
        name: of TFDS, optionally with configuration and version.
        data_dir: where it is prepared; empty: TFDS's default.
    """
    data_dir = os.path.expanduser(data_dir)
    builder = _builder(name, data_dir)
    argument = f", data_dir={data_dir!r}" if data_dir else ""
    recipe = (
        f"prepare it once where TensorFlow is installed, by tensorflow_datasets.builder({name!r}, "
        f"file_format='array_record'{argument}).download_and_prepare()"
    )
    if not builder.is_prepared():
        raise UserError(
            f"{name!r} is not prepared in {builder.data_dir}: {recipe}; or set data.data_dir to "
            "the directory that holds it."
        )
    _check_features(builder.info, name)
    repair = f"delete {builder.data_dir} and {recipe}"
    parts = {}
    for part in ("train", "test", "validation"):
        if part not in builder.info.splits or len(parts) == 2:
            continue
        records = _open_part(builder, part, name, recipe, repair)
        if records is not None:
            parts[part] = records
    class_names = tuple(builder.info.features["label"].names)
    check_class_count(class_names, name)
    deep = builder.info.features["image"].np_dtype == np.uint16
    return _Prepared(parts, class_names, repair, deep)


def _builder(name: str, data_dir: str) -> Any:
    """TFDS's builder of a name; UserError where that fails, UnknownName for an unknown name."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # A builder's own code may raise anything.
        known = tfds.list_builders(with_community_datasets=False)
        if name.partition("/")[0].partition(":")[0] not in known:
            raise UnknownName(name, known) from error
        raise UserError(
            f"TensorFlow Datasets cannot open data.name {name!r}: {decoding.reason(error)}."
        ) from error


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


def _open_part(builder: Any, part: str, name: str, recipe: str, repair: str) -> Sequence | None:
    """The data source of a split, None for one without labels, as ImageNet's test split."""
    import tensorflow_datasets as tfds

    try:
        records = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
        return records if records[0]["label"] >= 0 else None
    except NotImplementedError as error:
        raise UserError(
            f"{name!r} in {builder.data_dir} is stored as {builder.info.file_format.value}, "
            f"which only TensorFlow reads: {recipe}, into another data_dir."
        ) from error
    except Exception as error:  # Readers of corrupt files raise nearly anything.
        raise UserError(
            f"Cannot open the split {part!r} of {name!r} in {builder.data_dir} "
            f"({decoding.reason(error)}): {repair}."
        ) from error

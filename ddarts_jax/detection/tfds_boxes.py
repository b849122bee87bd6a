"""Boxes of TensorFlow Datasets (TFDS), such as `coco/2017`, prepared as ArrayRecord.

A set needs the features `image` and `objects`, a sequence with `bbox` (ymin, xmin, ymax, xmax as
fractions of the image) and `label`. Of an object `is_crowd` and `area` (else that of the box) are read
too, and of an image `image/id` (else it is numbered). The test is the split "validation", or else "test";
one without any object, as COCO's test, is passed over. Images stay in their records. Nothing is
downloaded, and TensorFlow is not needed.
"""

import collections
import io
import logging
from typing import Any

import numpy as np

from ddarts_jax.data import decoding
from ddarts_jax.data.sources.tfds import Examples, Prepared, open_set
from ddarts_jax.detection.instances import Instances, Record, in_classes_of
from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

# TFDS keeps fractions in float32: they tell a place to within some ten thousandths of a pixel. Rounded
# to thousandths, the boxes of COCO, which have hundredths, are again what its own files say.
_DECIMALS = 3


def read_pair(name: str, data_dir: str) -> tuple[Instances, Instances]:
    """Reads the training and the test images of a set: boxes and sizes, but no pixels.

    Args:
        name: of TFDS, optionally with configuration and version.
        data_dir: where it is prepared; empty: TFDS's default.

    Raises:
        UnknownName: TFDS does not know the name.
        UserError: the set is not prepared, corrupt or without objects; see also `in_classes_of`.
    """
    found = _open(name, data_dir)
    test = _read_test(found)  # first: it is the smaller one, and may be missing
    train = _read(found, "train") if "train" in found.info.splits else None
    if train is None:
        raise UserError(
            f"{name!r} has no split 'train' with objects: there is nothing to learn; name another set."
        )
    return train, in_classes_of(train, test)


def read_test(name: str, data_dir: str) -> Instances:
    """Reads the test images alone; see `read_pair`."""
    return _read_test(_open(name, data_dir))


def _open(name: str, data_dir: str) -> Prepared:
    """Opens a set; UserError unless it has images with boxes."""
    found = open_set(name, data_dir)
    if not _has_boxes(found.info.features):
        raise UserError(
            f"{name!r} is not for detection: it needs the features 'image' (8 or 16 bits) and 'objects', "
            "a sequence with 'bbox' (ymin, xmin, ymax, xmax as fractions) and 'label' (a class)."
        )
    return found


def _has_boxes(features: Any) -> bool:
    import tensorflow_datasets as tfds

    kinds = tfds.features
    if not {"image", "objects"} <= set(features) or not isinstance(features["image"], kinds.Image):
        return False
    objects = getattr(features["objects"], "feature", None)  # of what a sequence consists
    return (
        features["image"].np_dtype in (np.uint8, np.uint16)
        and isinstance(objects, kinds.FeaturesDict)
        and {"bbox", "label"} <= set(objects)
        and isinstance(objects["bbox"], kinds.BBoxFeature)
        # Sets from the time before there were several formats name none.
        and objects["bbox"].bbox_format in (None, kinds.BBoxFeature().bbox_format)
        and isinstance(objects["label"], kinds.ClassLabel)
    )


def _read_test(found: Prepared) -> Instances:
    for part in ("validation", "test"):
        if part in found.info.splits and (test := _read(found, part)) is not None:
            return test
    raise UserError(
        f"{found.name!r} has no split 'validation' or 'test' with objects, on which a detector could be "
        "tested: name another set."
    )


def _read(found: Prepared, part: str) -> Instances | None:
    """Reads a split; None if it has no object."""
    examples, features = found.split(part), found.info.features
    name = "-".join(filter(None, (found.info.name, found.info.config_name, part)))
    _logger.info("%s: reading the boxes and sizes of %d images", name, len(examples))
    sizes, ids, columns = [], [], collections.defaultdict(list)
    for index in range(len(examples)):
        try:
            example = examples.source[index]
            header = decoding.read_header(io.BytesIO(example["image"]))
        except Exception as error:  # Readers of corrupt files raise nearly anything.
            raise UserError(examples.failure(index, decoding.reason(error))) from error
        sizes.append((header.height, header.width))
        ids.append(example.get("image/id"))
        columns["owners"] += [index] * len(example["objects"]["label"])
        for key, values in example["objects"].items():
            if key in ("bbox", "label", "area", "is_crowd"):
                columns[key].extend(values)
    if not columns["owners"]:
        return None
    names = tuple(features["objects"].feature["label"].names)
    objects = {key: np.array(values) for key, values in columns.items()}
    return Instances(
        name=name,
        images=tuple(Record(examples, index) for index in range(len(examples))),
        image_ids=_image_ids(ids, examples),
        sizes=np.array(sizes, np.int32),
        category_ids=np.arange(len(names)),
        class_names=names,
        **_objects(objects, np.array(sizes), len(names), examples),
    )


def _image_ids(ids: list[Any], examples: Examples) -> np.ndarray:
    """Returns the ids of the images, 1 to n where they are no integers; UserError if two are the same."""
    if not all(isinstance(each, int | np.integer) for each in ids):
        return np.arange(1, len(ids) + 1)
    (most, count), *_ = collections.Counter(ids).most_common(1)
    if count > 1:
        raise UserError(
            f"'image/id' is {most} for {count} images in {examples.name}: each needs its own; "
            f"{examples.repair}."
        )
    return np.array(ids, np.int64)


def _objects(
    found: dict[str, np.ndarray], sizes: np.ndarray, num_classes: int, examples: Examples
) -> dict[str, np.ndarray]:
    """Returns what `Instances` says about m objects, without those whose boxes have no size.

    Args:
        found: `owners` [m], `bbox` [m, 4] and `label` [m]; `area` and `is_crowd`, if the data have them.
        sizes: [n, 2], height and width of the images.
        num_classes: K.
        examples: whose they are.
    """
    owners, labels, fractions = found["owners"], found["label"], found["bbox"].astype(np.float64)
    if not ((fractions >= 0) & (fractions <= 1)).all():  # NaN is neither
        raise UserError(
            f"{examples.name} has boxes that are not fractions of their image, from 0 to 1: "
            f"{examples.repair}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"The labels in {examples.name} run from {labels.min()} to {labels.max()}, but the "
            f"{num_classes} classes are 0 to {num_classes - 1}: {examples.repair}."
        )
    top, left, bottom, right = (fractions * np.tile(sizes[owners], 2)).T
    boxes = np.round(np.stack([left, top, right - left, bottom - top], 1), _DECIMALS)
    areas = found.get("area", boxes[:, 2] * boxes[:, 3])
    if not np.isfinite(areas).all():
        raise UserError(
            f"{examples.name} has areas that are not finite numbers: {examples.repair}."
        )
    kept = (boxes[:, 2:] > 0).all(1)
    if not kept.all():
        what = f"{(~kept).sum()} of {len(kept)} boxes in {examples.name} have no width or no height"
        if not kept.any():
            raise UserError(f"{what}: {examples.repair}.")
        first = owners[np.argmin(kept)]
        _logger.warning("%s, the first is in image %d; they are left out", what, first)
    return {
        "owners": owners[kept].astype(np.int64),
        "boxes": boxes[kept],
        "labels": labels[kept].astype(np.int32),
        "crowd": found.get("is_crowd", np.zeros(len(kept), bool))[kept].astype(bool),
        "ignore": np.zeros(kept.sum(), bool),
        "areas": areas[kept].astype(np.float64),
    }

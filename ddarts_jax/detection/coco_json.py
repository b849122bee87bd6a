"""COCO's annotation files: JSON with images, categories, and objects as boxes and outlines.

    {"images": [{"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 18, "name": "dog"}, ...],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 18, "bbox": [x, y, width, height],
                      "area": 1200.5, "iscrowd": 0, "segmentation": ...}, ...]}

Ids are integers in any order and with gaps. `area` (else that of the box), `iscrowd`, `ignore` and
`segmentation` may be missing; a detector of masks needs the last one. Everything is checked here, before
a run begins, but for the content of the image files, which `Instances.read` checks.
"""

import collections
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddarts_jax.detection import outlines
from ddarts_jax.detection.instances import Instances, in_classes_of
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json

_logger = logging.getLogger(__name__)

_MOST_CLASSES = 10_000
_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


def read_pair(
    train_annotations: str,
    train_images: str,
    test_annotations: str,
    test_images: str,
    masks: bool = False,
) -> tuple[Instances, Instances]:
    """Reads a training and a test set, each an annotation file and the folder of its images.

    Raises:
        UserError: see `read` and `in_classes_of`.
    """
    train = read(train_annotations, train_images, masks)
    return train, in_classes_of(train, read(test_annotations, test_images, masks))


def paths_of_2017(root: str) -> tuple[str, str, str, str]:
    """Returns the arguments of `read_pair` for COCO 2017 as it unpacks below `root`."""
    root = Path(os.path.expanduser(root))
    return tuple(
        str(path)
        for part in ("train2017", "val2017")
        for path in (root / "annotations" / f"instances_{part}.json", root / part)
    )


def read(annotations: str, images: str, masks: bool = False) -> Instances:
    """Reads an annotation file.

    A box that is not four finite numbers, or of no width or height, is left out altogether; a warning
    counts them.

    Args:
        annotations: path of the JSON file.
        images: the folder that the images' file names start from.
        masks: whether every object needs an outline from which a mask can be made.

    Raises:
        UserError: the file is missing, cut off, not of this kind or contradicts itself; no box is
            usable; an image file is missing, or an outline that is needed.
    """
    content = read_json(Path(os.path.expanduser(annotations)), "Annotation file")
    return parse(content, os.fspath(annotations), images, masks)


def parse(content: Any, annotations: str, images: str, masks: bool = False) -> Instances:
    """Reads the content of an annotation file, `annotations`, by which messages name it; see `read`."""
    if not isinstance(content, dict):
        raise UserError(
            f"Annotation file {annotations} holds no JSON object: it must have images, categories and "
            "annotations, as COCO's instances_*.json."
        )
    tables = {key: _table(content, key, annotations) for key in _KEYS}
    sizes = np.array([_size(image, annotations) for image in tables["images"]], np.int32)
    files = _files(tables["images"], images, annotations)
    image_rows = {image["id"]: row for row, image in enumerate(tables["images"])}
    categories = sorted(tables["categories"], key=lambda category: category["id"])
    if len(categories) > _MOST_CLASSES:
        raise UserError(
            f"Annotation file {annotations} has {len(categories)} categories: at most {_MOST_CLASSES} "
            "can be told apart; merge some."
        )
    names = tuple(_name(category, annotations) for category in categories)
    labels = {category["id"]: label for label, category in enumerate(categories)}
    _check_references(tables["annotations"], "image_id", image_rows, annotations)
    _check_references(tables["annotations"], "category_id", labels, annotations)
    found = _with_boxes(tables["annotations"], annotations)
    found.sort(key=lambda each: image_rows[each["image_id"]])  # stable
    owners = np.array([image_rows[each["image_id"]] for each in found], np.int64)
    for each, owner in zip(found, owners):
        _check_outline(each, *sizes[owner].tolist(), annotations)
    if masks:
        _check_masks(found, sizes[owners].tolist(), annotations)
    return Instances(
        name=annotations,
        images=files,
        image_ids=np.array([image["id"] for image in tables["images"]], np.int64),
        sizes=sizes,
        category_ids=np.array([category["id"] for category in categories], np.int64),
        class_names=names,
        owners=owners,
        boxes=np.array([each["bbox"] for each in found], np.float64).reshape(-1, 4),
        labels=np.array([labels[each["category_id"]] for each in found], np.int32),
        crowd=np.array([bool(each.get("iscrowd")) for each in found], bool),
        ignore=np.array([bool(each.get("ignore")) for each in found], bool),
        areas=np.array([_area(each, annotations) for each in found], np.float64),
        segmentations=tuple(each.get("segmentation") or None for each in found),
    )


def _table(content: Mapping, key: str, file: str) -> list[dict]:
    """Returns the rows of a table; UserError unless each has the keys and an integer id of its own."""
    rows = content.get(key)
    if not isinstance(rows, list):
        raise UserError(
            f"Annotation file {file} has no list {key!r}: it must have images, categories and "
            "annotations, as COCO's instances_*.json."
        )
    if not rows and key != "annotations":
        raise UserError(
            f"Annotation file {file} has an empty list {key!r}: there is nothing to learn."
        )
    for number, row in enumerate(rows):
        missing = (
            [each for each in _KEYS[key] if each not in row] if isinstance(row, dict) else ["id"]
        )
        if missing:
            raise UserError(
                f"Entry {number} of {key!r} in {file} has no {missing[0]!r}: each needs "
                f"{', '.join(_KEYS[key])}."
            )
        if not _is_id(row["id"]):
            raise UserError(
                f"Entry {number} of {key!r} in {file} has the id {row['id']!r:.40}: ids are integers."
            )
    twice = _first_twice(row["id"] for row in rows)
    if twice is not None:
        raise UserError(f"The id {twice} is there twice in {key!r} of {file}: each needs its own.")
    return rows


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _first_twice(values: Iterable[int]) -> int | None:
    counts = collections.Counter(values)
    return next((value for value, count in counts.items() if count > 1), None)


def _name(category: dict, file: str) -> str:
    """Returns the name; UserError unless it is Unicode, as else the results could not be drawn."""
    name = str(category["name"])
    try:
        name.encode()
    except UnicodeEncodeError as error:  # JSON can have halves of characters
        raise UserError(
            f"Category {category['id']} in {file} has the name {name!r:.80}, which is not Unicode: "
            "rename it."
        ) from error
    return name


def _size(image: dict, file: str) -> tuple[int, int]:
    """Returns height and width."""
    sides = image["height"], image["width"]
    if not all(_is_id(side) and 0 < side < 2**31 for side in sides):
        raise UserError(
            f"Image {image['id']} in {file} has height {sides[0]!r:.40} and width {sides[1]!r:.40}: both "
            "must be positive integers."
        )
    return sides


def _files(table: Sequence[dict], folder: str, annotations: str) -> tuple[str, ...]:
    """Returns the paths of the image files; UserError unless all exist."""
    folder = os.path.expanduser(folder)
    files = tuple(os.path.join(folder, str(image["file_name"])) for image in table)
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images that {annotations} names do not exist, the first is "
            f"{missing[0]}: add them, or name the folder that the file names start from."
        )
    return files


def _check_references(table: Sequence[dict], key: str, known: Mapping, file: str) -> None:
    for row in table:
        # A list or an object as an id is no key of a mapping.
        if not _is_id(row[key]) or row[key] not in known:
            raise UserError(
                f"Annotation {row['id']} in {file} has {key} {row[key]!r:.40}, which is not in the file: "
                "remove the annotation or add what it refers to."
            )


def _with_boxes(table: Sequence[dict], file: str) -> list[dict]:
    """Returns the annotations whose boxes are usable; warns of the others."""
    bad = [row["id"] for row in table if not _is_box(row["bbox"])]
    if not bad:
        return list(table)
    example = next(row["bbox"] for row in table if row["id"] == bad[0])
    what = (
        f"{len(bad)} of {len(table)} boxes in {file} are not four finite numbers with a positive width "
        f"and height (x, y, width, height), the first is that of annotation {bad[0]}, {example!r:.80}"
    )
    if len(bad) == len(table):
        raise UserError(f"{what}: correct them.")
    _logger.warning("%s; they are left out", what)
    return [row for row in table if _is_box(row["bbox"])]


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(map(_is_finite, value))
        and min(value[2:]) > 0
    )


def _is_finite(value: Any) -> bool:
    # A float beyond the largest one is infinite, an integer beyond it cannot be made a float.
    return isinstance(value, (int, float)) and abs(value) < 1e300 and math.isfinite(value)


def _area(annotation: dict, file: str) -> float:
    _, _, width, height = annotation["bbox"]
    area = annotation.get("area", width * height)
    if not _is_finite(area):
        raise UserError(
            f"Annotation {annotation['id']} in {file} has the area {area!r:.40}: it must be a number of "
            "pixels."
        )
    return area


def _check_outline(annotation: dict, height: int, width: int, file: str) -> None:
    """Raises UserError for a segmentation that is neither polygons nor an RLE of the image's size."""
    outline = annotation.get("segmentation")
    if not outline:
        return
    where = f"The segmentation of annotation {annotation['id']} in {file}"
    if isinstance(outline, dict):
        if outline.get("size") != [height, width] or not isinstance(
            outline.get("counts"), (str, list)
        ):
            raise UserError(
                f"{where} is an RLE of size {outline.get('size')!r:.40}, but its image has height and "
                f"width {[height, width]}: correct or remove it."
            )
        return
    for part in outline if isinstance(outline, list) else [None]:
        if not (isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0):
            raise UserError(
                f"{where} has a polygon that is not a list x, y, x, y, ... of at least 3 points: correct "
                "or remove it."
            )


def _check_masks(table: Sequence[dict], sizes: Sequence[Sequence[int]], file: str) -> None:
    """Raises UserError unless each annotation has an outline that can be made a mask."""
    bare = [row["id"] for row in table if not row.get("segmentation")]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(table)} annotations in {file} have no segmentation, the first is "
            f"annotation {bare[0]}: a detector of masks needs that of every object; add them, or choose "
            "a detector of boxes."
        )
    for row, size in zip(table, sizes):
        if problem := outlines.problem(row["segmentation"], *size):
            raise UserError(
                f"The segmentation of annotation {row['id']} in {file} {problem}: correct it or remove "
                "the annotation."
            )

"""The objects of Cityscapes, read from its folder as it unpacks.

    ROOT/leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png         images
    ROOT/gtFine/{train,val}/CITY/NAME_gtFine_instanceIds.png       of each pixel the object, 16 bits

A number from 1000 on is an object, whose class is the thousands; one below is a class alone: a group in
which objects are not told apart, or the background. What is found is kept beside the folders, as COCO's
JSON with RLE, because reading all pixels takes minutes.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddarts_jax import files
from ddarts_jax.data import decoding
from ddarts_jax.detection import coco_json
from ddarts_jax.detection.instances import Instances, in_classes_of
from ddarts_jax.detection.outlines import rle_of, tight_box
from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

# Those of its benchmark of instances; caravan and trailer are not in it.
_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_OBJECTS = 1000  # from which number on a pixel is of an object that is told apart
_TRAIN, _TEST = "train", "val"
_IMAGES = {_TRAIN: 2975, _TEST: 500}  # of the whole set
_IMAGE, _MAP = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def read_pair(root: str) -> tuple[Instances, Instances]:
    """Reads the training images and those of the validation, by which detectors are judged.

    Args:
        root: the folder with `leftImg8bit` and `gtFine`.

    Raises:
        UserError: see `read`.
    """
    train = read(root, _TRAIN)
    return train, in_classes_of(train, read_test(root))


def read_test(root: str) -> Instances:
    """Reads the images of the validation; see `read_pair`."""
    return read(root, _TEST)


def read(root: str, part: str) -> Instances:
    """Reads one part, from the file beside the folders if that is of these images, else from the maps.

    Where that file cannot be written, a warning tells it, and the maps are read at every start.

    Args:
        root: the folder with `leftImg8bit` and `gtFine`.
        part: "train" or "val".

    Raises:
        UserError: there are no images, or not of each its map of instances, or one cannot be read.
    """
    folder = Path(root).expanduser()
    names = _names(folder, part)
    kept = folder / "annotations" / f"ddarts_jax_{part}.json"
    content = _kept(kept, names)
    if content is None:
        content = _converted(folder, names)
        try:
            kept.parent.mkdir(exist_ok=True)
            files.write_text(kept, json.dumps(content))
        except (OSError, UserError):
            _logger.warning(
                "%s cannot be written: the maps of Cityscapes are read again at the next start",
                kept,
            )
    found = coco_json.parse(content, str(folder / "gtFine" / part), str(folder), masks=True)
    counts = np.bincount(found.labels[~found.crowd], minlength=len(_CLASSES))
    _logger.info(
        "%s: %d images, %d objects (%s), %d groups",
        *(found.name, len(found), counts.sum()),
        ", ".join(f"{name} {count}" for name, count in zip(found.class_names, counts)),
        found.crowd.sum(),
    )
    if len(found) != _IMAGES[part]:
        _logger.warning(
            "%s has %d images, but Cityscapes has %d: numbers cannot be compared with those of others",
            *(found.name, len(found), _IMAGES[part]),
        )
    return found


def _names(root: Path, part: str) -> list[str]:
    """Returns the paths of the images below `root`; UserError unless each has its map."""
    images = sorted((root / "leftImg8bit" / part).glob(f"*/*{_IMAGE}"))
    if not images:
        raise UserError(
            f"{root / 'leftImg8bit' / part} has no folders with images *{_IMAGE}: config.data.root is "
            "the folder into which leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are unpacked."
        )
    names = [image.relative_to(root).as_posix() for image in images]
    missing = [name for name in names if not _map_of(root, name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} images of Cityscapes have no map of instances, the first "
            f"would be {_map_of(root, missing[0])}: unpack gtFine_trainvaltest.zip into {root}."
        )
    return names


def _map_of(root: Path, name: str) -> Path:
    """Returns the map of an image."""
    _, part, city, file = name.split("/")
    return root / "gtFine" / part / city / f"{file.removesuffix(_IMAGE)}{_MAP}"


def _kept(path: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Reads what was kept; None unless it is of these images."""
    try:
        content = files.read_json(path, "Annotation file")
        known = [image["file_name"] for image in content["images"]]
    except (UserError, KeyError, TypeError):
        return None
    return content if known == names else None


def _converted(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads all maps; returns their objects as COCO's JSON."""
    _logger.info("Reading the %d maps of instances in %s, once", len(names), root / "gtFine")
    images, annotations = [], []
    with ThreadPoolExecutor() as threads:
        maps = [_map_of(root, name) for name in names]
        found = threads.map(lambda path: decoding.read_file(path, _objects), maps)
        for number, (name, ((height, width), objects)) in enumerate(zip(names, found), 1):
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for each in objects:
                own = {"id": len(annotations) + 1, "image_id": number}
                annotations.append(own | each)
    categories = [{"id": number, "name": name} for number, name in _CLASSES.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def _objects(stream: BinaryIO) -> tuple[tuple[int, int], Iterable[dict[str, Any]]]:
    """Reads a map of instances; returns its height and width, and its objects by their numbers."""
    with decoding.open_image(stream) as image:
        numbers = np.asarray(image)
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
        raise ValueError("a map of instances has 16 bits of grey")
    numbers = numbers.astype(np.uint16)
    found = []
    for number in np.flatnonzero(np.bincount(numbers.reshape(-1))).tolist():
        category = number // _OBJECTS or number
        if category not in _CLASSES:
            continue
        mask = numbers == number
        x, y, w, h = map(int, tight_box(mask))
        found.append(
            {
                "category_id": category,
                "bbox": [x, y, w, h],
                "area": int(mask.sum()),
                "iscrowd": int(number < _OBJECTS),
                "segmentation": rle_of(mask[y : y + h, x : x + w], (y, x), mask.shape),
            }
        )
    return numbers.shape, found

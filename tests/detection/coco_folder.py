"""Small detection data that the tests share: a COCO folder of files, and images in memory."""

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ddarts_jax.detection.instances import Instances

# Category ids with gaps, unsorted; "ox" has no object.
CONTENT = {
    "images": [
        {"id": 30, "file_name": "a/30.png", "width": 64, "height": 48},
        {"id": 4, "file_name": "4.png", "width": 40, "height": 50},
        {"id": 11, "file_name": "11.png", "width": 33, "height": 33},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 90, "name": "ox"}],
    "annotations": [
        {
            "id": 5, "image_id": 4, "category_id": 18, "bbox": [-3.5, 10.25, 20.0, 30.5], "area": 300.5,
            "segmentation": [[0, 10, 16, 10, 16, 40]], "iscrowd": 0,
        },
        {"id": 1, "image_id": 30, "category_id": 2, "bbox": [1, 2, 30, 40], "area": 1200},
        {
            "id": 9, "image_id": 4, "category_id": 2, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 1,
            "segmentation": {"size": [50, 40], "counts": [205, 20, 1775]},
        },
        {"id": 0, "image_id": 4, "category_id": 2, "bbox": [30, 30, 8, 12]},
    ],
}  # fmt: skip


def content(**replaced):
    """The content of an annotation file, some of its lists replaced (None: left out)."""
    whole = copy.deepcopy(CONTENT) | replaced
    return {key: value for key, value in whole.items() if value is not None}


def changed(table, row, **values):
    """The content with some values of a row replaced (None: left out)."""
    whole = content()
    whole[table][row].update(values)
    whole[table][row] = {k: v for k, v in whole[table][row].items() if v is not None}
    return whole


def write(folder: Path, whole=None, name="objects.json"):
    """Writes an annotation file and the images of `CONTENT`; returns its path and their folder."""
    images = folder / "images"
    for image in CONTENT["images"]:
        file = images / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"]), (image["id"], 0, 200)).save(file)
    path = folder / name
    path.write_text(whole if isinstance(whole, str) else json.dumps(whole or content()))
    return str(path), str(images)


def in_memory(sizes, boxes=None, channels=1, **replaced):
    """Images of the given heights and widths, the first pixel of each its position.

    Args:
        sizes: [n, 2].
        boxes: for each image a list of x, y, width, height; None: one object in the middle of each.
        channels: of the images.
        **replaced: attributes that are not the obvious.
    """
    images = [np.full((*size, channels), 100, np.uint8) for size in sizes]
    for number, image in enumerate(images):
        image[0, 0] = number
    if boxes is None:
        boxes = [[(width / 4, height / 4, width / 2, height / 2)] for height, width in sizes]
    flat = np.array([box for own in boxes for box in own], np.float64).reshape(-1, 4)
    obvious = {
        "name": "made",
        "images": tuple(images),
        "image_ids": np.arange(len(sizes)) + 1,
        "sizes": np.array(sizes, np.int32),
        "category_ids": np.array([1]),
        "class_names": ("thing",),
        "owners": np.repeat(np.arange(len(sizes)), [len(own) for own in boxes]),
        "boxes": flat,
        "labels": np.zeros(len(flat), np.int32),
        "crowd": np.zeros(len(flat), bool),
        "ignore": np.zeros(len(flat), bool),
        "areas": flat[:, 2] * flat[:, 3],
    }
    return Instances(**obvious | replaced)

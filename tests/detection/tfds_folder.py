"""A set of TensorFlow Datasets (TFDS) as it lies on disk when prepared, written without TensorFlow."""

import functools
import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_sample_images

_KINDS = tfds.features
NAMES = ("roof", "petal", "leaf")
# Photograph, id, x, y, width and height of a crop, then its objects: x, y, width, height, class, crowd.
# One has exactly the pixel that it needs to be trained, one reaches exactly to the border.
TRAIN = (
    ("china", 41, (100, 60, 90, 64), [(3.25, 4.5, 30.37, 20.11, 0, False), (50, 10, 40, 54, 2, True)]),
    ("flower", 7, (200, 100, 61, 77), []),
    ("flower", 90, (250, 120, 64, 48), [(0, 0, 64, 48, 1, False)]),
    ("china", 12, (300, 200, 50, 70), [(10.01, 20.02, 30.03, 40.04, 2, False)]),
    ("china", 13, (320, 150, 90, 64), [(7, 8, 1, 1, 0, False), (60.5, 20, 29.5, 44, 0, False)]),
)  # fmt: skip
TEST = (
    ("flower", 3, (180, 90, 70, 50), [(12.34, 5.67, 40, 30, 1, False)]),
    ("china", 2, (10, 200, 64, 90), [(20, 30, 33.33, 44.44, 0, False), (1, 1, 9, 9, 2, False)]),
)


@functools.cache
def crop(photograph: str, place: tuple[int, int, int, int]) -> bytes:
    """A crop of one of scikit-learn's two photographs, as PNG ("china") or JPEG ("flower")."""
    x, y, width, height = place
    pixels = load_sample_images().images[("china", "flower").index(photograph)]
    content = io.BytesIO()
    image = Image.fromarray(pixels[y : y + height, x : x + width])
    image.save(content, {"china": "PNG", "flower": "JPEG"}[photograph])
    return content.getvalue()


def features(**of_an_object):
    """Features of an example as COCO's; those of an object may be replaced (None: left out)."""
    label = _KINDS.ClassLabel(names=NAMES)
    own = {"area": np.int64, "bbox": _KINDS.BBoxFeature(), "is_crowd": np.bool_, "label": label}
    own = {key: kind for key, kind in (own | of_an_object).items() if kind is not None}
    return {"image": _KINDS.Image(), "image/id": np.int64, "objects": _KINDS.Sequence(own)}


def examples(rows, keys=("area", "bbox", "is_crowd", "label")) -> list[dict]:
    """Examples of rows as those of `TRAIN`, with some of the features of an object."""
    return [
        {
            "image": crop(photograph, place),
            "image/id": number,
            "objects": [_object(place, each, keys) for each in objects],
        }
        for photograph, number, place, objects in rows
    ]


def _object(place, each, keys) -> dict:
    (_, _, width, height), (x, y, w, h, label, crowd) = place, each
    box = _KINDS.BBox(y / height, x / width, (y + h) / height, (x + w) / width)
    whole = {"area": int(w * h) // 2 + 1, "bbox": box, "is_crowd": crowd, "label": label}
    return {key: whole[key] for key in keys}


def coco(rows) -> dict:
    """The content of COCO's file for the same images and objects, in the same order."""
    images, annotations = [], []
    for photograph, number, place, objects in rows:
        file = f"{number}.{photograph}"
        images.append({"id": number, "file_name": file, "width": place[2], "height": place[3]})
        for *box, label, crowd in objects:
            own = {"id": len(annotations), "image_id": number, "category_id": label, "bbox": box}
            area = int(box[2] * box[3]) // 2 + 1
            annotations.append(own | {"area": area, "iscrowd": int(crowd)})
    categories = [{"id": label, "name": name} for label, name in enumerate(NAMES)]
    return {"images": images, "categories": categories, "annotations": annotations}


def write(directory: Path, name: str, splits: dict[str, list[dict]], features: dict) -> Path:
    """Writes ArrayRecord and what describes it, by TFDS's own code.

    Args:
        directory: the future `data.data_dir`.
        name: of the set with a configuration, as "coco/2017".
        splits: by name their examples, which keep their order.
        features: of an example.

    Returns:
        The folder of the files.
    """
    set_name, config = name.split("/")

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Registered nowhere: it is read by its files alone."""

        name = set_name
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=config, version="1.1.0"),)

        def _info(self):
            own = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=own, disable_shuffling=True)

        def _split_generators(self, _):
            return {split: enumerate(own) for split, own in splits.items()}

        def _generate_examples(self):
            """Not used: `_split_generators` has them all."""

    builder = Written(config=config, data_dir=directory, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)

"""A tiny detector of bright and dark rectangles: COCO files, and a config that compiles quickly."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ddarts_jax import configuration, main
from ddarts_jax.genotypes.genotype import Genotype

SIZES = ((64, 64), (32, 60), (60, 40), (32, 64))  # height and width; one after the other
CANVASES = ((32, 64), (64, 64))

# Two cells that are read, with strides 8 and 16, behind one that is not.
GENOTYPE = Genotype(
    genes=(
        (("skip_connect", 2, 1), ("max_pool_3x3", 2, 0)),
        (("skip_connect", 2, 1),),
        (("max_pool_3x3", 2, 1),),
    ),
    reductions=(1, 2),
    concat=(2,),
    seq=None,
)

_CONFIG_FILE = """
import ddarts_jax as dd


def get_config():
    config = dd.detection_config()
    config.update_from_flattened_dict({values!r})
    return config
"""


def write_images(folder: Path, count: int, seed: int = 0, sizes=SIZES) -> tuple[str, str]:
    """Writes images with one or two rectangles each, and their annotations.

    Args:
        folder: created.
        count: number of images.
        seed: of everything.
        sizes: height and width of the images, in turn.

    Returns:
        Path of the annotation file, and the folder of the images.
    """
    draws = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        height, width = sizes[number % len(sizes)]
        pixels = draws.randint(110, 140, (height, width, 3)).astype(np.uint8)
        for half in range(draws.randint(1, 3)):  # one on top, one below
            side = draws.randint(10, 16, 2)
            x = draws.randint(width - side[0])
            y = draws.randint(height // 2 - side[1] + 1) + half * (height // 2)
            kind = draws.randint(2)
            # With noise: of equal pixels, rounding decides which one a max pool takes.
            inside = draws.randint(-15, 15, (side[1], side[0], 3)) + (20, 235)[kind]
            pixels[y : y + side[1], x : x + side[0]] = inside
            box = [int(x), int(y), int(side[0]), int(side[1])]
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": (7, 3)[kind]}
            own |= {"bbox": box, "area": int(side.prod())}
            right, end = box[0] + box[2], box[1] + box[3]
            outline = [box[0], box[1], right, box[1], right, end, box[0], end]
            annotations.append(own | {"segmentation": [outline]})
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        )
    categories = [{"id": 7, "name": "dark"}, {"id": 3, "name": "bright"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(content))
    return str(path), str(folder)


def write_data(directory: Path, train: int = 16, test: int = 5) -> dict[str, str]:
    """Writes both splits; returns the keys of a config that name them."""
    paths = (
        *write_images(directory / "train", train, seed=0),
        *write_images(directory / "test", test, seed=1),
    )
    names = ("train_annotations", "train_images", "test_annotations", "test_images")
    return {f"data.{name}": path for name, path in zip(names, paths)}


def values(directory: Path) -> dict:
    """The values of the tiny config that are not the defaults, but for the paths of the data."""
    genotype = directory / "genotype.json"
    GENOTYPE.save(genotype)
    return {
        "backbone.genotype": str(genotype),
        "backbone.channels": 4,
        "backbone.frozen_levels": 0,
        "fpn.channels": 8,
        "fpn.levels": 2,
        "anchor.scale": 2.0,
        "head.convs": 1,
        "data.short_side": (0,),
        "data.num_workers": 0,
        "train.epochs": 2,
        "train.batch_images": 4,
        "train.learning_rate": 0.02,
        "train.decay_epochs": (),
        "train.warmup_steps": 2,
        "train.clip": 10.0,
        "data.canvases": CANVASES,
        "test.score": 0.005,
        "test.per_level": 50,
        "test.limit": 10,
        "chunk_steps": 1,
        "checkpoint.every_minutes": 0.0,
    }


# Changes of the config for a detector in two stages.
TWO_STAGES = {
    "detector": "mask_rcnn",
    "anchor.scale": 4.0,
    "head.convs": 4,
    "backbone.levels": (0, 1, 2),
    "fpn.levels": 4,
    "rpn.scale": 3.0,
    "rpn.samples": 32,
    "rpn.per_level": 40,
    "rpn.limit": 30,
    "roi.width": 16,
    "roi.samples": 16,
    "roi.finest": 4.0,
}


def config(directory: Path, data: dict, **changes):
    """The tiny config; changes as `train__epochs=3`."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    found = configuration.detection_config()
    found.update_from_flattened_dict(values(directory) | data | changes)
    configuration.validate(found)
    return found


def write_config(directory: Path) -> Path:
    """Writes data and a config file that reads them; returns the file."""
    path = directory / "tiny_detector.py"
    path.write_text(_CONFIG_FILE.format(values=values(directory) | write_data(directory)))
    return path


def start(file: Path, workdir: Path, *overrides: str) -> int:
    """Runs a config file in this process; returns the exit status."""
    return main.main(["main", f"--config={file}", f"--workdir={workdir}", *overrides])

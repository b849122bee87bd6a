"""The folder of Cityscapes: its objects bit by bit, kept once read, and what is refused."""

import json
import logging

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools

from ddarts_jax.configuration import detection_config
from ddarts_jax.detection import cityscapes, datasets, outlines
from ddarts_jax.errors import UserError

_CLASSES = {24: "person", 25: "rider", 26: "car", 27: "truck"}
_CLASSES |= {28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}


def _map(*parts):
    """A map of instances on road (7), with a licence plate: numbers at places, later ones on top."""
    numbers = np.full((32, 64), 7, np.uint16)
    numbers[0, 0] = 65535
    for number, place in parts:
        numbers[place] = number
    return numbers


# By city and name. Persons 0 and 1, the first in two pieces behind the second; a group of cars; a
# caravan, which is no class of the benchmark; nothing; a group and an object of one class.
_MAPS = {
    "train": {
        ("aachen", "aachen_1"): _map(
            (24000, np.s_[4:20, 3:30]),
            (24001, np.s_[2:25, 10:14]),
            (26, np.s_[28:32, 40:64]),
            (29000, np.s_[0:9, 50:60]),
        ),
        ("aachen", "aachen_2"): _map((29, np.s_[3:9, 3:9])),
        ("zurich", "zurich_1"): _map((33, np.s_[5:9, 5:25]), (33012, np.s_[10:20, 0:7])),
    },
    "val": {("ulm", "ulm_1"): _map((24005, np.s_[1:9, 2:40]))},
}


def write(root, maps=None):
    """Writes the folder."""
    for part, own in (maps or _MAPS).items():
        for (city, name), numbers in own.items():
            for kind, file, image in (
                ("leftImg8bit", "leftImg8bit", Image.new("RGB", (64, 32), (9, 8, 7))),
                ("gtFine", "gtFine_instanceIds", Image.fromarray(numbers)),
            ):
                folder = root / kind / part / city
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{name}_{file}.png")
    return root


def settings(**values):
    config = detection_config()
    config.update_from_flattened_dict({f"data.{k}": v for k, v in values.items()})
    return config.data


def _expected():
    """The annotations of the training: image, class, number on the map, box, group or not."""
    maps = [*_MAPS["train"].values()]
    found = [
        (1, 26, 26, [40, 28, 24, 4], 1),
        (1, 24, 24000, [3, 4, 27, 16], 0),
        (1, 24, 24001, [10, 2, 4, 23], 0),
        (3, 33, 33, [5, 5, 20, 4], 1),
        (3, 33, 33012, [0, 10, 7, 10], 0),
    ]
    for number, (image, category, value, box, crowd) in enumerate(found, 1):
        mask = np.asfortranarray((maps[image - 1] == value).astype(np.uint8))
        rle = pycocotools.encode(mask)
        yield {
            "id": number, "image_id": image, "category_id": category, "bbox": box,
            "area": int(mask.sum()), "iscrowd": crowd,
            "segmentation": {"size": [32, 64], "counts": rle["counts"].decode()},
        }  # fmt: skip


def test_objects_groups_and_what_is_no_object(tmp_path, caplog):
    """Three images as COCO's JSON, masks bit by bit; counts are told, also that it is not the whole."""
    with caplog.at_level(logging.INFO):
        train, val = datasets.load(settings(name="cityscapes", root=str(write(tmp_path))), True)
    written = json.loads((tmp_path / "annotations" / "ddarts_jax_train.json").read_text())
    assert written == {
        "images": [
            {"id": number, "file_name": f"leftImg8bit/train/{city}/{name}_leftImg8bit.png",
             "height": 32, "width": 64}
            for number, (city, name) in enumerate(_MAPS["train"], 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in _CLASSES.items()],
        "annotations": [*_expected()],
    }  # fmt: skip
    assert len(train) == 3 and train.counts.tolist() == [2, 0, 1] and len(val) == 1
    first, second = train.masks(0)
    np.testing.assert_array_equal(first, _MAPS["train"]["aachen", "aachen_1"] == 24000)
    np.testing.assert_array_equal(second, _MAPS["train"]["aachen", "aachen_1"] == 24001)
    assert train.read(2, 3)[0, 0].tolist() == [9, 8, 7]
    assert "3 images, 3 objects (person 2, rider 0, car 0, " in caplog.text
    assert "bicycle 1), 2 groups" in caplog.text
    assert "has 3 images, but Cityscapes has 2975" in caplog.text
    assert "has 1 images, but Cityscapes has 500" in caplog.text


def test_what_was_read_is_kept_while_the_images_are_the_same(tmp_path, monkeypatch, caplog):
    """The maps are read once; another image, or half a file, and they are read again."""
    root = str(write(tmp_path))
    before = cityscapes.read(root, "train")
    with monkeypatch.context() as patch:
        patch.setattr(cityscapes, "_converted", None)
        assert cityscapes.read(root, "train").identity == before.identity
    kept = tmp_path / "annotations" / "ddarts_jax_train.json"
    kept.write_text(kept.read_text()[:99])
    assert cityscapes.read(root, "train").identity == before.identity
    write(tmp_path, {"train": {("bonn", "bonn_1"): _map((28000, np.s_[3:9, 3:9]))}})
    again = cityscapes.read(root, "train")
    assert again.counts.tolist() == [2, 0, 1, 1]
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()  # no folder can be made
    assert cityscapes.read(root, "train").identity == again.identity
    assert "read again at the next start" in caplog.text


def test_masks_of_objects_reach_a_stream(tmp_path):
    """Boxes alone come without outlines; the validation alone needs no training images."""
    write(tmp_path, {"val": _MAPS["val"]})
    section = settings(name="cityscapes", root=str(tmp_path))
    classes = cityscapes.read_test(str(tmp_path))
    assert datasets.load_test(section, classes).segmentations == ()
    (rle,) = datasets.load_test(section, classes, masks=True).segmentations
    assert outlines.mask_of(rle, 32, 64).sum() == 8 * 38
    with pytest.raises(UserError, match=r"leftImg8bit/train has no folders with images"):
        datasets.load(section)


def _without_map(root):
    (root / "gtFine/train/zurich/zurich_1_gtFine_instanceIds.png").unlink()


def _half_a_map(root):
    path = root / "gtFine/train/zurich/zurich_1_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:60])


def _coloured_map(root):
    path = root / "gtFine/train/zurich/zurich_1_gtFine_instanceIds.png"
    Image.new("RGB", (64, 32)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _without_map,
            "1 of 3 images .* would be .*zurich_1_gtFine_instanceIds.png: unpack gtFine",
        ),
        (_half_a_map, "Cannot read .*zurich_1_gtFine_instanceIds.png as an image"),
        (
            _coloured_map,
            "zurich_1_gtFine_instanceIds.png as an image: a map of instances has 16 bits",
        ),
    ],
)
def test_folders_that_are_not_whole(tmp_path, spoil, message):
    """One sentence names the file, before anything is kept."""
    spoil(write(tmp_path))
    with pytest.raises(UserError, match=message) as raised:
        cityscapes.read_pair(str(tmp_path))
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "annotations").exists()

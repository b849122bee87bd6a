"""Tests of what section `data` of a detection config may name, and of white in images of 16 bits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
from PIL import Image

from ddarts_jax.configuration import detection_config
from ddarts_jax.detection import composed_digits, datasets
from ddarts_jax.detection.instances import Classes
from ddarts_jax.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_detector.write_data(tmp_path_factory.mktemp("data"), 4, 3)


def settings(**values):
    config = detection_config()
    config.update_from_flattened_dict({f"data.{k}": v for k, v in values.items()})
    return config.data


def named(data, *parts):
    """The keys of some of the four paths."""
    paths = {key.removeprefix("data."): path for key, path in data.items()}
    return {key: path for key, path in paths.items() if key.startswith(parts)}


def test_four_paths_or_a_root_as_coco_unpacks(data, tmp_path):
    """Both give the same images and objects."""
    four = datasets.load(settings(**named(data, "train", "test")))
    for part, name in (("train", "train2017"), ("test", "val2017")):
        (tmp_path / name).symlink_to(data[f"data.{part}_images"])
        (tmp_path / "annotations").mkdir(exist_ok=True)
        link = tmp_path / "annotations" / f"instances_{name}.json"
        link.symlink_to(data[f"data.{part}_annotations"])
    for one, other in zip(four, datasets.load(settings(root=str(tmp_path)))):
        assert one.identity == other.identity and one.class_names == ("bright", "dark")


def test_outlines_are_kept_only_for_masks(data, tmp_path, monkeypatch):
    """They are gigabytes for COCO; another outline makes other data, but not for boxes alone."""
    monkeypatch.setattr(composed_digits, "NUM_TRAIN", 3)
    monkeypatch.setattr(composed_digits, "NUM_TEST", 2)
    section = settings(name="digits")
    bare, whole = datasets.load(section), datasets.load(section, masks=True)
    for without, pair in zip(bare, whole):
        assert without.segmentations == () and len(pair.segmentations) == len(pair.boxes)
        assert without.identity == {k: v for k, v in pair.identity.items() if k != "outlines"}
    other = dataclasses.replace(whole[0], segmentations=whole[0].segmentations[::-1])
    assert other.identity != whole[0].identity
    assert datasets.load_test(section, whole[0], masks=True).identity == whole[1].identity
    assert datasets.load_test(section, whole[0]).identity == bare[1].identity
    files = named(data, "train", "test")
    content = json.loads(Path(files["train_annotations"]).read_text())
    for each in content["annotations"]:
        del each["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    files["train_annotations"] = str(tmp_path / "train.json")
    with pytest.raises(
        UserError, match=r"train\.json have no segmentation, the first is annotation 1"
    ):
        datasets.load(settings(**files), masks=True)
    with pytest.raises(UserError, match=r"'coco/2017' would be .* no masks: .*data\.name=coco"):
        datasets.load(settings(name="coco/2017"), masks=True)


def test_the_test_images_alone(data):
    """Need no training images, and get the labels of a detector's classes."""
    classes = Classes("run", np.array([3, 5, 7]), ("bright", "else", "dark"))
    found = datasets.load_test(settings(**named(data, "test")), classes)
    assert found.class_names == classes.class_names and set(found.labels) == {0, 2}
    with pytest.raises(UserError, match=r"test_annotations, config\.data\.test_images"):
        datasets.load_test(settings(**named(data, "train")), classes)
    with pytest.raises(UserError, match="no category in common"):
        datasets.load_test(
            settings(**named(data, "test")), classes._replace(category_ids=np.array([1, 2, 4]))
        )
    with pytest.raises(UserError, match=r"'x' in run but '\w+' in"):
        datasets.load_test(settings(**named(data, "test")), classes._replace(class_names=["x"] * 3))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "cityscapes"}, "config.data.root, the folder of Cityscapes"),
        ({"name": "cityscapes", "test_images": "x"}, "data.name=coco"),
        ({"name": "cityscape"}, "Use 'digits', 'coco', 'cityscapes' or a name of TensorFlow"),
        ({"name": "digits", "root": "/data"}, "data.name=coco"),
        ({"name": "digits", "test_images": "x"}, "data.name=coco"),
        ({}, "config.data.root"),
        ({"train_annotations": "a", "train_images": "b"}, "config.data.test_images"),
        ({"root": "/data", "test_images": "x"}, "Name either"),
        ({"root": "/nowhere"}, "/nowhere/annotations/instances_train2017.json"),
    ],
)
def test_a_section_that_names_no_data(values, named):
    """The sentence tells which keys belong together."""
    with pytest.raises(UserError) as error:
        datasets.load(settings(**values))
    assert named in str(error.value)


@pytest.mark.parametrize(("largest", "white"), [(1000, 1023), (40000, 65535)])
def test_images_of_16_bits_are_neither_black_nor_cut_off(tmp_path, largest, white):
    """White is the lowest usual one that the brightest pixel needs, unless the config tells it."""
    levels = np.linspace(0, largest, 40 * 40).reshape(40, 40).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 40}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    both = [str(tmp_path / "x.json"), str(tmp_path)] * 2
    section = settings(**dict(zip(datasets.PATHS, both)))
    train, _ = datasets.load(section)
    pixels = datasets.pixels_of(section, train, {})
    assert pixels.white == white
    np.testing.assert_allclose(pixels.mean, levels.mean() / white, atol=1 / 255)
    assert train.read(0, 1, white).max() == round(255 * largest / white)
    section.white = 65535
    assert datasets.pixels_of(section, train, {}).white == 65535

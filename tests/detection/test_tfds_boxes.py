"""Boxes of TensorFlow Datasets: what COCO's files say of the same images, or one sentence."""

import json
import logging
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tfds_folder

from ddarts_jax.configuration import detection_config
from ddarts_jax.detection import datasets, tfds_boxes
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.instances import Classes, white_of_some
from ddarts_jax.errors import UserError

TRAIN, TEST = (tfds_folder.examples(rows) for rows in (tfds_folder.TRAIN, tfds_folder.TEST))


def settings(**values):
    config = detection_config()
    config.update_from_flattened_dict({f"data.{k}": v for k, v in values.items()})
    return config.data


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A set under COCO's name, whose code in TFDS needs TensorFlow; its test has images alone."""
    directory = tmp_path_factory.mktemp("tfds")
    empty = [example | {"objects": []} for example in TEST]
    splits = {"train": TRAIN, "validation": TEST, "test": empty}
    tfds_folder.write(directory, "coco/2017", splits, tfds_folder.features())
    return directory


@pytest.fixture(scope="module")
def both(directory, tmp_path_factory):
    """The set's training and test images, and those of a COCO folder with the same."""
    folder = tmp_path_factory.mktemp("coco")
    paths = {}
    for part, rows in (("train", tfds_folder.TRAIN), ("test", tfds_folder.TEST)):
        for photograph, number, place, _ in rows:
            content = tfds_folder.crop(photograph, place)
            (folder / f"{number}.{photograph}").write_bytes(content)
        (folder / f"{part}.json").write_text(json.dumps(tfds_folder.coco(rows)))
        paths[f"{part}_annotations"] = str(folder / f"{part}.json")
        paths[f"{part}_images"] = str(folder)
    of_tfds = datasets.load(settings(name="coco/2017", data_dir=str(directory)))
    return tuple(zip(of_tfds, datasets.load(settings(**paths))))


def test_the_same_images_and_objects_as_a_coco_folder(both):
    """Bit by bit, though TFDS keeps boxes as fractions in float32; and the identity of checkpoints."""
    for found, other in both:
        for key in (
            "image_ids",
            "sizes",
            "category_ids",
            "class_names",
            "owners",
            "boxes",
            "labels",
        ):
            np.testing.assert_array_equal(getattr(found, key), getattr(other, key), key)
        for key in ("crowd", "ignore", "areas", "trained_images"):
            np.testing.assert_array_equal(getattr(found, key), getattr(other, key), key)
        for key in ("image_ids", "sizes", "owners", "boxes", "labels", "crowd", "areas"):
            assert getattr(found, key).dtype == getattr(other, key).dtype, key
        assert found.identity == other.identity and found.on_disk and found.channels == 3
    assert [found.name for found, _ in both] == ["coco-2017-train", "coco-2017-validation"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_same_batches_as_of_a_coco_folder(both, num_workers):
    """Order, pixels and objects, from a thread and from another process."""
    for training, pair in zip((True, False), both):
        # The other one reads its files in a thread.
        streams = [
            CanvasStream(
                instances=instances,
                batch_size=2,
                sides=((64, 96), (96, 64)),
                channels=3,
                training=training,
                num_workers=num_workers * (training and index == 0),
            ).batches()
            for index, instances in enumerate(pair)
        ]
        for _, *batches in zip(range(2), *streams):
            for one, other in zip(*batches):
                np.testing.assert_array_equal(one, other)


def test_nothing_of_the_pixels_is_kept(both):
    """An image is a place: small where it is sent to workers, hashable, and read when it is needed."""
    found = both[0][0]
    assert len({*found.images}) == len(found)
    one, whole = pickle.dumps(found.images[:1]), pickle.dumps(found.images)
    assert len(whole) - len(one) < 50 * len(found)
    assert pickle.loads(whole)[2].read() == tfds_folder.crop("flower", (250, 120, 64, 48))
    assert white_of_some(found) == 0


def test_features_that_may_be_missing(tmp_path, caplog):
    """Without ids, areas and crowds; "test" where there is no "validation"; a box of no width."""
    rows = (("flower", 0, (9, 9, 40, 50), [(1, 2, 0, 9, 0, False), (1, 2, 10, 20, 0, False)]),)
    kinds = tfds_folder.features(area=None, is_crowd=None)
    splits = {"train": rows * 2, "test": rows}
    examples = {
        part: [
            {key: example[key] for key in ("image", "objects")}
            for example in tfds_folder.examples(own, ("bbox", "label"))
        ]
        for part, own in splits.items()
    }
    del kinds["image/id"]
    tfds_folder.write(tmp_path, "own/x", examples, kinds)
    with caplog.at_level(logging.INFO):
        train, test = datasets.load(settings(name="own/x", data_dir=str(tmp_path)))
    assert train.image_ids.tolist() == [1, 2] and test.name == "own-x-test"
    assert train.areas.tolist() == [200, 200] and not train.crowd.any()
    assert train.boxes.tolist() == [[1, 2, 10, 20]] * 2
    assert "own-x-train: reading the boxes and sizes of 2 images" in caplog.text
    assert "2 of 4 boxes in the split 'train' of 'own/x' have no width or no height" in caplog.text


def test_the_test_images_alone(directory):
    """A detector is evaluated again with its own classes."""
    classes = Classes("run", np.arange(3), tfds_folder.NAMES)
    place = {"name": "coco/2017", "data_dir": str(directory)}
    assert len(datasets.load_test(settings(**place), classes)) == 2
    with pytest.raises(UserError, match="Category 0 is 'x' in run but 'roof' in coco-2017-valid"):
        datasets.load_test(settings(**place), classes._replace(class_names=("x", "petal", "leaf")))


def _error(**values):
    with pytest.raises(UserError) as error:
        datasets.load(settings(**values))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_set_that_cannot_be_read(directory, tmp_path, capsys):
    """Not prepared, unknown, in TensorFlow's own format, cut off: what is wrong, and what to do."""
    missing = _error(name="coco/2017", data_dir=str(tmp_path))
    assert f"not prepared in {tmp_path}: prepare it once where TensorFlow" in missing
    assert not capsys.readouterr().out  # nor how TensorFlow is installed, which is not needed here
    assert "did you mean 'coco'? Use 'digits', 'coco', 'cityscapes' or a name of" in _error(
        name="coca/2017"
    )
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    files = tmp_path / "coco" / "2017" / "1.1.0"
    info = (files / "dataset_info.json").read_text()
    (files / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    own = {"name": "coco/2017", "data_dir": str(tmp_path)}
    assert "stored as tfrecord, which only TensorFlow reads: prepare" in _error(**own)
    (files / "dataset_info.json").write_text(info)
    (records,) = files.glob("coco-train.*")
    whole = records.read_bytes()
    records.write_bytes(whole[:-1000])
    assert f"delete {files} and prepare it once" in _error(**own)


def test_sets_that_are_not_of_boxes(tmp_path):
    """Images of one class, boxes in pixels, a split without objects, an id twice, and a broken image."""
    kinds = tfds_folder.features()
    label = {"image": kinds["image"], "label": tfds.features.ClassLabel(num_classes=2)}
    one = [{"image": TRAIN[0]["image"], "label": 0}]
    in_pixels = tfds_folder.features(bbox=tfds.features.BBoxFeature(bbox_format="YXYX"))
    bare = [TRAIN[1]]
    broken = [TRAIN[0] | {"image": b"no image"}]
    for name, splits, features, expected in (
        ("a", {"train": one}, label, "is not for detection: it needs"),
        ("b", {"train": TRAIN, "test": TEST}, in_pixels, "is not for detection: it needs"),
        (
            "c",
            {"train": TRAIN, "test": bare},
            kinds,
            "no split 'validation' or 'test' with objects",
        ),
        ("d", {"train": bare, "test": TEST}, kinds, "no split 'train' with objects"),
        ("e", {"train": TRAIN, "test": TEST * 2}, kinds, "'image/id' is 3 for 2 images"),
        ("f", {"train": broken, "test": TEST}, kinds, "Cannot read image 0 of the split 'train'"),
    ):
        tfds_folder.write(tmp_path, f"{name}/x", splits, features)
        assert expected in _error(name=f"{name}/x", data_dir=str(tmp_path)), name


def test_boxes_and_classes_that_cannot_be(directory):
    """What no set of TFDS's own making has: fractions and labels out of range."""
    found = tfds_boxes._open("coco/2017", str(directory)).split("train")
    sane = {"owners": np.array([0]), "label": np.array([0]), "bbox": np.array([[0, 0, 0.5, 0.5]])}
    sizes = np.array([[40, 60]])
    assert tfds_boxes._objects(sane, sizes, 1, found)["boxes"].tolist() == [[0, 0, 30, 20]]
    for key, value, expected in (
        ("bbox", [[0, 0, np.nan, 1]], "not fractions"),
        ("bbox", [[0, 0, 30, 20]], "not fractions"),
        ("bbox", [[0, 0.5, 1, 0.5]], "1 of 1 boxes"),
        ("label", [-1], "run from -1 to -1, but the 1 classes are 0 to 0"),
        ("area", [np.inf], "areas that are not finite"),
    ):
        with pytest.raises(UserError, match=expected):
            tfds_boxes._objects(sane | {key: np.array(value)}, sizes, 1, found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "coco/2017", "root": "/data"}, "config.data.root is '/data'"),
        ({"name": "coco/2017", "test_images": "/data"}, "or set config.data.name=coco."),
        ({"name": "coco", "data_dir": "/data"}, "config.data.name to a set of TensorFlow Datasets"),
        ({"name": "digits", "data_dir": "/data"}, "which are composed here: leave it empty"),
    ],
)
def test_places_of_other_data_are_refused(values, expected):
    """A key that would be ignored is named, with the name of the data that it belongs to."""
    assert expected in _error(**values)

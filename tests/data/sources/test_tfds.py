"""Sets of TensorFlow Datasets: read exactly, without TensorFlow and without a network."""

import io
import os
import pickle

import numpy as np
import pytest
from image_files import Config, check, image_of

from ddarts_jax.data import records, stream
from ddarts_jax.data.dataset import load
from ddarts_jax.data.sources import tfds as tfds_source
from ddarts_jax.errors import UserError


def test_tfds_cifar10_is_read_exactly_without_tensorflow(prepared, no_network):
    """Images and labels equal what TFDS itself decodes, in its order."""
    import tensorflow_datasets as tfds

    dataset = load(Config("cifar10", data_dir=str(prepared)))
    check(dataset)
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == (32, 3, 10)
    assert dataset.class_names[:2] == ("airplane", "automobile")
    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        source = tfds.data_source("cifar10", split=split, data_dir=prepared, download=False)
        np.testing.assert_array_equal(images, [example["image"] for example in source])
        np.testing.assert_array_equal(labels, [example["label"] for example in source])
    assert load(Config("cifar10", data_dir=str(prepared), image_size=8)).image_size == 8


def test_tfds_is_streamed_as_it_is_loaded(prepared, no_network):
    """A stream gives the images, in order, that `load` gives; workers can be handed its source."""
    config = Config("cifar10", data_dir=str(prepared))
    loaded = load(config)
    train, test = records.open_records(config)
    assert (len(train), len(test), train.num_classes, train.labels) == (200, 200, 10, None)
    evaluation = stream.ImageStream(records=test, batch_size=50, image_size=28, training=False)
    batch = next(pickle.loads(pickle.dumps(evaluation)).batches())
    # 28 of 32 pixels: the central crop is made of whole pixels.
    np.testing.assert_array_equal(batch.images, loaded.test_images[:50, 2:30, 2:30])
    np.testing.assert_array_equal(batch.labels, loaded.test_labels[:50])
    first, second = records.halves(train, seed=0)
    assert sorted([*first.indices, *second.indices]) == list(range(200))
    assert train.identity["tfds"] == "cifar10/3.0.2"


def test_tfds_class_without_images_is_named(prepared, no_network):
    """200 images of CIFAR-100 lack some of its classes: refused, not trained on."""
    with pytest.raises(UserError, match="100 classes, but its training split has no image"):
        load(Config("cifar100", data_dir=str(prepared)))


def test_tfds_that_is_corrupt_or_tfrecord(prepared, no_network, tmp_path):
    """A corrupt ArrayRecord is named, and TFRecord is told from it, both with the way out."""
    source = prepared / "cifar10" / "3.0.2"
    copy = tmp_path / "cifar10" / "3.0.2"
    copy.mkdir(parents=True)
    for file in source.iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[:-1000] if "-train." in file.name else content)
    with pytest.raises(UserError, match="'train' of 'cifar10'"):
        load(Config("cifar10", data_dir=str(tmp_path)))
    info = (copy / "dataset_info.json").read_text()
    (copy / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="stored as tfrecord"):
        load(Config("cifar10", data_dir=str(tmp_path)))


def test_tfds_test_split_without_labels_is_passed_over(monkeypatch):
    """ImageNet's test split has label -1 throughout: its validation split is the test."""
    import tensorflow_datasets as tfds

    def source(split, decoders):
        buffer = io.BytesIO()
        image_of({"train": 10, "test": 20, "validation": 30}[split]).save(buffer, "png")
        labels = [-1] * 3 if split == "test" else [0, 1, 1]
        return [{"image": buffer.getvalue(), "label": label} for label in labels]

    class Builder:
        data_dir = "nowhere"
        is_prepared = staticmethod(lambda: True)
        as_data_source = staticmethod(source)

        class info:
            features = tfds.features.FeaturesDict(
                {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
            )
            splits = ("train", "validation", "test")

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder)
    dataset = load(Config("imagenet2012"))
    np.testing.assert_array_equal(dataset.test_images, np.full((3, 6, 6, 3), 30))
    np.testing.assert_array_equal(dataset.test_labels, [0, 1, 1])


def test_tfds_that_is_not_prepared_says_how_and_downloads_nothing(no_network, tmp_path):
    """The message holds the command to prepare; no connection is tried."""
    with pytest.raises(UserError, match=r"file_format='array_record'.*data\.data_dir"):
        load(Config("cifar10", data_dir=str(tmp_path)))
    assert not os.listdir(tmp_path)


def test_a_broken_record_of_tfds_is_told_with_its_number():
    """The message names the split, the image's number, the reason and what to do."""
    source = tfds_source.Tfds(
        "the split 'train' of 'x'", [{"image": b"no", "label": 0}] * 3, "mend it"
    )
    broken = records.Records(source, np.arange(3), ("a", "b"))
    evaluation = stream.ImageStream(records=broken, batch_size=3, image_size=8, training=False)
    with pytest.raises(UserError, match=r"image 0 of the split 'train' of 'x' \(.*\): mend it\."):
        next(evaluation.batches())

"""Feeds: which images a run was made from is part of what identifies it."""

import dataclasses

import numpy as np
import pytest
import tiny
from PIL import Image

from ddarts_jax.data import dataset as data
from ddarts_jax.data import stream
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.runs import identity
from ddarts_jax.training import feeds


@pytest.fixture
def dataset(tmp_path):
    return data.load(tiny.config(tiny.write_data(tmp_path / "digits.npz")).data)


def test_one_pixel_or_label_makes_other_images(dataset):
    """Replaced images do not continue another run; equal ones do, wherever they are from."""
    images, labels = dataset.train_images.copy(), dataset.train_labels.copy()
    images[3, 4, 4, 0] ^= 1
    labels[5] = (labels[5] + 1) % 3
    checksums = {
        feeds.checksum(other)
        for other in (
            dataset,
            dataclasses.replace(dataset, train_images=images),
            dataclasses.replace(dataset, train_labels=labels),
        )
    }
    assert len(checksums) == 3
    moved = dataclasses.replace(
        dataset,
        name="elsewhere",
        train_images=np.asfortranarray(dataset.train_images),
        train_labels=dataset.train_labels.astype(np.int64),
    )
    assert feeds.checksum(moved) == feeds.checksum(dataset)


def test_a_run_does_not_continue_on_other_images(tmp_path):
    """The sentence has both checksums; a run of an older version, which has none, continues."""
    identity.claim(tmp_path / "a" / "config.json", {"seed": 0, "images": "0a"}, "checkpoints")
    with pytest.raises(UserError, match="images: '0a', '0b'"):
        identity.claim(tmp_path / "a" / "config.json", {"seed": 0, "images": "0b"}, "checkpoints")
    identity.claim(tmp_path / "b" / "config.json", {"seed": 0}, "checkpoints")
    identity.claim(tmp_path / "b" / "config.json", {"seed": 0, "images": "0b"}, "checkpoints")


@pytest.mark.parametrize("streamed", [False, True])
def test_some_batches_are_mixed_where_the_data_lie_class_by_class(tmp_path, dataset, streamed):
    """A batch of one class would go through BatchNorm, and mean something else."""
    labels = np.sort(dataset.train_labels)
    ordered = dataclasses.replace(dataset, train_labels=labels)
    split = np.arange(len(labels))
    if streamed:
        for number, label in enumerate(labels):
            path = tmp_path / "images" / str(label) / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset.train_images[number, ..., 0]).save(path)
        config = tiny.config("").data
        config.name, config.image_size, config.num_workers = f"folder:{tmp_path}/images", 8, 0
        ordered = stream.load(config)
        split = ordered.train
    mesh = sharding.data_mesh(16)
    batches = feeds.some_batches(ordered, split, 40, 16, mesh)
    assert len(batches) == 2
    for _, found in batches:
        assert len(np.unique(found)) == 3
    again = feeds.some_batches(ordered, split, 40, 16, mesh)
    np.testing.assert_array_equal(batches[0][0], again[0][0])

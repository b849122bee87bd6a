"""Records: each file once, in its split and class; halves and identities."""

import json
import os

import numpy as np
from image_files import Config, numbered_folder
from PIL import Image

from ddarts_jax.data import records as encoded_records


def test_folder_records_are_files_with_their_labels(records):
    """Every file is there once, in the split and class of its folder."""
    train, test = records
    assert train.class_names == test.class_names == ("a", "b")
    np.testing.assert_array_equal(train.labels, [0] * 11 + [1] * 12)
    np.testing.assert_array_equal(test.labels, [0] * 2 + [1] * 3)
    assert [os.path.basename(train.source.files[i]) for i in (0, 11)] == [b"000.png"] * 2


def test_folder_without_test_split_holds_out_of_each_class(tmp_path):
    """Both parts together hold each image once; images_per_class limits both."""
    name = numbered_folder(tmp_path, {"a": 10, "b": 20})
    train, test = encoded_records.open_records(Config(name))
    assert np.bincount(test.labels).tolist() == [2, 4]
    assert sorted([*train.indices, *test.indices]) == list(range(30))
    train, test = encoded_records.open_records(Config(name, images_per_class=3))
    assert (np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()) == (
        [3, 3], [2, 3],
    )  # fmt: skip


def test_halves_divide_each_class(records):
    """The halves are disjoint, cover everything and hold half of each class."""
    first, second = encoded_records.halves(records[0], seed=1)
    assert sorted([*first.indices, *second.indices]) == list(range(23))
    assert abs(np.bincount(first.labels) - np.bincount(second.labels)).max() <= 1


def test_identity_tells_images_from_others(tmp_path, records):
    """JSON can say it; a file more, another name or another half change it; a new listing not."""
    name = numbered_folder(tmp_path, {"a": 4, "b": 4})
    identity = encoded_records.open_records(Config(name))[0].identity
    assert json.loads(json.dumps(identity)) == identity
    assert encoded_records.open_records(Config(name))[0].identity == identity
    first, second = encoded_records.halves(records[0], seed=0)
    assert first.identity != second.identity
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "new.png")
    renamed = encoded_records.open_records(Config(name))[0].identity
    Image.new("RGB", (9, 7)).save(tmp_path / "a" / "000.png")
    larger = encoded_records.open_records(Config(name))[0].identity
    assert len({str(x) for x in (identity, renamed, larger)}) == 3

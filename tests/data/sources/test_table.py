"""The choice of a source by name, in memory and as a stream."""

from pathlib import Path

import numpy as np
import pytest
from image_files import Config, image_of, write

from ddarts_jax.data import records
from ddarts_jax.data.dataset import load
from ddarts_jax.data.sources import folder, table
from ddarts_jax.data.sources.source import Loaded, Source, Split
from ddarts_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("cifar-10", "'cifar10'"),
        ("CIFAR10", "'cifar10'"),
        ("folder/x", "'folder:'"),
        ("npz", "'npz:'"),
        ("", "Unknown data.name ''"),
        ("!?", "Use 'digits', 'folder:PATH'"),
        ("cifar10/zzz", "cannot open"),
        ("cifar10:1.0.0", "cannot open"),
        (str(Path(__file__).parent), "folder:/"),
    ],
)
def test_unknown_names(name, message, no_network):
    """An unknown name is answered by the nearest known ones and the four ways to name data."""
    with pytest.raises(UserError, match=message):
        load(Config(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {}, "cannot be streamed"),
        ("npz:x.npz", {}, "cannot be streamed"),
        ("folder:/no/such/folder", {}, "no folder"),
        ("cifar10", {"images_per_class": 3}, "images_per_class"),
        ("cifar-10", {}, "did you mean 'cifar10'"),
    ],
)
def test_what_cannot_be_streamed(name, options, message):
    """Data in memory, missing folders and unknown names are refused with the reason."""
    with pytest.raises(UserError, match=message):
        records.open_records(Config(name, **options))


def test_a_line_of_the_table_is_all_that_a_source_needs(tmp_path, monkeypatch):
    """A new prefix is loaded, streamed and, for a wrong name, suggested."""
    write(tmp_path, {f"{name}/{i}.png": image_of(i) for name in "ab" for i in range(5)})

    def read(data):
        number = int(data.name.partition(":")[2])
        images = np.full((6, 4, 4, 1), number, np.uint8)
        return Loaded(Split(images, np.arange(6) % 2), None, ("even", "odd"))

    def open_files(data):
        return folder.open_files(Config(f"folder:{tmp_path}"))

    monkeypatch.setitem(table.SOURCES, "grey:", Source(read, open_files))
    dataset = load(Config("grey:7"))
    assert dataset.class_names == ("even", "odd")
    assert (dataset.num_train, dataset.num_test, dataset.train_images.min()) == (4, 2, 7)
    train, test = records.open_records(Config("grey:7"))
    assert (len(train), len(test), train.class_names) == (8, 2, ("a", "b"))
    with pytest.raises(UserError, match=r"did you mean 'grey:'.* 'grey:PATH' or a name of"):
        load(Config("grey"))
    with pytest.raises(UserError, match=r"only folder:PATH, grey:PATH and sets of"):
        records.open_records(Config("digits"))

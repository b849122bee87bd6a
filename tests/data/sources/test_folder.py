"""Folders of images: what is read, what is skipped, and every mistake a UserError."""

import logging
import os

import numpy as np
import pytest
from image_files import Config, check, classes, image_of, numbered_folder, write

from ddarts_jax.data import records
from ddarts_jax.data.dataset import load
from ddarts_jax.distributed import memory
from ddarts_jax.errors import UserError


def test_folder_is_a_class_each_in_order_of_names(tmp_path):
    """Classes are the folders by name; hidden files, system files and loose files are ignored."""
    files = {f"b/{i}.png": image_of(10 + i) for i in range(5)}
    files |= {f"a/{i}.JPG": image_of(200) for i in range(5)}
    files |= {"a/.DS_Store": b"x", "b/Thumbs.db": b"x", ".git/x": b"x", "readme.txt": b"x"}
    dataset = load(Config(write(tmp_path, files)))
    check(dataset)
    assert dataset.class_names == ("a", "b")
    assert (dataset.image_size, dataset.channels) == (6, 3)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)
    np.testing.assert_array_equal(dataset.train_images[:, 0, 0, 0] > 100, dataset.train_labels == 0)


def test_folder_with_train_and_test_is_not_split_again(tmp_path):
    """train/ and test/ are the splits; test may lack a class; one colour image makes all colour."""
    files = {f"train/{name}": image for name, image in classes(2, mode="L").items()}
    files["test/dog/x.png"] = image_of(7)
    dataset = load(Config(write(tmp_path, files)))
    check(dataset)
    assert (len(dataset.train_labels), dataset.channels) == (4, 3)
    np.testing.assert_array_equal(dataset.test_labels, [1])
    np.testing.assert_array_equal(dataset.test_images, np.full((1, 6, 6, 3), 7))


def test_folder_with_val_or_with_train_alone(tmp_path):
    """val/ is the test where there is no test/; of train/ alone a part is held out."""
    files = {f"train/{name}": image for name, image in classes(5).items()}
    alone = load(Config(write(tmp_path, files)))
    assert alone.class_names == ("cat", "dog")
    assert (len(alone.train_labels), len(alone.test_labels)) == (8, 2)
    files = {f"val/{name}": image_of(200) for name in classes(1)}
    dataset = load(Config(write(tmp_path, files)))
    assert (len(dataset.train_labels), dataset.test_images.min()) == (10, 200)
    dataset = load(Config(write(tmp_path, {"test/cat/0.png": image_of(9)})))
    assert dataset.test_images.max() == 9


def test_what_is_skipped_or_missing_in_a_folder_is_logged(tmp_path, caplog):
    """Files that are no images by their names, folders besides the splits, and classes that the
    test lacks are told once, with their number and the first of them.
    """
    files = {f"train/{name}": image for name, image in classes(2).items()}
    files |= {"test/dog/0.png": image_of(), "extra/x.png": image_of()}
    files |= {f"train/cat/{name}": b"x" for name in ("notes.txt", "labels.xml", ".hidden", "list")}
    with caplog.at_level(logging.WARNING):
        dataset = load(Config(write(tmp_path, files)))
    assert len(dataset.train_labels) == 4
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert f"Folders ignored in {tmp_path}: extra." in texts
    skipped = f"Skipped 3 files in {tmp_path}/train without the suffix of an image, "
    assert skipped + f"starting with {tmp_path}/train/cat/labels.xml." in texts
    assert any(text.startswith("1 of 2 classes have no image in") for text in texts)
    assert "'cat'" in caplog.text


@pytest.mark.parametrize(("image_size", "expected"), [(0, 32), (9, 9)])
def test_folder_of_several_sizes(tmp_path, image_size, expected):
    """Images of several sizes become `image_size`, or 32 where the user chose none."""
    files = classes() | {"cat/tall.png": image_of(3, size=(5, 90))}
    dataset = load(Config(write(tmp_path, files), image_size=image_size))
    check(dataset)
    assert dataset.image_size == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "no class"),
        ({"cat/0.png": image_of(), "cat/1.png": image_of()}, "at least 2"),
        (classes() | {"owl/.hidden": b""}, "'owl' is empty"),
        (classes() | {"owl/notes.txt": b"hello"}, "'owl' is empty"),
        (classes() | {"cat/notes.png": b"hello"}, r"notes\.png.* of no known kind"),
        (classes() | {"cat/inner/0.png": image_of()}, "'inner'"),
        (classes() | {"owl/0.png": image_of()}, "'owl' has only 1 image"),
        (classes() | {"Cat /0.png": image_of()}, "two spellings of a class, 'Cat ' and 'cat'"),
        (
            {f"train/{k}": v for k, v in classes().items()} | {"test/Cat/0.png": image_of()},
            "two spellings of a class, 'cat' and 'Cat'",
        ),
        (
            {f"{top}/{k}": v for top in "ab" for k, v in classes().items()},
            r"train and test \(or val",
        ),
        ({"train/.keep": b"", "test/cat/0.png": image_of()}, "no class in .*train"),
        (
            {f"train/{k}": v for k, v in classes().items()} | {"test/owl/0.png": image_of()},
            "'owl' is in .*test but not in .*train",
        ),
    ],
)
def test_mistakes_in_a_folder(tmp_path, files, message):
    """Every mistake in a folder of images is a UserError that names the class or the file."""
    with pytest.raises(UserError, match=message):
        load(Config(write(tmp_path, files)))


@pytest.mark.parametrize("path", ["", "/no/such/folder", "~nobody/x", "a\0b", __file__])
def test_missing_folder(path):
    """A path that is no folder is named, the empty one is not taken for the current folder."""
    with pytest.raises(UserError, match="no folder"):
        load(Config(f"folder:{path}"))


def test_a_class_that_the_test_lacks_is_logged(tmp_path, caplog):
    """val/ serves as the test; a class that is missing there is named once."""
    name = numbered_folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1})
    with caplog.at_level(logging.WARNING):
        _, test = records.open_records(Config(name))
    assert test.labels.tolist() == [0]
    assert "1 of 2 classes have no image in" in caplog.text and "'b'" in caplog.text


def test_a_class_whose_name_is_not_unicode(tmp_path):
    """It is refused at the start, and not by the picture at the end of a training."""
    write(tmp_path, classes())
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    image_of().save(os.path.join(os.fsdecode(folder), "0.png"))
    for read in (load, records.open_records):
        with pytest.raises(UserError, match=r"b'caf\\xe9' is not Unicode: rename it"):
            read(Config(f"folder:{tmp_path}"))


def test_images_beyond_the_memory_are_not_read(tmp_path, monkeypatch):
    """The headers tell how much they need; a stream is the way out."""
    name = write(tmp_path, classes())
    monkeypatch.setattr(memory, "available", lambda: 2 * 6 * 8 * 8 * 3 - 1)
    assert load(Config(name)).image_size == 6
    with pytest.raises(UserError, match=r"memory.*: set data\.stream=True and data\.image_size"):
        load(Config(name, image_size=8))


def test_hashes_of_a_stream_are_those_of_names_and_sizes(tmp_path):
    """They stay where the folder moves, and are others for other files, also under the same names."""
    first, _ = records.open_records(Config(write(tmp_path / "a", classes())))
    moved, _ = records.open_records(Config(write(tmp_path / "b", classes())))
    np.testing.assert_array_equal(first.hashes()[0], moved.hashes()[0])
    other, _ = records.open_records(Config(write(tmp_path / "c", classes(4))))
    assert set(other.hashes()[0]) - set(first.hashes()[0])
    np.testing.assert_array_equal(first.hashes()[1], first.labels)
    named_alike, _ = records.open_records(Config(write(tmp_path / "d", classes(size=(99, 7)))))
    np.testing.assert_array_equal(named_alike.source.files, first.source.files)
    assert not set(named_alike.hashes()[0]) & set(first.hashes()[0])

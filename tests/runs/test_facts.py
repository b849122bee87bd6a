"""What a run knows of its data: a network is used with its own mean and deviation, or refused."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from PIL import Image

import ddarts_jax
from ddarts_jax.configuration import default_config
from ddarts_jax.data import dataset as data
from ddarts_jax.data import stream
from ddarts_jax.errors import UserError
from ddarts_jax.runs import facts


@pytest.fixture
def dataset(tmp_path):
    return data.load(tiny.config(tiny.write_data(tmp_path / "digits.npz")).data)


def test_what_a_run_keeps_is_read_back(tmp_path, dataset):
    """The three files are there, and the facts of the data survive JSON."""
    facts.keep(tmp_path, tiny.config(""), dataset)
    assert facts.of_run(tmp_path) == facts.of_data(dataset) | facts.of_images(dataset)
    assert facts.trained_on(tmp_path, dataset) == 0
    assert {"config.json", "dataset.json", "versions.json"} <= {p.name for p in tmp_path.iterdir()}
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["ddarts_jax"] == ddarts_jax.__version__
    assert versions.keys() >= {"python", "orbax", "grain", "numpy", "device"}
    assert facts.of_run(tmp_path / "nowhere") is None


def test_other_data_are_normalised_as_the_training_s(dataset):
    """Images that are brighter today do not change what the network is fed."""
    own = facts.of_data(dataset)
    brighter = dataclasses.replace(dataset, mean=dataset.mean + 0.1, std=dataset.std * 2)
    matched = facts.matched(own, brighter, "RUN")
    np.testing.assert_array_equal(matched.mean, dataset.mean)
    np.testing.assert_array_equal(matched.std, dataset.std)
    assert facts.matched(None, brighter, "RUN") is brighter


def test_data_of_other_classes_or_sizes_are_refused(dataset):
    """The sentence names both sides."""
    own = facts.of_data(dataset)
    other = dataclasses.replace(dataset, class_names=("a", "b", "c"))
    with pytest.raises(UserError, match=r"the classes \['0', '1', '2'\], but .* \['a', 'b', 'c'\]"):
        facts.matched(own, other, "RUN")
    fewer = dataclasses.replace(dataset, class_names=("0", "1"))
    with pytest.raises(UserError, match=r"a number of classes of 3, but .* 2"):
        facts.matched(own | {"class_names": None}, fewer, "RUN")
    larger = dataclasses.replace(dataset, train_images=np.zeros((80, 16, 16, 1), np.uint8))
    with pytest.raises(UserError, match=r"RUN .*shape \[8, 8, 1\], but .* \[16, 16, 1\]"):
        facts.matched(own, larger, "RUN")


@pytest.fixture
def split(tmp_path):
    """Loads the same file with another part for the test, or with corrected labels."""
    path = tiny.write_data(tmp_path / "split.npz")

    def load(fraction=0.2, labels=None):
        if labels is not None:
            with np.load(path) as file:
                np.savez(path, images=file["images"], labels=labels)
        config = tiny.config(path)
        config.data.test_fraction = fraction
        return data.load(config.data)

    return load


def test_a_test_on_images_of_the_training_is_refused(split, tmp_path):
    """The same images with another split say so; more images than then are found by their pixels."""
    own = split()
    facts.keep(tmp_path, tiny.config(""), own)
    known = facts.of_run(tmp_path)
    assert facts.is_own(known, own) and facts.matched(known, own, "RUN").name == own.name
    with pytest.raises(UserError, match=r"trained on 65 of these .* tested on 15, but here 71 "):
        facts.matched(known, split(0.9), "RUN")
    some = np.arange(5)
    grown = dataclasses.replace(
        own,
        test_images=np.concatenate([own.train_images[some], 255 - own.test_images]),
        test_labels=np.concatenate([own.train_labels[some], own.test_labels]),
    )
    assert not facts.is_own(known, grown)
    with pytest.raises(UserError, match="trained on 25% of the test images"):
        facts.check_unseen(tmp_path, grown)
    facts.check_unseen(tmp_path, dataclasses.replace(own, test_images=255 - own.test_images))


def test_other_data_are_told_from_data_that_moved(split, tmp_path):
    """Names and order do not count, labels do; an older run is taken at its word."""
    own = split()
    known = facts.of_data(own) | facts.of_images(own)
    turned = dataclasses.replace(
        own, name="moved", test_images=own.test_images[::-1], test_labels=own.test_labels[::-1]
    )
    assert facts.is_own(known, turned)
    relabelled = dataclasses.replace(own, test_labels=(own.test_labels + 1) % 3)
    assert not facts.is_own(known, relabelled)
    older = facts.of_data(own)
    assert facts.is_own(older, relabelled) and not facts.is_own(older, turned)


def test_a_run_does_not_continue_with_corrected_labels(split, tmp_path):
    """Neither those of the training nor of the test images; without a checkpoint all may change."""
    own = split()
    facts.keep(tmp_path, tiny.config(""), own)
    for name in ("train_labels", "test_labels"):
        labels = (getattr(own, name) + 1) % 3
        corrected = dataclasses.replace(own, **{name: labels})
        facts.check_resumed(tmp_path, corrected, ["train"])
        (tmp_path / "checkpoints" / "train" / "5").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match=rf"began with other data: 65 .*{name[:4]}.*_checksum"):
            facts.check_resumed(tmp_path, corrected, ["search", "train"])
        facts.check_resumed(tmp_path, corrected, ["search"])
        facts.check_resumed(tmp_path, own, ["train"])
        (tmp_path / "checkpoints" / "train" / "5").rmdir()


def test_streams_of_equal_names_are_told_apart(tmp_path):
    """Other photographs under the names of the training's are no data of its own, and not learnt."""
    own, other = (_photographs(tmp_path / name, side) for name, side in (("a", 8), ("b", 99)))
    facts.keep(tmp_path, tiny.config(""), own)
    known = facts.of_run(tmp_path)
    assert known["hashed"] == "names and sizes" and facts.is_own(known, own)
    assert not facts.is_own(known, other)
    facts.check_unseen(tmp_path, other)
    assert facts.trained_on(tmp_path, dataclasses.replace(own, test=own.train)) == 1
    # An older version hashed names alone: its run is taken at its word.
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({k: v for k, v in known.items() if k != "hashed"}))
    older = facts.of_run(tmp_path)
    assert set(known) - set(older) == {"hashed", *facts._IMAGES} and facts.is_own(older, own)


def _photographs(root, side):
    """A stream of two classes of photographs, numbered as a camera does."""
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (root / place).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (side, side), (number, 9, 9)).save(root / place / f"{number}.png")
    config = default_config().data
    config.name, config.image_size, config.stream = f"folder:{root}", 8, True
    return stream.load(config)


def test_the_config_of_a_phase_stays_while_another_runs(split, tmp_path):
    """A training with another config in the folder of a search leaves what was searched with."""
    config = tiny.config("")
    facts.keep(tmp_path, config, split(), "search")
    (tmp_path / "checkpoints" / "search" / "5").mkdir(parents=True)
    config.search.epochs, config.parse.threshold, config.train.epochs = 99, 0.1, 7
    facts.keep(tmp_path, config, split(), "train")
    kept = json.loads((tmp_path / "config.json").read_text())
    assert (kept["search"]["epochs"], kept["parse"]["threshold"]) == (12, 0.85)
    assert kept["train"]["epochs"] == 7


def test_automatic_values_are_those_of_the_training():
    """Size and range, unless the user chose them."""
    given = default_config().data
    own = {"image_shape": [24, 24, 3], "white": 4095}
    found = facts.settle(given, own)
    assert (found.image_size, found.white) == (24, 4095)
    given.image_size = 8
    assert facts.settle(given, own).image_size == 8
    assert facts.settle(given, None) == given


def test_facts_that_are_no_object_are_refused(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match="must be one JSON object"):
        facts.of_run(tmp_path)

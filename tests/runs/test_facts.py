"""What a run knows of its data: a network is used with its own mean and deviation, or refused."""

import dataclasses

import numpy as np
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.runs import facts


@pytest.fixture
def dataset(tmp_path):
    return data.load(tiny.config(tiny.write_data(tmp_path / "digits.npz")).data)


def test_what_a_run_keeps_is_read_back(tmp_path, dataset):
    """The three files are there, and the facts of the data survive JSON."""
    facts.keep(tmp_path, tiny.config(""), dataset)
    assert facts.of_run(tmp_path) == facts.of_data(dataset)
    assert {"config.json", "dataset.json", "versions.json"} <= {p.name for p in tmp_path.iterdir()}
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
    larger = dataclasses.replace(dataset, train_images=np.zeros((80, 16, 16, 1), np.uint8))
    with pytest.raises(UserError, match=r"RUN .*shape \[8, 8, 1\], but .* \[16, 16, 1\]"):
        facts.matched(own, larger, "RUN")

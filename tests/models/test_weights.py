"""Files of weights: read bit for bit, fitted to other classes, and refused where they do not fit."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from ddarts_jax.errors import UserError
from ddarts_jax.models import network, weights


def build(num_classes=3, channels=4, auxiliary=False, seed=0):
    """Variables of the network of five quick cells."""
    _, variables = network.build(
        tiny.GENOTYPE,
        channels=channels,
        num_classes=num_classes,
        image_channels=1,
        image_size=32,
        auxiliary=auxiliary,
        key=jax.random.key(seed),
    )
    return variables


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The same weights of 3 classes as both kinds of file, and the variables."""
    folder = tmp_path_factory.mktemp("weights")
    variables = build()
    weights.save_network(folder / "network.npz", variables)
    arrays = {name: np.asarray(leaf) for name, leaf in weights.named(variables).items()}
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    return folder, arrays


@pytest.mark.parametrize("name", ["network.npz", "weights.safetensors"])
def test_both_kinds_of_file_come_back(saved, name):
    """A run's own file, and that of an export."""
    folder, arrays = saved
    assert sorted(path.name for path in folder.iterdir()) == ["network.npz", "weights.safetensors"]
    found = weights.named(weights.load_network(folder / name, build(seed=1)))
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)
    _, fresh = weights.load_start(folder / name, build(seed=1))
    assert fresh == []


def test_a_training_may_begin_with_weights_of_other_classes(saved):
    """Only the classifier is new; everything else is that of the file."""
    folder, arrays = saved
    empty = build(num_classes=7, seed=1)
    found, fresh = weights.load_start(folder / "network.npz", empty)
    assert fresh == ["weights/head/classifier/bias", "weights/head/classifier/kernel"]
    for key, array in weights.named(found).items():
        expected = weights.named(empty)[key] if key in fresh else arrays[key]
        np.testing.assert_array_equal(array, expected)
    with pytest.raises(UserError, match=r"head/classifier/bias is \(3,\) there and \(7,\) here"):
        weights.load_network(folder / "network.npz", empty)


def test_an_auxiliary_head_that_the_file_lacks_is_new(saved, tmp_path):
    """And so is one for other classes, as a whole."""
    folder, _ = saved
    _, fresh = weights.load_start(folder / "network.npz", build(auxiliary=True, seed=1))
    assert fresh and all("/auxiliary/" in name for name in fresh)
    weights.save_network(tmp_path / "network.npz", build(auxiliary=True))
    weights.load_network(tmp_path / "network.npz", build())
    _, fresh = weights.load_start(tmp_path / "network.npz", build(7, auxiliary=True, seed=1))
    assert {name.split("/")[1] for name in fresh} == {"auxiliary", "head"}


def test_weights_of_another_network_are_refused(saved, tmp_path):
    """Also as a beginning: only heads may differ. A broken or missing file is named."""
    folder, _ = saved
    for load in (weights.load_network, weights.load_start):
        with pytest.raises(UserError, match="of another genotype or config"):
            load(folder / "network.npz", build(channels=6))
        for name in ("broken.npz", "broken.safetensors"):
            (tmp_path / name).write_bytes(b"PK")
            with pytest.raises(UserError, match=rf"{name} cannot be read as \.npz or"):
                load(tmp_path / name, build())
        with pytest.raises(UserError, match="no trained network"):
            load(tmp_path / "nowhere.npz", build())

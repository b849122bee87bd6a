"""Training: weights to begin with, what identifies a training, and the file of the result."""

import numpy as np
import pytest
import tiny

from ddarts_jax import data, train
from ddarts_jax.errors import UserError
from ddarts_jax.genotype import Genotype
from ddarts_jax.metrics import MetricsWriter

SKIPS = Genotype([[("skip_connect", 2, 0), ("skip_connect", 2, 1)]], (), (2,))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    config = tiny.config(tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz"))
    return data.load(config.data)


def make_config():
    config = tiny.config("")
    config.train.epochs = 1
    return config


def run(config, dataset, workdir):
    workdir.mkdir(exist_ok=True)
    writer = MetricsWriter(workdir)
    try:
        return train.run(config, SKIPS, dataset, workdir, writer, "float32")
    finally:
        writer.close()


def leaves(path):
    with np.load(path) as file:
        return dict(file)


def test_training_begins_with_the_given_weights(dataset, tmp_path):
    """With a learning rate of 0 the weights of another run come out as they went in."""
    run(make_config(), dataset, tmp_path / "first")
    first = leaves(tmp_path / "first" / "network.npz")

    config = make_config()
    config.seed = 1
    config.weights = str(tmp_path / "first" / "network.npz")
    config.train.learning_rate = 0.0
    run(config, dataset, tmp_path / "second")
    second = leaves(tmp_path / "second" / "network.npz")
    for name, value in first.items():
        if name.startswith("weights"):
            np.testing.assert_array_equal(second[name], value, name)

    # Other weights make it another training, which may not go on in the same workdir.
    run(make_config(), dataset, tmp_path / "third")
    changed = {k: v + 1 for k, v in first.items()}
    np.savez(tmp_path / "first" / "network.npz", **changed)
    with pytest.raises(UserError, match=r"weights.*workdir"):
        run(config, dataset, tmp_path / "second")


def test_weights_of_another_network_are_refused(dataset, tmp_path):
    """The message names the file and the first array that does not fit."""
    config = make_config()
    np.savez(tmp_path / "other.npz", **{"weights/stem/kernel": np.zeros((3, 3, 1, 7))})
    config.weights = str(tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"other\.npz is of another genotype or config"):
        run(config, dataset, tmp_path / "run")
    config.weights = str(tmp_path / "missing.npz")
    with pytest.raises(UserError, match=r"no trained network .*missing\.npz"):
        run(config, dataset, tmp_path / "run")


def test_an_auxiliary_head_is_left_out_where_it_is_not_asked_for(dataset, tmp_path):
    """A network trained with the auxiliary head is evaluated without."""
    net, variables = train.build(make_config(), SKIPS, dataset, "float32")
    train.save_network(tmp_path / "network.npz", variables)
    with np.load(tmp_path / "network.npz") as file:
        arrays = dict(file) | {"weights/auxiliary/project": np.zeros(3, np.float32)}
    np.savez(tmp_path / "network.npz", **arrays)
    loaded = train.load_network(tmp_path / "network.npz", variables)
    assert "auxiliary" not in loaded.weights
    np.testing.assert_array_equal(
        loaded.weights["stem"]["kernel"], variables.weights["stem"]["kernel"]
    )

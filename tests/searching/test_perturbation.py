"""Selection by perturbation, against losses computed one removal at a time."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax import configuration
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import edge_index
from ddarts_jax.models import supernet
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.searching import perturbation, search
from ddarts_jax.training import feeds


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A supernet with partial channels, the removals, and losses of its own."""
    config = tiny.config(tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz"))
    config.search.update(num_nodes=2, num_cells=1, channels=4)
    config.search.ddarts.update(partial_channels=2, edge_strengths=True)
    dataset = data.load(config.data)
    net, variables, alphas = search.build(config, dataset, "float32")
    alphas += jnp.asarray(tiny.normal(0, *alphas.shape), alphas.dtype)
    split = dataset.halves(0)[1][:16]
    losses = perturbation.make_losses(net, dataset, split, 16, 8, "float32")
    added = perturbation.removals(net, variables, alphas, losses)

    @jax.jit
    def loss(gates, images, labels):
        return cross_entropy(supernet.forward(net, variables, gates, images, True)[0], labels)

    def alone(gates):
        images = (dataset.train_images[split] / np.float32(255) - dataset.mean) / dataset.std
        labels = dataset.train_labels[split]
        return np.mean([loss(gates, images[k::2], labels[k::2]) for k in (0, 1)])

    return net, np.asarray(net.gates(alphas)), added, alone


def test_removals_are_measured_one_by_one(measured):
    """The whole edge includes the channels that pass by; batches may be put together otherwise."""
    net, gates, added, alone = measured
    assert added.shape == (1, 5, len(net.primitives) + 1)
    whole = alone(gates)
    for edge, o in ((0, 2), (3, 1), (4, 3)):
        without = gates.copy()
        without[0, edge, o if o < 3 else slice(None)] = 0
        # Batches of 8 of the same 16 images in another order: BatchNorm differs a little.
        difference = alone(without) - whole
        assert abs(added[0, edge, o] - difference) < 0.3 * abs(difference) + 0.02


def test_what_is_missed_most_is_kept():
    """Of an edge the primitive, of a node the two edges, whose removal adds most."""
    config = tiny.config("")
    config.search.update(num_nodes=2, num_cells=1)

    class Data:
        """What `search.build` asks of a data set."""

        num_classes, channels = 3, 1

    net, *_ = search.build(config, Data, "float32")
    added = np.zeros((1, 5, 4), np.float32)
    added[0, :, 1] = 0.1  # skip connections, but for one edge
    added[0, edge_index(2, 3), 2] = 0.2
    added[0, :, 3] = [-1.0, -2.0, 0.5, -3.0, 0.4]  # removals may even help
    found = perturbation.select(net, added)
    assert set(found.genes[0]) == {
        ("skip_connect", 2, 0),
        ("skip_connect", 2, 1),
        ("skip_connect", 3, 0),
        ("sep_conv_3x3", 3, 2),
    }


def test_a_selection_has_no_more_skips_than_allowed():
    """The weakest of a normal cell give way to the next primitive of their edge, though it helps less."""
    config = tiny.config("")
    config.search.update(num_nodes=2, num_cells=3)
    data = types.SimpleNamespace(num_classes=3, channels=1)
    net, *_ = search.build(config, data, "float32")
    assert net.reductions == (1, 2)
    added = -1 + 0.1 * np.random.default_rng(0).random((3, 5, 4), np.float32)
    added[..., 1] = -0.5 + 0.1 * np.arange(5)  # skip connections: all removals lower the loss
    for most in (-1, 0, 1, 2):
        cells = perturbation.select(net, added, most).cells
        skips = [sum(name == "skip_connect" for name, *_ in cell) for cell in cells]
        assert skips == [4 if most < 0 else most, 4, 4]
    (strongest,) = [
        e for e in perturbation.select(net, added, 1).cells[0] if e[0] == "skip_connect"
    ]
    kept = perturbation.select(net, added).cells[0]
    assert strongest == max(kept, key=lambda entry: edge_index(entry[2], entry[1]))


def test_a_search_that_selects_by_perturbation(tmp_path, monkeypatch):
    """From the config to the genotype, which follows from the file of removals."""
    monkeypatch.setattr(feeds, "resident", tiny.stepless)
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz", 48))
    config.search.update(selection="perturbation", epochs=1, gap_images=8)
    configuration.validate(config)
    dataset = data.load(config.data)
    writer = MetricsWriter(tmp_path / "run")
    found = search.run(config, dataset, tmp_path / "run", writer, "float32")
    writer.close()
    added = np.load(tmp_path / "run" / "removals.npy")
    assert np.isfinite(added).all() and added.any()
    assert found.genotype == perturbation.select(found.supernet, added)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("parse.method", "sparse", "has no threshold"),
        ("search.gap_images", 0, "needs images"),
        ("search.method", "random", "no supernet"),
    ],
)
def test_impossible_selections_are_refused(key, value, message):
    """By the config, before anything is computed."""
    config = tiny.config("")
    config.search.selection = "perturbation"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        configuration.validate(config)

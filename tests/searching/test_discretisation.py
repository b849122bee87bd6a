"""Tests of the discretisation gap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.genotypes.genotype import encode
from ddarts_jax.models import supernet
from ddarts_jax.searching import discretisation, search


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A supernet with random alphas, its data set and the genotype."""
    config = tiny.config(tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz"))
    dataset = data.load(config.data)
    net, variables, alphas = search.build(config, dataset, "float32")
    alphas = alphas * 1e3
    return net, variables, alphas, dataset, search.derive(alphas, net, config.parse)


def test_mask_keeps_the_gates_of_the_genotype_alone(searched):
    """Written back as a genotype by their sign, the masked gates are the genotype."""
    net, _, alphas, _, genotype = searched
    gates = net.gates(alphas)
    kept = np.asarray(discretisation.masked(gates, genotype, net.primitives))
    chosen = encode(genotype, net.primitives, 1.0) > 0
    np.testing.assert_array_equal(kept[chosen], np.asarray(gates)[chosen])
    assert not kept[~chosen].any() and chosen.any() and not chosen.all()


def test_both_accuracies_are_those_of_the_supernet_run_by_hand(searched):
    """On the images asked for, in whole batches; the masked network is another one."""
    net, variables, alphas, dataset, genotype = searched
    split = dataset.halves(0)[1]
    measure = discretisation.make_measure(net, dataset, split, 20, 8, "float32")
    found = measure(variables, alphas, genotype)
    gates = net.gates(alphas)
    masked = discretisation.masked(gates, genotype, net.primitives)
    for name, used in (("supernet_accuracy", gates), ("discrete_accuracy", masked)):
        right = []
        order = np.random.RandomState(0).permutation(len(split))[:16]
        for some in split[order].reshape(2, 8):
            images = (dataset.train_images[some] / np.float32(255) - dataset.mean) / dataset.std
            logits, _, _ = supernet.forward(net, variables, used, jnp.asarray(images), True)
            right.append(np.argmax(logits, -1) == dataset.train_labels[some])
        assert found[name] == pytest.approx(np.mean(right))


def test_no_gap_where_the_mask_takes_nothing(searched):
    """Gates that are 0 outside the genotype already: both accuracies are equal."""
    net, variables, _, dataset, genotype = searched
    alphas = jnp.asarray(encode(genotype, net.primitives, 200.0))
    measure = discretisation.make_measure(net, dataset, dataset.halves(0)[1], 16, 8, "float32")
    found = measure(variables, alphas, genotype)
    assert found["supernet_accuracy"] == found["discrete_accuracy"]
    assert not jax.nn.sigmoid(-200.0)

"""Handcrafted networks: costs of the authors' encodings, and gradient in every cell of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddarts_jax.genotypes.genotype import encode, parse
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED
from ddarts_jax.genotypes.spaces import DARTOPTI_PRIMITIVES
from ddarts_jax.models import network, supernet
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.cost import cost
from ddarts_jax.searching.contributions import contributions

ALL = {**HANDCRAFTED, **{f"authors/{name}": genotype for name, genotype in AUTHORS.items()}}
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("ResNet18", 13_982_154, 806_440_960), ("ResNet50", 24_360_522, 1_452_358_656)],
)
def test_cost_is_that_of_the_authors_program(name, params, macs):
    """Counted by running their program with 64 channels, 10 classes and 32x32 images."""
    measured = cost(AUTHORS[name], 64, 10, 32)
    assert (measured.params, measured.macs) == (params, macs)


@pytest.mark.parametrize(("name", "distinct"), [("ResNet18", 1), ("ResNet50", 3), ("Xception", 3)])
def test_ours_differ_from_the_authors_in_node_0_alone(name, distinct):
    """Same cells, sequence and reductions; every entry that reads node 0 there reads node 1 here."""
    ours, authors = HANDCRAFTED[name], AUTHORS[name]
    assert (ours.seq, ours.reductions, ours.concat) == (
        authors.seq,
        authors.reductions,
        authors.concat,
    )
    assert len(ours.genes) == distinct
    for cell, theirs in zip(ours.genes, authors.genes, strict=True):
        assert all(source != 0 for _, _, source in cell)
        assert all(source != 1 for _, _, source in theirs)
        assert cell == tuple((p, node, source or 1) for p, node, source in theirs)


@pytest.mark.parametrize("name", ALL)
def test_parse_is_the_inverse_of_encode(name):
    """Alphas that say a network give that network back."""
    genotype = ALL[name]
    for strength, threshold in [(2.0, 0.85), (4.0, 0.5)]:
        alphas = encode(genotype, DARTOPTI_PRIMITIVES, strength)
        probabilities = 1 / (1 + np.exp(-alphas))
        parsed = parse(
            probabilities,
            DARTOPTI_PRIMITIVES,
            "complete",
            threshold,
            genotype.reductions,
            genotype.seq,
        )
        assert parsed == genotype


def cell_gradients(genotype):
    """Norm of the loss's gradient by the weights of each cell of the discrete network."""
    net, variables = network.build(
        genotype,
        channels=2,
        num_classes=3,
        image_channels=1,
        image_size=8,
        key=jax.random.key(0),
    )

    def loss(weights):
        whole = variables._replace(weights=weights)
        logits, _, _ = network.forward(net, whole, jnp.asarray(IMAGES), True)
        return cross_entropy(logits, LABELS)

    gradient = jax.jit(jax.grad(loss))(variables.weights)
    norms = [
        jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient["cells"][str(i)])))
        for i in range(genotype.num_cells)
    ]
    return np.array(norms)


@pytest.mark.parametrize("name", HANDCRAFTED)
def test_every_cell_learns(name):
    """The default encodings are chains: the weights of all their cells get gradient."""
    norms = cell_gradients(HANDCRAFTED[name])
    assert np.isfinite(norms).all() and (norms > 1e-6).all(), norms


def test_some_cells_of_the_authors_encoding_do_not_learn():
    """Why ours read node 1: in theirs a cell whose output nothing reads gets no gradient."""
    norms = cell_gradients(AUTHORS["ResNet18"])
    np.testing.assert_array_equal(norms == 0, [True, False, True, False])


@pytest.mark.parametrize("name", HANDCRAFTED)
def test_alphas_of_every_distinct_cell_get_gradient(name):
    """In the supernet of the network's own primitives, its absent ones nearly shut."""
    genotype = HANDCRAFTED[name]
    # The first cells stand for their copies: no more than one of each kind is compiled.
    own = tuple(sorted({primitive for cell in genotype.genes for primitive, _, _ in cell}))
    net, variables = supernet.build(
        num_cells=len(genotype.genes),
        num_nodes=genotype.num_nodes,
        channels=2,
        num_classes=3,
        image_channels=1,
        primitives=own,
        reductions=(),
        key=jax.random.key(0),
    )
    alphas = jnp.asarray(encode(genotype, own, 6.0))
    measured = jax.jit(
        lambda alphas: contributions(net, variables, alphas, IMAGES, LABELS, ablate=False)
    )(alphas)
    norms = jnp.sqrt(jnp.sum(measured.gradient**2, axis=(1, 2)))
    assert norms.shape == (len(genotype.genes),) and (norms > 1e-7).all(), norms

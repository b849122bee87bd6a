"""Cost of a network, against the authors' counts, and its evaluation, against NumPy."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.data.augment import normalize
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network
from ddarts_jax.models.cost import cost
from ddarts_jax.training.evaluate import _sums, evaluate, speed

GENOTYPES = tiny.SHARED / "reference" / "genotypes"


@pytest.mark.parametrize(
    ("name", "reductions", "params", "macs"),
    [
        ("threshold_sparse_cifar10_0.85_50", (2, 6), 1_244_242, 255_307_392),
        ("threshold_sparse_cifar10_0.85_50", (2, 5), 1_604_602, 251_261_568),
        ("threshold_edge_abl0.5_fair7_cifar100_0.85_50", (2, 6), 2_905_030, 556_412_544),
        ("threshold_edge_abl0.5_fair7_cifar100_0.85_50", (2, 5), 3_880_342, 547_989_120),
    ],
)
def test_cost_equals_the_authors_counts(name, reductions, params, macs):
    """Parameters and MACs of the published genotypes at 36 channels are the authors' exactly."""
    path = GENOTYPES / f"D-DARTS_{name}.txt"
    if not path.exists():
        pytest.skip(f"needs the authors' genotype {path.name}")
    call = ast.parse(path.read_text(), mode="eval").body
    genes = ast.literal_eval(next(k.value for k in call.keywords if k.arg == "genes"))
    found = cost(Genotype(genes, reductions, (2, 3, 4, 5)), 36, 10, 32)
    assert (found.params, found.macs) == (params, macs)


# One reduction cell: 4 channels, 4x4 images become 2x2.
ONE_CELL = Genotype(
    [[("sep_conv_3x3", 2, 0), ("max_pool_3x3", 3, 1), ("skip_connect", 3, 2)]], (0,), (2, 3)
)


def test_cost_by_hand():
    """Every part of a one-cell network, counted by hand."""
    found = cost(ONE_CELL, channels=2, num_classes=3, image_size=4, image_channels=1)
    norm = 2 * 4
    separable = 9 * 4 + 4 * 4 + norm
    cell_params = 2 * (6 * 4 + norm) + 2 * separable
    cell_macs = 16 * 2 * (6 * 4) + 4 * 2 * (9 * 4 + 4 * 4)
    assert found.cell_params == (cell_params,)
    assert found.cell_macs == (cell_macs,)
    assert found.params == (9 * 6 + 2 * 6) + cell_params + (8 * 3 + 3)
    assert found.macs == 16 * 9 * 6 + cell_macs + 8 * 3


def test_cost_of_the_auxiliary_head():
    """The head's parameters are counted on request; evaluation never runs it."""
    without, found = (cost(ONE_CELL, 2, 3, 16, auxiliary=auxiliary) for auxiliary in (False, True))
    head = (8 * 128 + 2 * 128) + (4 * 128 * 768 + 2 * 768) + (768 * 3 + 3)
    assert found.params - without.params == head
    assert (found.macs, found.cell_params) == (without.macs, without.cell_params)


def test_cost_of_an_empty_cell_is_refused():
    """The mistake that building the network reports."""
    with pytest.raises(UserError, match="Cell 0"):
        cost(Genotype([[("skip_connect", 3, 2)]], (), (3,)), 2, 3, 4)


COUNT = 10


@pytest.fixture(scope="module")
def trained():
    """A network, ten images, the network's logits for them, and the arguments of `evaluate`."""
    genotype = Genotype([[("max_pool_3x3", 2, 0), ("skip_connect", 2, 1)]], (), (2,))
    net, variables = network.build(
        genotype, channels=2, num_classes=3, image_channels=1, image_size=4, key=jax.random.key(0)
    )
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1), np.uint8)
    mean, std = np.array([0.4], np.float32), np.array([0.3], np.float32)
    inputs = normalize(jnp.asarray(images), mean, std, jnp.float32)
    logits, _, _ = network.forward(net, variables, inputs, train=False)
    return net, variables, images, np.asarray(logits, np.float64), (mean, std)


@pytest.mark.parametrize("batch_size", [1, 4, COUNT, 64])
def test_every_image_counts_once(trained, batch_size):
    """Accuracy and loss are those of all images at once, whatever the batch size."""
    net, variables, images, logits, moments = trained
    # The last image, which fills up the last batch, is the only one that is answered correctly.
    labels = (logits.argmax(-1) + (np.arange(COUNT) < COUNT - 1)) % 3
    found = evaluate(
        net, variables, images, labels, *moments, batch_size=batch_size, dtype=jnp.float32
    )
    log_sum = np.log(np.exp(logits).sum(-1))
    assert found["count"] == COUNT
    assert found["accuracy"] == 1 / COUNT
    np.testing.assert_array_equal(
        found["confusion"],
        [[np.sum((labels == i) & (logits.argmax(-1) == j)) for j in range(3)] for i in range(3)],
    )
    assert found["loss"] == pytest.approx((log_sum - logits[np.arange(COUNT), labels]).mean(), 1e-5)


def test_top_5_is_that_of_sorting():
    """An image is right among five where fewer than five classes have a larger logit."""
    genotype = Genotype([[("skip_connect", 2, 0)]], (), (2,))
    net, variables = network.build(
        genotype, channels=2, num_classes=9, image_channels=1, image_size=4, key=jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 4, 1), np.uint8)
    labels = rng.integers(0, 9, 30)
    moments = np.array([0.4], np.float32), np.array([0.3], np.float32)
    inputs = normalize(jnp.asarray(images), *moments, jnp.float32)
    logits = np.asarray(network.forward(net, variables, inputs, train=False)[0])
    found = evaluate(net, variables, images, labels, *moments, batch_size=8, dtype=jnp.float32)
    best = np.argsort(-logits, -1)[:, :5]
    expected = np.mean([label in row for label, row in zip(labels, best)])
    assert 0 < expected < 1
    assert found["top5_accuracy"] == pytest.approx(expected)
    assert found["confusion"].shape == (9, 9) and found["confusion"].sum() == 30


def test_speed_is_measured_for_every_batch_size(trained):
    """Positive times that fit the images a second."""
    net, variables, images, _, _ = trained
    measured = speed(net, variables, images.shape[1:], (1, 4), jnp.float32, repeats=3)
    assert [row["batch_size"] for row in measured] == [1, 4]
    for row in measured:
        assert row["images_per_second"] * row["milliseconds"] / 1e3 == pytest.approx(
            row["batch_size"]
        )


def test_compiles_once(trained):
    """New variables and an equal network, as after every epoch, compile nothing."""
    net, variables, images, _, moments = trained
    labels = np.zeros(COUNT, np.int64)

    def run(net, factor):
        scaled = jax.tree.map(lambda leaf: leaf * factor, variables)
        evaluate(net, scaled, images, labels, *moments, batch_size=4, dtype=jnp.float32)
        return _sums._cache_size()

    compiled = run(net, 1.0)
    equal = network.Network(net.graph, net.num_nodes)
    assert run(equal, 2.0) == compiled

"""Cost of a network, against the authors' counts, and its evaluation, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddarts_jax.data.augment import normalize
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network
from ddarts_jax.training.evaluate import _sums, evaluate, speed

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

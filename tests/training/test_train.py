"""Training: weights to begin with, what identifies a training, and the file of the result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network, weights
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.training import schedule, train

SKIPS = Genotype([[("skip_connect", 2, 0), ("skip_connect", 2, 1)]], (), (2,))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    config = tiny.config(tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz"))
    return data.load(config.data)


def make_config():
    config = tiny.config("")
    config.train.epochs = 1
    config.train.average = 0.5  # runs without one are everywhere else
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
    _, variables = train.build(make_config(), SKIPS, dataset, "float32")
    weights.save_network(tmp_path / "network.npz", variables)
    with np.load(tmp_path / "network.npz") as file:
        arrays = dict(file) | {"weights/auxiliary/project": np.zeros(3, np.float32)}
    np.savez(tmp_path / "network.npz", **arrays)
    loaded = weights.load_network(tmp_path / "network.npz", variables)
    assert "auxiliary" not in loaded.weights
    np.testing.assert_array_equal(
        loaded.weights["stem"]["kernel"], variables.weights["stem"]["kernel"]
    )


# The step, one ingredient at a time.

CONV = Genotype([[("simple_conv_3x3", 2, 0), ("skip_connect", 2, 1)]], (), (2,))
PLAN = schedule.Schedule(epochs=4, chunks=1, chunk=2, batch_size=8)


@pytest.fixture(scope="module")
def batch(dataset):
    images = (dataset.train_images[:8] / np.float32(255) - dataset.mean) / dataset.std
    return jnp.asarray(images), jnp.asarray(dataset.train_labels[:8])


def step_with(dataset, batch, steps=1, **changes):
    """The state after some steps on one batch, and the metrics of the last."""
    config = tiny.config("")
    config.train.drop_path = 0.0
    config.train.weight_decay = 0.0
    config.train.update(changes)
    net, variables = train.build(config, CONV, dataset, "float32")
    init, step = train.train_step(net, config.train, PLAN)
    step = jax.jit(step, donate_argnums=0)  # as a run does
    state = init(jax.tree.map(jnp.copy, variables))
    for number in range(steps):
        state, measured = step(state, jax.random.key(number), batch)
    return net, variables, state, measured


def gradient_of(net, variables, batch, smoothing=0.0):
    """The loss's gradient from the network's logits and NumPy-like targets."""
    images, labels = batch

    def loss(weights):
        whole = variables._replace(weights=weights)
        logits, _, _ = network.forward(net, whole, images, True)
        classes = logits.shape[-1]
        targets = jnp.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), -1))

    return jax.grad(loss)(variables.weights)


def assert_close(tree, other, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


def test_a_step_clips_smooths_and_descends(dataset, batch):
    """The first update is -rate * the smoothed loss's gradient, scaled to the clip's norm."""
    changes = {"label_smoothing": 0.1, "clip": 0.01, "learning_rate": 0.5}
    net, before, state, measured = step_with(dataset, batch, **changes)
    gradient = gradient_of(net, before, batch, smoothing=0.1)
    norm = optax.global_norm(gradient)
    np.testing.assert_allclose(measured["gradient_norm"], norm, rtol=1e-4)
    assert norm > 0.01
    expected = jax.tree.map(lambda w, g: w - 0.5 * g * 0.01 / norm, before.weights, gradient)
    assert_close(state.variables.weights, expected)


def test_accumulated_parts_are_the_mean_of_their_gradients(dataset, batch):
    """Two parts of a batch give the mean of the gradients of its even and its odd images."""
    changes = {"accumulate": 2, "clip": 1e9, "learning_rate": 0.5}
    net, before, state, _ = step_with(dataset, batch, **changes)
    halves = [jax.tree.map(lambda x, k=k: x[k::2], batch) for k in (0, 1)]
    gradients = [gradient_of(net, before, half) for half in halves]
    expected = jax.tree.map(lambda w, a, b: w - 0.5 * (a + b) / 2, before.weights, *gradients)
    assert_close(state.variables.weights, expected)
    # Running statistics have seen both parts, one after the other.
    mean = before.statistics["stem"]["norm"]["mean"]
    for half in halves:
        whole = before._replace(
            statistics={
                **before.statistics,
                "stem": {"norm": {"mean": mean, "var": before.statistics["stem"]["norm"]["var"]}},
            }
        )
        mean = network.forward(net, whole, half[0], True)[2]["stem"]["norm"]["mean"]
    np.testing.assert_allclose(state.variables.statistics["stem"]["norm"]["mean"], mean, rtol=1e-5)


def test_the_moving_average_is_what_is_evaluated(dataset, batch):
    """After two steps it is the weighted sum of the three variables; without it the last ones."""
    _, before, first, _ = step_with(dataset, batch, steps=1, average=0.9)
    _, _, second, _ = step_with(dataset, batch, steps=2, average=0.9)
    expected = jax.tree.map(
        lambda a, b, c: 0.81 * a + 0.09 * b + 0.1 * c, before, first.variables, second.variables
    )
    assert_close(second.evaluated, expected, rtol=1e-5)
    _, _, plain, _ = step_with(dataset, batch, steps=2)
    assert_close(plain.evaluated, plain.variables, rtol=0, atol=0)
    assert_close(plain.variables, second.variables, rtol=1e-6)


def test_drop_path_grows_with_the_epochs():
    """From 0 in the first epoch by equal parts, so that it nears its final value in the last."""
    settings = tiny.config("").train
    settings.drop_path = 0.4
    rates = [train.drop_path_at(step, settings, PLAN) for step in range(PLAN.total)]
    np.testing.assert_allclose(rates, np.repeat([0.0, 0.1, 0.2, 0.3], PLAN.epoch), rtol=1e-6)


def test_drop_path_changes_the_step_in_later_epochs_only(dataset, batch):
    """With a probability near 1 the same step of epoch 1 is untouched, that of epoch 4 is not."""
    results = []
    for probability in (0.0, 0.9):
        config = tiny.config("")
        config.train.drop_path = probability
        net, variables = train.build(config, CONV, dataset, "float32")
        init, step = train.train_step(net, config.train, PLAN)
        state = init(variables)
        losses = [
            step(state._replace(step=jnp.int32(number)), jax.random.key(0), batch)[1]["loss"]
            for number in (0, 6)
        ]
        results.append(np.array(losses))
    without, with_it = results
    np.testing.assert_allclose(without[0], with_it[0], rtol=1e-5)
    assert abs(without[1] - with_it[1]) > 1e-3


def test_a_batch_that_does_not_divide_is_refused(dataset, tmp_path):
    """The message names both numbers."""
    config = make_config()
    config.train.accumulate = 3
    with pytest.raises(UserError, match=r"batch_size=8 .*accumulate=3"):
        run(config, dataset, tmp_path)


def test_parts_that_devices_cannot_share_are_refused(dataset, tmp_path, monkeypatch):
    """Parts of an accumulated batch are split over the devices as the batch is."""
    config = make_config()
    config.train.accumulate = 2
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=r"accumulate=2 parts leaves 4 images for 8 devices"):
        run(config, dataset, tmp_path)

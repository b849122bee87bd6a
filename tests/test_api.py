"""The public API, used as a stranger would: with an own primitive, loss, method, tracker and loop."""

import doctest
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pages
import pytest
import tiny
from flax import nnx
from sklearn.datasets import load_digits

import ddarts_jax as dd

# So small that each program compiles in seconds.
SMALL = {
    "search.num_cells": 2,
    "search.num_nodes": 1,
    "search.channels": 4,
    "search.epochs": 2,
    "search.gap_images": 0,
    "train.channels": 4,
    "train.epochs": 2,
    "data.batch_size": 16,
    "parse.method": "darts",
}


@pytest.fixture(scope="module")
def images():
    """Digits 0, 1 and 2: uint8 [n, 8, 8] and labels [n]."""
    digits = load_digits(n_class=3)
    return np.round(digits.images[:90] * (255 / 16)).astype(np.uint8), digits.target[:90]


@pytest.fixture(scope="module")
def data(images):
    return dd.Dataset.from_arrays(*images, test_fraction=0.2)


@dd.register_primitive("ghost_3x3")
class Ghost(nnx.Module):
    """Half of the channels by a convolution, the other half from those (Han et al. 2020)."""

    def __init__(self, channels, stride, *, affine):
        half = channels // 2
        keys = nnx.Rngs(0)
        self.primary = nnx.Conv(channels, half, (1, 1), strides=stride, use_bias=False, rngs=keys)
        self.cheap = nnx.Conv(half, channels - half, (3, 3), use_bias=False, rngs=keys)
        self.norm = dd.BatchNorm(channels, affine)

    def __call__(self, x, train):
        primary = self.primary(jax.nn.relu(x))
        return self.norm(jnp.concatenate([primary, self.cheap(primary)], -1), train)


def cheap(gates, net):
    """A term of every cell's loss that makes costly primitives unlikely."""
    return 10 * (gates * dd.cost_table(net)).sum((1, 2))


class Tracker(dd.Callback):
    """Stands for a user's experiment tracker: records what it is told."""

    def __init__(self):
        self.steps, self.rows, self.ends = [], [], []

    def on_step(self, phase, step, metrics):
        self.steps.append((phase, step, metrics))

    def on_epoch(self, phase, epoch, metrics):
        self.rows.append((phase, epoch, metrics))

    def on_end(self, phase, error):
        self.ends.append((phase, error))


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    """A search with a primitive, a loss and a tracker of the user's."""
    space = ("max_pool_3x3", "skip_connect", "ghost_3x3")
    config = dd.config("digits", **SMALL, **{"search.space": space, "chunk_steps": 1})
    tracker = Tracker()
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    result = dd.search(config, data, workdir, alpha_loss=cheap, callbacks=[tracker])
    return config, result, tracker


def test_a_search_with_a_primitive_a_loss_and_a_tracker_of_the_user(searched, data):
    """All three take part: in the genotype's names, in the gradient, in what the tracker is told."""
    config, result, tracker = searched
    assert result.alphas.shape == (2, 2, 3) and result.supernet.primitives[-1] == "ghost_3x3"
    assert {name for cell in result.genotype.cells for name, _, _ in cell} <= {
        *result.supernet.primitives
    }
    assert [row[:2] for row in tracker.rows] == [("search", 1), ("search", 2)]
    metrics = tracker.rows[0][2]
    gates = np.asarray(result.supernet.gates(jnp.asarray(result.alphas)))
    assert metrics["loss_added"].shape == (2,)
    # At the start all gates are near one half.
    expected = cheap(np.full_like(gates, 0.5), result.supernet)
    np.testing.assert_allclose(metrics["loss_added"], expected, rtol=0.1)
    assert (result.workdir / "report.html").is_file()
    again = dd.search(config, data, result.workdir, alpha_loss=cheap)  # which has ended
    np.testing.assert_array_equal(again.alphas, result.alphas)


def test_a_tracker_is_told_of_steps_epochs_and_the_end(searched, data):
    """Once of each, in order; the last step's means are the epoch's; an error ends with its name."""
    config, result, tracker = searched
    assert [row[:2] for row in tracker.steps] == [("search", step) for step in (1, 2, 3, 4)]
    for (_, _, of_steps), (_, _, of_epoch) in zip(tracker.steps[1::2], tracker.rows):
        for name, value in of_steps.items():
            np.testing.assert_array_equal(value, of_epoch[name])
    losses = [float(metrics["loss"]) for _, _, metrics in tracker.steps]
    assert losses[0] != losses[1] and losses[2] != losses[3], "means over one step and over two"
    assert tracker.ends == [("search", None)]

    class Broken(dd.Callback):
        def on_end(self, phase, error):
            raise OSError("no network")

    later = Tracker()
    with pytest.raises(OSError, match="no network") as caught:  # of a search that had ended before
        dd.search(config, data, result.workdir, alpha_loss=cheap, callbacks=[Broken(), later])
    assert "in search by the callback" in caught.value.__notes__[0]
    assert "Broken.on_end" in caught.value.__notes__[0]
    assert later.ends == [("search", caught.value)] and not later.rows, "the others are told too"
    other = dd.config("digits", **SMALL | {"search.channels": 8})
    with pytest.raises(dd.UserError, match="--workdir") as caught:
        dd.search(other, data, result.workdir, callbacks=[later])
    assert later.ends[1] == ("search", caught.value)
    with pytest.raises(dd.UserError, match=r"derived from dd\.Callback"):
        dd.search(config, data, result.workdir, callbacks=[Tracker])


def test_a_user_s_loss_moves_the_alphas_that_it_names(searched, data, tmp_path):
    """Its gradient is that of every cell's own term, by finite differences."""
    _, result, _ = searched
    from ddarts_jax.searching import bilevel

    net, alphas = result.supernet, jnp.asarray(result.alphas)

    def coupled(gates, net):  # of a cell, but of the other's gates too
        return cheap(gates, net) + 0.1 * gates.sum() * jnp.arange(1, 3)

    _, gradient = bilevel._added(coupled, net, alphas)
    for cell in range(2):
        step = np.zeros_like(result.alphas)
        step[cell, 1, 2] = 1e-2
        up, down = (coupled(net.gates(alphas + sign * step), net)[cell] for sign in (1, -1))
        np.testing.assert_allclose(gradient[cell, 1, 2], (up - down) / 2e-2, rtol=1e-2)


def test_a_user_s_primitive_has_a_cost_and_a_distance(searched):
    """No list has to know it: not that of the scores, nor of the costs; others' distances stay."""
    _, result, _ = searched
    table = dd.cost_table(result.supernet)
    assert table.shape == result.alphas.shape
    channels = np.array(result.supernet.channels)[:, None]
    ghost = channels * channels // 2 + 9 * (channels // 2) * (channels - channels // 2)
    np.testing.assert_allclose(1e6 * table[..., 2], ghost + 2 * channels + 0 * table[..., 2])
    assert (table[..., 0] == 0).all()
    macs = dd.cost_table(result.supernet, image_size=8)
    np.testing.assert_allclose(1e6 * macs[0, 0, 2], 4 * 4 * ghost[0])  # a reduction cell halves
    assert dd.edge_distance(["ghost_3x3"], ["skip_connect"]) > 0
    names = ("ResNet18", "ResNet50")
    published = dd.architecture_distance(*map(dd.Genotype.load, names))
    assert round(published, 4) == 0.0836


def test_a_module_for_a_loop_of_one_s_own(images, data):
    """Own optimizer, loss and iterator, without anything else of the package."""
    genotype = dd.Genotype(
        genes=((("skip_connect", 2, 0), ("ghost_3x3", 2, 1)), (("ghost_3x3", 2, 1),)),
        reductions=(1,),
        concat=(2,),
    )
    net = dd.build(
        genotype, channels=8, num_classes=3, image_size=8, image_channels=1, rngs=nnx.Rngs(0)
    )
    x, y = dd.preprocess(images[0][..., None], data), jnp.asarray(images[1])
    features = net.features(x)
    assert [f.shape for f in features] == [(90, 8, 8, 8), (90, 4, 4, 16)]
    optimizer = nnx.Optimizer(net, optax.adamw(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss(net):
            logits = net(x, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradient = nnx.value_and_grad(loss)(net)
        optimizer.update(net, gradient)
        return value

    losses = [float(step(net, optimizer)) for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


def test_training_evaluation_and_a_saved_network(searched, data, images, tmp_path):
    """A network of the API is the workdir's, on disk and in memory; wrong data are named."""
    config, result, _ = searched
    tracker = Tracker()
    network = dd.train(config, result.genotype, data, result.workdir, callbacks=[tracker])
    tested = dd.evaluate(network, data)
    assert tested["count"] == data.num_test
    assert tested["accuracy"] == pytest.approx(float(tracker.rows[-1][2]["accuracy"]))
    logits = network(data.test_images)
    assert logits.shape == (data.num_test, 3) and logits.dtype == np.float32
    assert (logits.argmax(-1) == data.test_labels).mean() == pytest.approx(tested["accuracy"])
    normalised = dd.preprocess(data.test_images, data)
    np.testing.assert_allclose(network(np.asarray(normalised)), logits, rtol=1e-5, atol=1e-5)
    module = network.module()
    np.testing.assert_allclose(module(normalised), logits, rtol=1e-5, atol=1e-5)
    module(normalised, train=True)  # updates the running statistics, but not the network's
    assert not np.allclose(module(normalised), logits, atol=1e-3)
    np.testing.assert_array_equal(network(data.test_images), logits)
    network.save(tmp_path / "network")
    for folder in (tmp_path / "network", result.workdir):
        loaded = dd.load_network(folder)
        np.testing.assert_array_equal(loaded(data.test_images), logits)
        assert loaded.class_names == ("0", "1", "2") and loaded.genotype == result.genotype
    assert network.features(data.test_images)[-1].shape[0] == data.num_test
    with pytest.raises(dd.UserError, match=r"takes images \[n, 8, 8, 1\]"):
        network(images[0])
    for dtype in (np.int64, np.int32, bool):
        with pytest.raises(dd.UserError, match="as uint8, or as floating-point numbers"):
            network(data.test_images.astype(dtype))
    with pytest.raises(dd.UserError, match="uint8, from 0 to 255, not float32"):
        dd.preprocess(data.test_images / np.float32(255), data)
    other = dd.Dataset.from_arrays(*images, class_names=("zero", "one", "two"))
    with pytest.raises(dd.UserError, match=r"trained with the classes \['0'"):
        dd.evaluate(network, other)


def test_what_the_command_line_refuses_is_refused_here_too(data, tmp_path):
    """A config of another task, and the workdir of a detector; nothing is written there."""
    for name in ("detect_digits", "score_operations", "seeds"):
        with pytest.raises(dd.UserError, match="not of a search or a training"):
            dd.search(dd.config(name), data, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.json").write_text('{"task": "detect"}')
    with pytest.raises(dd.UserError, match="holds a run of task 'detect'"):
        dd.search(dd.config("digits", **SMALL), data, tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"task": "detect"}'


def test_a_method_of_the_user(data, tmp_path):
    """It is chosen by its name, has options of its own, and its gradient is what the alphas follow."""
    taken = []

    def gradient(net, variables, alphas, images, labels, context):
        options = context.options
        taken.append(options.strength)
        measured = dd.contributions(net, variables, alphas, images, labels, ablate=False)
        metrics = {"loss": measured.loss, "accuracy": measured.accuracy}
        return options.strength * jnp.ones_like(alphas), metrics

    dd.register_method("falling", dd.Method(gradient), {"strength": 1.0})
    overrides = {"search.method": "falling", "search.falling.strength": 2.0}
    config = dd.config("digits", **SMALL, **overrides)
    result = dd.search(config, data, tmp_path / "run")
    assert set(taken) == {2.0} and (result.alphas < 0).all()
    with pytest.raises(dd.UserError, match=r"config.search.falling.strength is 2.0, but"):
        dd.config("digits", **overrides | {"search.method": "darts"})
    for name in ("falling", "ddarts", "epochs", "not a name"):
        with pytest.raises(dd.UserError, match="cannot be named"):
            dd.register_method(name, dd.Method(gradient))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"serach.epochs": 3}, "did you mean 'search.epochs'"),
        ({"search.epochs": "many"}, "config.search.epochs is 'many'"),
        ({"search.epochs": 0}, "config.search.epochs is 0"),
        ({"search": 3}, "group of keys"),
        ({"search.space": ("skip_connect", "nonsense")}, "names of primitives"),
        ({"search.space": ("skip_connect", "skip_connect")}, "each primitive once"),
        ({"search.method": "nonsense"}, "config.search.method is 'nonsense'"),
    ],
)
def test_wrong_values_of_a_config_are_named(overrides, message):
    """The same sentences as on the command line."""
    with pytest.raises(dd.UserError, match=message):
        dd.config("digits", **overrides)


def test_an_unknown_config_names_those_that_there_are():
    with pytest.raises(dd.UserError, match=r"cifar10_search, .*digits, "):
        dd.config("nonsense")


def test_wrong_names_of_primitives_are_refused():
    for name in ("skip_connect", "3x3 conv"):
        with pytest.raises(dd.UserError, match="cannot be named"):
            dd.register_primitive(name, Ghost)


def test_importing_is_quick_and_lazy():
    """Importing the package, and asking for architectures, loads no JAX."""
    code = (
        "import sys, ddarts_jax as dd\n"
        "assert 'numpy' not in sys.modules\n"
        "distance = dd.architecture_distance(dd.HANDCRAFTED['ResNet18'], dd.Genotype.load('Xception'))\n"
        "assert distance > 0 and 'jax' not in sys.modules and 'orbax' not in sys.modules\n"
        "print(sorted(set(dir(dd)) & {'search', 'train', 'config', 'Genotype'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT
    )
    assert done.stdout == "['Genotype', 'config', 'search', 'train']\n", done.stderr


def test_the_script_of_the_readme_runs(images, tmp_path, monkeypatch):
    """As it stands there, on smaller settings."""
    config, (script,) = dd.config, pages.blocks(tiny.ROOT / "README.md")
    assert "dd.search(" in script
    monkeypatch.setattr(dd, "config", lambda name, **keys: config(name, **keys | SMALL))
    monkeypatch.chdir(tmp_path)
    exec(script, {"images": images[0], "labels": images[1]})
    assert (tmp_path / "runs" / "mine" / "network.npz").is_file()


def test_the_page_on_the_library_runs(searched, tmp_path, monkeypatch):
    """Every block, in order; for searches stands one that has run, of which callbacks are told anew."""
    _, found, told = searched
    fakes = {name: mock.MagicMock() for name in ("wandb", "mlflow")}  # no part of the tests' extra
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    configs = []

    def search(config, dataset, workdir, *, alpha_loss=None, callbacks=()):
        assert isinstance(dataset, dd.Dataset)
        configs.append(config)
        for callback in callbacks:
            for event, calls in zip(("on_step", "on_epoch", "on_end"), vars(told).values()):
                for call in calls:
                    getattr(callback, event)(*call)
        return found

    monkeypatch.setattr(dd, "search", search)
    monkeypatch.chdir(tmp_path)
    page: dict = {}
    first, *others = pages.blocks(tiny.ROOT / "docs" / "library.md")
    assert "size=(100, 64)" in first
    for block in (first.replace("size=(100, 64)", "size=(5, 16)"), *others):
        exec(block, page)

    assert page["logits"].shape == (len(page["data"].test_labels), 10)
    assert {len(f) for f in page["features"]} == {len(page["logits"])}
    own = nnx.eval_shape(lambda: page["ConvGelu"](4, 2, affine=False)(jnp.ones((2, 7, 7, 4)), True))
    assert own.shape == (2, 4, 4, 4)
    gates = found.supernet.gates(jnp.asarray(found.alphas))
    assert page["cheap"](gates, found.supernet).shape == (len(gates),)
    assert {config.search.method for config in configs[1:]} == {"decayed"}
    batch = jnp.zeros((2, 8, 8, 1)), jnp.zeros(2, jnp.int32)
    context = SimpleNamespace(options=SimpleNamespace(decay=0.1))
    own = jax.eval_shape(
        lambda alphas: page["gradient"](found.supernet, found.variables, alphas, *batch, context)[
            0
        ],
        found.alphas,
    )
    assert own.shape == found.alphas.shape

    assert any((tmp_path / "runs" / "mine" / "tensorboard" / "steps").glob("events.*"))
    run = fakes["wandb"].init.return_value
    assert [call.args[0]["epoch"] for call in run.log.call_args_list] == [1, 2]
    assert run.log.call_args.args[0]["search/loss"] == float(told.rows[-1][2]["loss"])
    run.finish.assert_called_once_with(exit_code=0)
    assert [call.kwargs["step"] for call in fakes["mlflow"].log_metrics.call_args_list] == [1, 2]
    fakes["mlflow"].end_run.assert_called_once_with("FINISHED")


def test_every_public_name_is_documented():
    """The names of the stub exist, and each has a docstring or is data."""
    for name in dir(dd):
        value = getattr(dd, name)
        assert not callable(value) or value.__doc__, name


@pytest.mark.parametrize("name", ["config", "load_data", "Genotype"])
def test_the_examples_of_docstrings_run(name):
    found = doctest.DocTestFinder().find(getattr(dd, name), name, globs={"dd": dd})
    examples = [test for test in found if test.examples]
    assert examples
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0

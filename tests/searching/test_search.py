"""Tests of the bilevel search step on a tiny supernet, compiled once for all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import classification, supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.searching import search
from ddarts_jax.searching.contributions import Contributions
from ddarts_jax.searching.methods import ddarts
from ddarts_jax.training import optim, schedule

_RATE = 0.05
_TOTAL_STEPS = 10


class _Search:
    """A compiled step, a state that fits it, and batches of real digits."""

    def __init__(self, dataset):
        config = tiny.config("")
        config.search.alphas.learning_rate = _RATE
        self.settings = config.search
        self.net, self.variables, self.alphas = search.build(config, dataset, "float32")
        # Away from 0, where the zero-one loss is flat.
        self.alphas += jnp.linspace(-0.5, 0.5, self.alphas.size).reshape(self.alphas.shape)
        images = dataset.train_images[:48] / np.float32(255)
        images = (images - dataset.mean) / dataset.std
        batches = images.reshape(6, 8, 8, 8, 1), dataset.train_labels[:48].reshape(6, 8)
        self.batches = list(zip(*batches))
        state = self.init(())
        _, step = search.search_step(self.net, self.settings, _TOTAL_STEPS)
        lowered = step.lower(state, jax.random.key(0), *self.batches[:2])
        self._step = lowered.compile({"xla_backend_optimization_level": 0})

    def init(self, cell_learning_rates):
        self.settings.alphas.cell_learning_rates = cell_learning_rates
        init, _ = search.search_step(self.net, self.settings, _TOTAL_STEPS)
        return init(self.variables, self.alphas)

    def __call__(self, state, weight_batch=0, architecture_batch=1):
        """Steps on the batches of these numbers."""
        batches = self.batches[weight_batch], self.batches[architecture_batch]
        return jax.device_get(self._step(state, jax.random.key(0), *batches))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    config = tiny.config(tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz"))
    return data.load(config.data)


@pytest.fixture(scope="module")
def tiny_search(dataset):
    return _Search(dataset)


def _same(tree, other):
    return all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(other)))


def test_a_cell_with_rate_0_keeps_its_alphas_while_the_other_moves(tiny_search):
    """Weight decay and Adam's momentum do not move a cell whose learning rate is 0."""
    start = state = tiny_search.init((0.0, _RATE))
    for number in range(3):
        state, _ = tiny_search(state, number, 5 - number)
    np.testing.assert_array_equal(state.alphas[0], start.alphas[0])
    assert (state.alphas[1] != start.alphas[1]).all()
    rates = optim.alphas_learning_rates(state.alphas_optimizer)
    assert rates[0] == 0 and 0 < rates[1] < _RATE


def test_one_cell_moves_alike_whatever_the_rate_of_the_other(tiny_search):
    """In the first step a cell's update does not depend on another cell's optimizer."""
    alone, _ = tiny_search(tiny_search.init((0.0, _RATE)))
    both, _ = tiny_search(tiny_search.init((4 * _RATE, _RATE)))
    np.testing.assert_array_equal(alone.alphas[1], both.alphas[1])


def test_the_first_step_of_adam_has_the_size_of_each_cells_rate(tiny_search):
    """Bias-corrected Adam first moves every alpha by its cell's rate, in the gradient's direction."""
    start = tiny_search.init((_RATE, 2 * _RATE))
    state, _ = tiny_search(start)
    moved = np.abs(state.alphas - start.alphas)
    np.testing.assert_allclose(moved[0], _RATE, rtol=1e-3)
    np.testing.assert_allclose(moved[1], 2 * _RATE, rtol=1e-3)


def test_the_weight_batch_has_no_part_in_the_alphas_update(tiny_search):
    """Alphas, their optimizer and all their losses follow from the architecture batch alone."""
    start = tiny_search.init(())
    state, measured = tiny_search(start, weight_batch=0)
    other, other_measured = tiny_search(start, weight_batch=2)
    assert _same(state.alphas, other.alphas)
    assert _same(state.alphas_optimizer, other.alphas_optimizer)
    of_weights = {"weights_loss", "weights_accuracy", "gradient_norm_weights"}
    of_weights.add("update_norm_weights")
    for name in set(measured) - of_weights:
        np.testing.assert_array_equal(measured[name], other_measured[name], name)
    assert not _same(state.variables.weights, other.variables.weights)
    assert not _same(state.variables.statistics, other.variables.statistics)


def test_the_architecture_batch_reaches_the_weights_only_through_the_alphas(tiny_search):
    """With alphas at rest, weights and statistics follow from the weight batch alone."""
    start = tiny_search.init((0.0, 0.0))
    state, measured = tiny_search(start, architecture_batch=1)
    other, other_measured = tiny_search(start, architecture_batch=3)
    assert _same(state.variables, other.variables)
    assert _same(state.weights_optimizer, other.weights_optimizer)
    assert measured["loss"] != other_measured["loss"]

    start = tiny_search.init(())
    state, _ = tiny_search(start, architecture_batch=1)
    other, _ = tiny_search(start, architecture_batch=3)
    assert not _same(state.variables.weights, other.variables.weights)


def test_the_alphas_step_comes_first(tiny_search):
    """The weights' loss is that of the new alphas, and every weight and statistic moves."""
    start = tiny_search.init(())
    state, measured = tiny_search(start)
    images, labels = tiny_search.batches[0]

    @jax.jit
    def loss_of(alphas):
        variables = Variables(start.variables.weights, start.variables.statistics)
        gates = jax.nn.sigmoid(alphas)
        logits, *_ = supernet.forward(tiny_search.net, variables, gates, images, True)
        return classification.cross_entropy(logits, labels)

    new, old = loss_of(state.alphas), loss_of(start.alphas)
    np.testing.assert_allclose(measured["weights_loss"], new, rtol=1e-5)
    assert abs(old - new) > 1e-4
    assert state.step == 1
    for leaf, before in zip(jax.tree.leaves(state.variables), jax.tree.leaves(start.variables)):
        assert not np.array_equal(leaf, before)


def test_the_state_keeps_its_shapes_and_dtypes(tiny_search):
    """A step returns what the next one takes, parameters float32: so nothing compiles again."""
    start = tiny_search.init(())
    state, measured = tiny_search(start)
    assert jax.tree.structure(state) == jax.tree.structure(start)
    for leaf, before in zip(jax.tree.leaves(state), jax.tree.leaves(start)):
        assert (leaf.shape, leaf.dtype) == (before.shape, before.dtype)
    cells = (len(start.alphas),)
    parts = ("loss_zero_one", "loss_ablation", "loss_total", "marginal_contribution")
    assert all(measured[name].shape == cells for name in parts)


def test_the_total_loss_is_the_weighted_sum_of_its_parts(tiny_search):
    """L_T_i = L_CE + w_01 L_01_i + w_AB L_AB_i for every cell, as logged."""
    _, measured = tiny_search(tiny_search.init(()))
    options = tiny_search.settings.ddarts
    weights = options.zero_one_weight, options.ablation.weight
    parts = weights[0] * measured["loss_zero_one"] + weights[1] * measured["loss_ablation"]
    np.testing.assert_allclose(measured["loss_total"], measured["loss"] + parts, rtol=1e-5)


def test_build_follows_the_seed(dataset):
    """The same seed gives the same weights and alphas, another seed others."""
    config = tiny.config("")
    _, *first = search.build(config, dataset, "float32")
    _, *again = search.build(config, dataset, "float32")
    config.seed = 1
    _, *other = search.build(config, dataset, "float32")
    assert _same(first, again)
    assert not _same(first[0].weights, other[0].weights)
    assert not _same(first[1], other[1])
    assert np.abs(first[1]).max() < 0.01


def test_derive_keeps_the_primitives_of_high_probability(tiny_search, tmp_path):
    """Alphas that favour one primitive an edge by far give that one, of every cell, and a file."""
    net, settings = tiny_search.net, tiny.config("").parse
    settings.method = "sparse"
    chosen = np.arange(net.alphas_shape[0] * net.alphas_shape[1]).reshape(net.alphas_shape[:2]) % 3
    alphas = np.where(np.arange(net.alphas_shape[2]) == chosen[..., None], 5.0, -5.0)
    genotype = search.derive(alphas, net, settings)
    for cell, primitives in zip(genotype.cells, chosen):
        assert cell == tuple((net.primitives[p], 2, edge) for edge, p in enumerate(primitives))
    genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == genotype


# DARTOpti: the search from a network.

# One cell that stands twice, first as a reduction cell.
_START = Genotype(
    [[("max_pool_3x3", 2, 0), ("skip_connect", 2, 1)]], reductions=(0,), concat=(2,), seq=(0, 0)
)


def test_a_cell_that_would_keep_nothing_gets_its_best(tiny_search, caplog):
    """Few steps move no alpha to the threshold; the others' cells are parsed as ever."""
    net = tiny_search.net
    settings = tiny.config("").parse
    settings.method = "sparse"
    alphas = np.zeros(net.alphas_shape, np.float32)
    alphas[0, 0, 1] = 5.0
    alphas[1, 0, 2] = alphas[1, 1, 0] = 0.1
    found = search._result(alphas, net, settings)
    assert "no primitive of cell 1 reaches parse.threshold=0.85" in caplog.text
    assert found.genes[0] == search.derive(alphas, net, settings).genes[0]
    names = {(name, source) for name, _, source in found.genes[1]}
    assert names == {(net.primitives[2], 0), (net.primitives[0], 1)}
    caplog.clear()
    alphas[1] = alphas[0]
    assert search._result(alphas, net, settings) == search.derive(alphas, net, settings)
    assert not caplog.text


def test_the_gap_of_an_epoch_is_that_of_what_would_be_found(tiny_search, tmp_path):
    """Not of an empty network where nothing is decided yet; the file of the epoch shows what is."""
    net, config = tiny_search.net, tiny.config("")
    config.parse.method = "sparse"
    measured = []

    def measure_gap(variables, alphas, genotype):
        measured.append(genotype)
        return {"discrete_accuracy": 0.5}

    state = tiny_search.init(())._replace(alphas=0.1 * tiny.normal(1, *net.alphas_shape))
    end_epoch = search.make_end_epoch(net, config, tmp_path, None, measure_gap)
    assert end_epoch(1, state, {})["discrete_accuracy"] == 0.5
    assert measured == [search._result(np.asarray(state.alphas), net, config.parse)]
    assert not any(Genotype.load(tmp_path / "genotypes" / "epoch_0001.json").genes)


@pytest.mark.parametrize("epochs, warned", [(6, True), (50, False)])
def test_a_search_of_few_steps_is_warned_of_at_its_start(tiny_search, caplog, epochs, warned):
    """240 photographs in batches of 48 are 12 steps in 6 epochs: no alpha comes near a threshold."""
    plan, splits = schedule.schedule(120, 48, epochs, 100), (range(120), range(120))
    parts = tiny_search.net, tiny_search.variables, tiny_search.alphas
    search._tell_sizes(tiny_search.settings, *parts, plan, splits, 0)
    assert (f"only {2 * epochs} steps in all" in caplog.text) == warned


@pytest.fixture(scope="module")
def started(dataset):
    """The step of a search from `_START` whose alphas are fixed for 2 steps, compiled, and a state."""
    config = tiny.config("")
    net, variables, alphas = search.build(config, dataset, "float32", _START)
    init, step = search.search_step(net, config.search, 4, fixed_steps=2)
    state = init(variables, alphas)
    images = (dataset.train_images[:16] / np.float32(255)).reshape(2, 8, 8, 8, 1)
    batches = list(zip(images, dataset.train_labels[:16].reshape(2, 8)))
    compiled = step.lower(state, jax.random.key(0), *batches).compile(
        {"xla_backend_optimization_level": 0}
    )
    return net, state, lambda state: compiled(state, jax.random.key(0), *batches)


def test_the_supernet_has_the_cells_of_its_start(started):
    """Sequence, reductions and nodes are the start's; alphas say it, copies have own weights."""
    net, state, _ = started
    assert (net.seq, net.reductions, net.num_nodes) == ((0, 0), (0,), 1)
    settings = tiny.config("").parse
    settings.method = "complete"
    assert search.derive(state.alphas, net, settings) == _START
    assert set(np.unique(state.alphas)) == {-2.0, 2.0}
    first, second = state.variables.weights["cells"]
    assert second["preprocess0"].keys() != first["preprocess0"].keys()


def test_alphas_stand_still_while_the_weights_settle(started):
    """In the fixed steps nothing of the alphas moves, then they take Adam's first step whole."""
    _, start, step = started
    state, measured = step(start)
    assert np.isfinite(measured["marginal_contribution"]).all()
    state, _ = step(state)
    assert _same(state.alphas, start.alphas)
    assert _same(state.alphas_optimizer, start.alphas_optimizer)
    assert not _same(state.variables.weights, start.variables.weights)
    state, _ = step(state)
    np.testing.assert_allclose(np.abs(state.alphas - start.alphas), 3e-3, rtol=0.02)


def test_what_follows_the_epochs_counts_those_of_the_start(dataset):
    """The dropout of skip connections begins anew when the alphas move, and ends with the search."""
    config = tiny.config("")
    config.search.update(epochs=4, warmup_epochs=1)
    config.search.ddarts.skip_dropout = (0.5,)
    assert search.build(config, dataset, "float32")[0].relaxation.epochs == (1, 4)
    config.search.start.epochs = 3
    net, *_ = search.build(config, dataset, "float32", _START)
    assert net.relaxation.epochs == (4, 7)


def test_a_single_distinct_cell_has_no_ablation_loss(started, dataset):
    """Its contribution is the mean: L_AB is 0 and moves nothing; M is that of all its copies."""
    _, state, step = started
    labels = dataset.train_labels[8:16]  # of the architecture batch
    _, measured = step(state)
    np.testing.assert_array_equal(measured["loss_ablation"], [0.0])
    gradient = jnp.linspace(-1, 1, state.alphas.size).reshape(state.alphas.shape)
    # The network without its only cell does not see the alphas: h is 0.
    made_up = Contributions(0.5, jnp.array([0.8]), gradient, 0 * gradient, 0.9)
    np.testing.assert_allclose(
        ddarts.gradient_parts(made_up, state.alphas, 100.0, 0.0).total,
        ddarts.gradient_parts(made_up, state.alphas, 0.0, 0.0).total,
        rtol=1e-5,
    )
    for options in ({"mean_gradient": "stopped"}, {"relative_to": "spread"}):
        parts = ddarts.gradient_parts(made_up, state.alphas, 100.0, 0.0, **options)
        assert not np.any(parts.ablation) and np.all(parts.factor_full == 1), options
    # Without any cell the features are 0 and the logits the classifier's bias.
    bias = np.tile(state.variables.weights["head"]["classifier"]["bias"], (8, 1))
    alone = classification.cross_entropy(jnp.asarray(bias), labels)
    np.testing.assert_allclose(
        measured["marginal_contribution"], [measured["loss"] - alone], rtol=1e-5
    )


def test_shared_cells_and_softmax_are_those_of_darts(dataset):
    """One architecture for normal cells and one for reductions; an edge's shares sum to 1."""
    config = tiny.config("")
    config.search.num_cells = 4
    config.search.method = "darts"
    net, _, alphas = search.build(config, dataset, "float32")
    assert net.reductions == (1, 2) and net.seq == (0, 1, 1, 0)
    assert alphas.shape[0] == 2
    assert net.relaxation.columns == ("none", *net.primitives)
    shares = jax.nn.softmax(alphas)
    np.testing.assert_allclose(net.gates(alphas), shares[..., 1:], rtol=1e-6)
    found = search.derive(alphas, net, config.parse)
    assert found.cells[0] == found.cells[3] and found.seq == (0, 1, 1, 0)
    # As without sharing, where the alphas are those of the normal and of the reduction cell.
    alone = dataclasses.replace(net, seq=(0, 1, 2, 3))
    plain = search.derive(alphas[jnp.array(net.seq)], alone, config.parse)
    assert plain == Genotype(found.cells, found.reductions, found.concat)

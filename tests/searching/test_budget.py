"""A budget of parameters, MACs or time: what is counted, what is expected, what the result keeps to."""

import contextlib
import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, edge_index, parse
from ddarts_jax.models.relaxation import Relaxation
from ddarts_jax.runs import metrics
from ddarts_jax.searching import budget, search
from ddarts_jax.training import feeds, train

PRIMITIVES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")


class Data:
    """What a budget asks of a data set."""

    num_classes, channels, image_size, image_shape = 3, 1, 8, (8, 8, 1)


class Large(Data):
    """Images for a stem that makes them smaller, whose sizes do not divide."""

    image_size, image_shape = 36, (36, 36, 1)


def milliseconds(table, genotype, channels):
    """What a network takes on images of 8x8, primitive by primitive."""
    entries = json.loads(table.read_text())["milliseconds"]
    found = {tuple(entry.values())[:4]: entry["ms"] for entry in entries}
    total, size = 0.0, 8
    for position, genes in enumerate(genotype.cells):
        reduction = position in genotype.reductions
        channels *= 2 if reduction else 1
        for name, _, source in genes:
            strided = reduction and source < 2
            here = size // 2 if reduction and not strided else size
            total += found[name, channels, 2 if strided else 1, here]
        size //= 2 if reduction else 1
    return total


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of latencies."""
    return tiny.write_latencies(tmp_path_factory.mktemp("latencies") / "latency.json")


@pytest.fixture(scope="module")
def limited(table):
    """A config with limits that nothing exceeds, its supernet, and its budgets."""
    config = tiny.config("")
    config.search.update(num_cells=5, num_nodes=2, space=",".join(PRIMITIVES))
    config.search.budget.update(params=50.0, macs=50.0, latency=50.0, table=str(table))
    config.train.update(num_cells=8, channels=6)
    net, _, _ = search.build(config, Data, "float32")
    return config, net, budget.of(config, net, Data)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_table_and_a_rest_are_what_a_network_costs(limited, table, seed):
    """Of the deepened network at its own channels, by the count that runs report."""
    config, net, budgets = limited
    probabilities = np.random.default_rng(seed).uniform(size=(5, 5, 4))
    genotype = parse(probabilities, net.primitives, "darts", 0.0, net.reductions)
    for each, exact in zip(budgets, costs(config, genotype.expand(8), table), strict=True):
        np.testing.assert_allclose(each.cost(genotype, net.primitives), exact, rtol=1e-5)


def costs(config, genotype, table):
    """What a network costs, counted and walked through, of each kind of budget in its unit."""
    counted = train.cost(config, genotype, Data)
    latency = milliseconds(table, genotype, config.train.channels)
    return counted.params / 1e6, counted.macs / 1e6, latency


def test_latencies_of_a_table_are_added(tmp_path):
    """Of two reduction cells of one node: 8 channels on 8x8, then 16 on 4x4, both strided."""
    path = tmp_path / "latency.json"
    entries = [
        ("max_pool_3x3", 8, 2, 8, 1.0),
        ("sep_conv_3x3", 8, 2, 8, 10.0),
        ("max_pool_3x3", 16, 2, 4, 0.25),
        ("sep_conv_3x3", 16, 2, 4, 2.5),
        ("sep_conv_3x3", 16, 1, 4, 1000.0),
    ]
    fields = ("primitive", "channels", "stride", "size", "ms")
    document = {"device": "phone", "dtype": "int8", "batch": 4, "versions": {}}
    document["milliseconds"] = [dict(zip(fields, entry)) for entry in entries]
    path.write_text(json.dumps(document))
    config = tiny.config("")
    config.search.space = "max_pool_3x3,sep_conv_3x3"
    config.search.budget.update(latency=14.0, table=str(path))
    net, _, _ = search.build(config, Data, "float32")
    (own,) = budget.of(config, net, Data)
    assert (own.unit, own.fixed) == ("ms", 0.0)
    np.testing.assert_array_equal(own.table, [[[1, 10], [1, 10]], [[0.25, 2.5], [0.25, 2.5]]])
    genes = (
        (("max_pool_3x3", 2, 0), ("sep_conv_3x3", 2, 1)),
        (("sep_conv_3x3", 2, 0), ("sep_conv_3x3", 2, 1)),
    )
    genotype = Genotype(genes, (0, 1), (2,), None)
    assert own.cost(genotype, net.primitives) == 16.0
    # 2.25 ms for 0.1 is a better bargain than 9 ms for 0.8.
    probabilities = np.array([[[0.1, 0.9], [0.1, 0.9]], [[0.5, 0.6], [0.1, 0.9]]])
    found = budget.within((own,), genotype, probabilities, net.primitives, 0.0)
    assert own.cost(found, net.primitives) == 13.75
    assert found.genes[1][0][0] == "max_pool_3x3"

    config.search.budget.latency = 2.0
    with pytest.raises(UserError, match=r"is 2 ms, but the cheapest .* has 2.5 ms"):
        budget.of(config, net, Data)
    del document["milliseconds"][2]
    path.write_text(json.dumps(document))
    with pytest.raises(
        UserError, match=r"no max_pool_3x3 of 16 channels, stride 2, on 4x4.* latency "
    ):
        budget.of(config, net, Data)


def test_a_search_does_not_continue_with_other_latencies(tmp_path, monkeypatch):
    """The file may be moved and extended, but what it says for the search stays."""
    monkeypatch.setattr(feeds, "resident", tiny.stepless)
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz", 48))
    config.search.epochs, config.search.gap_images = 1, 0
    dataset = data.load(config.data)

    def start(table):
        config.search.budget.update(latency=9.0, table=str(table))
        with contextlib.closing(metrics.MetricsWriter(tmp_path / "run")) as writer:
            return search.run(config, dataset, tmp_path / "run", writer, "float32")

    first = tiny.write_latencies(tmp_path / "latency.json")
    start(first)
    document = json.loads(first.read_text())
    document["milliseconds"].append(document["milliseconds"][0] | {"channels": 99})
    (tmp_path / "moved.json").write_text(json.dumps(document))
    start(tmp_path / "moved.json")
    with pytest.raises(UserError, match=r"budget\.table_checksum: '.*another --workdir"):
        start(tiny.write_latencies(tmp_path / "slower.json", 1.5))


@pytest.mark.parametrize("stem", ["half", "strided"])
def test_a_table_knows_the_size_that_the_stem_leaves(stem):
    """What two networks differ in by the count is what they differ in by the table."""
    config = tiny.config("")
    config.search.update(num_cells=2, num_nodes=1, space=",".join(PRIMITIVES))
    config.search.budget.macs = 50.0
    config.train.update(channels=4, stem=stem)
    net, _, _ = search.build(config, Large, "float32")
    (own,) = budget.of(config, net, Large)
    costs = []
    for chosen in (2, 3):
        probabilities = np.zeros((2, 2, 4))
        probabilities[:, :, chosen] = 1
        genotype = parse(probabilities, net.primitives, "darts", 0.0, net.reductions)
        costs.append(
            (1e6 * own.cost(genotype, net.primitives), train.cost(config, genotype, Large).macs)
        )
    assert costs[0] != costs[1]
    for found, counted in costs:
        np.testing.assert_allclose(found, counted, rtol=1e-5)


def drawn(shares, kept):
    """(chance, genes) of every network of one cell of two nodes, as `expected` thinks of it."""
    for pair in itertools.combinations(range(3), 2):
        own = [(2, 0), (2, 1), *((3, source) for source in pair)]
        for names in itertools.product(range(shares.shape[-1]), repeat=4):
            chance = kept[pair] * np.prod(
                [shares[edge_index(s, n), o] for o, (n, s) in zip(names, own)]
            )
            yield chance, [(PRIMITIVES[o], n, s) for o, (n, s) in zip(names, own)]


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_the_expected_cost_is_the_mean_over_all_networks(kind):
    """By enumerating them: two edges of a node, on each a primitive in proportion to its gate."""
    table = np.random.default_rng(0).uniform(size=(1, 5, 4)).astype(np.float32)
    own = budget.Budget("params", 1.0, 1.0, 0.25, table)
    alphas = tiny.normal(1, 1, 5, 4)
    gates = 1 / (1 + np.exp(-alphas)) if kind == "sigmoid" else np.exp(alphas)
    shares = (gates / gates.sum(-1, keepdims=True))[0]
    chances = dict.fromkeys(itertools.combinations(range(3), 2), 1 / 3)
    costs = [
        (chance, 0.25 + sum(table[0, edge_index(s, n), PRIMITIVES.index(p)] for p, n, s in genes))
        for chance, genes in drawn(shares, chances)
    ]
    np.testing.assert_allclose(sum(chance for chance, _ in costs), 1)
    found = budget.expected(own, Relaxation(kind, PRIMITIVES), jnp.asarray(alphas))
    np.testing.assert_allclose(found, sum(chance * cost for chance, cost in costs), rtol=1e-5)


def test_strong_edges_count_more():
    """With strengths an edge counts twice its strength: two edges of a node are kept."""
    table = np.zeros((1, 5, 4), np.float32)
    table[0, 3] = 1.0
    rule = Relaxation("softmax", PRIMITIVES, topology="edges")
    alphas = jnp.zeros((1, 5, 5)).at[0, 3, 4].set(1.0)
    own = budget.Budget("macs", 1.0, 1.0, 0.0, table)
    expected = 2 * np.e / (np.e + 2)
    np.testing.assert_allclose(budget.expected(own, rule, alphas), expected, rtol=1e-6)


def test_an_edge_of_a_strong_pair_counts_more():
    """Of three pairs of edges two hold an edge, whose strength is the chance that it is kept."""
    table = np.zeros((1, 5, 4), np.float32)
    table[0, 3] = 1.0
    rule = Relaxation("softmax", PRIMITIVES, topology="pairs", num_nodes=2)
    alphas = jnp.zeros((1, 5, 6)).at[0, 3, 5].set(1.0)  # of the edges from 1 and 2 into node 3
    own = budget.Budget("macs", 1.0, 1.0, 0.0, table)
    expected = (np.e + 1) / (np.e + 2)
    np.testing.assert_allclose(budget.expected(own, rule, alphas), expected, rtol=1e-6)


def test_the_penalty_is_felt_above_the_limit_alone(limited):
    """Within, its gradient is 0; above, descending it makes the expected network cheaper."""
    _, net, budgets = limited
    alphas = jnp.asarray(tiny.normal(2, *net.alphas_shape), jnp.float32)

    def descend(limit):
        own = tuple(each._replace(limit=limit) for each in budgets)
        return jax.grad(lambda a: budget.penalty(own, net.relaxation, a)[0])(alphas)

    assert not np.any(descend(50.0))
    gradient = descend(1e-3)
    assert np.all(np.isfinite(gradient))
    for each in budgets:
        before, after = (
            budget.expected(each, net.relaxation, a) for a in (alphas, alphas - 0.1 * gradient)
        )
        assert after < before


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@settings(max_examples=20)
@given(seed=st.integers(0, 1000), strictness=st.floats(0.2, 1.0))
def test_the_result_keeps_to_every_limit(limited, table, threshold, seed, strictness):
    """And keeps two edges of each node, or with a threshold only primitives that reach it."""
    config, net, budgets = limited
    probabilities = np.random.default_rng(seed).uniform(0, 1, (5, 5, 4))
    probabilities[:, :, 1] = np.maximum(probabilities[:, :, 1], threshold)  # skips are always there
    method = "sparse" if threshold else "darts"
    genotype = parse(probabilities, net.primitives, method, threshold, net.reductions)
    least = budget._cheapest(budgets[0].table, net)
    tight = tuple(
        each._replace(
            limit=strictness * each.cost(genotype, net.primitives)
            + (1 - strictness) * 1.5 * each.cost(least, net.primitives)
        )
        for each in budgets
    )
    found = budget.within(tight, genotype, probabilities, net.primitives, threshold)
    for each, exact in zip(tight, costs(config, found.expand(8), table), strict=True):
        assert exact <= each.limit * (1 + 1e-5)
    if all(each.cost(genotype, net.primitives) <= each.limit for each in tight):
        assert found == genotype
    for cell, genes in enumerate(found.genes):
        assert {node for _, node, _ in genes} == {2, 3}
        assert threshold or len(genes) == 4
        for name, node, source in genes:
            chance = probabilities[cell, edge_index(source, node), net.primitives.index(name)]
            assert chance >= threshold


def test_the_expected_cost_is_finite_where_none_wins():
    """Value and gradient, also where `none` is all that is left of an edge, which then costs nothing."""
    rule = Relaxation("balance", PRIMITIVES, none=True)
    table = np.ones((1, 2, 4))
    own = budget.Budget("params", 50.0, 1.0, 0.25, table)
    for none in (0.0, 0.05, 0.2, 5.0):
        alphas = jnp.zeros((1, 2, 5)).at[..., 0].set(none)
        value, slope = jax.value_and_grad(functools.partial(budget.expected, own, rule))(alphas)
        np.testing.assert_allclose(value, 2.25, rtol=1e-6)  # one primitive on each of two edges
        assert np.isfinite(slope).all()
    kept = ((((True,) * 5, (True,) + (False,) * 4)),)
    for kind in ("softmax", "balance"):
        rule = Relaxation(kind, PRIMITIVES, none=True, kept=kept)
        value, slope = jax.value_and_grad(functools.partial(budget.expected, own, rule))(alphas)
        np.testing.assert_allclose(value, 1.25, rtol=1e-6)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("kind", ["softmax", "balance", "groups", "sigmoid"])
def test_shares_of_primitives_are_their_probabilities_without_none(kind):
    """Where these are not tiny: divided by their sum."""
    rule = Relaxation(kind, PRIMITIVES, none=kind != "sigmoid")
    scale = 1e-3 if kind == "balance" else 1.0
    alphas = scale * jnp.asarray(tiny.normal(5, 2, 2, len(rule.columns)), jnp.float32)
    shares = rule.probabilities(alphas)
    expected = shares / shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(rule.primitive_shares(alphas), expected, rtol=1e-5)


def test_scores_below_0_may_be_kept_too():
    """What removals add to the loss may be negative; with no threshold all primitives may be kept."""
    table = np.zeros((1, 2, 4))
    table[..., 2:] = 1.0
    own = budget.Budget("params", 0.5, 1.0, 0.0, table)
    scores = np.array([[[-0.4, -0.2, 0.1, -0.3], [-0.4, -0.2, 0.1, -0.3]]])
    genotype = Genotype([[("sep_conv_3x3", 2, 0), ("sep_conv_3x3", 2, 1)]], (), (2,))
    found = budget.within((own,), genotype, scores, PRIMITIVES, -np.inf)
    assert found.genes == ((("skip_connect", 2, 0), ("skip_connect", 2, 1)),)


@pytest.mark.parametrize(("most", "skips"), [(-1, 2), (0, 0), (1, 1)])
def test_a_budget_respects_the_number_of_skips(most, skips):
    """They are the cheapest, but a normal cell may have only so many; the next cheapest stand in."""
    table = np.tile([0.2, 0.0, 1.0, 1.5], (1, 2, 1))
    own = budget.Budget("params", 0.5, 1.0, 0.0, table)
    probabilities = np.array([[[0.1, 0.8, 0.9, 0.0], [0.1, 0.7, 0.9, 0.0]]])
    genotype = parse(probabilities, PRIMITIVES, "darts", 0.0, ())
    found = budget.within((own,), genotype, probabilities, PRIMITIVES, 0.0, most)
    assert own.cost(found, PRIMITIVES) <= 0.5
    assert [name for name, *_ in found.genes[0]].count("skip_connect") == skips
    reduction = dataclasses.replace(genotype, reductions=(0,))
    found = budget.within((own,), reduction, probabilities, PRIMITIVES, 0.0, most)
    assert [name for name, *_ in found.genes[0]] == ["skip_connect"] * 2


def test_the_cheapest_loss_is_taken_first():
    """Of two replacements that save the same, the one that loses less probability."""
    table = np.zeros((1, 2, 4), np.float32)
    table[..., 2] = 1.0
    own = budget.Budget("params", 1.0, 1.0, 0.0, table)
    probabilities = np.array([[[0.1, 0.2, 0.9, 0.0], [0.1, 0.7, 0.9, 0.0]]])
    genotype = parse(probabilities, PRIMITIVES, "darts", 0.0, ())
    found = budget.within((own,), genotype, probabilities, PRIMITIVES, 0.0)
    assert found.genes == ((("sep_conv_3x3", 2, 0), ("skip_connect", 2, 1)),)


def test_a_replacement_for_one_limit_exceeds_no_other():
    """What is faster may have more weights: a limit that was kept to is not given up for the next."""
    weights, times = np.zeros((2, 1, 2, 4))
    weights[..., 2:], times[..., 2:] = (2.0, 1.0), (1.0, 3.0)
    budgets = tuple(
        budget.Budget(kind, limit, 1.0, 0.0, table)
        for kind, limit, table in (("params", 1.5, weights), ("latency", 2.0, times))
    )
    probabilities = np.array([[[0.1, 0.2, 0.8, 0.9], [0.1, 0.9, 0.0, 0.0]]])
    genotype = parse(probabilities, PRIMITIVES, "darts", 0.0, ())
    assert genotype.genes[0][0][0] == "dil_conv_5x5"
    alone = budget.within(budgets[1:], genotype, probabilities, PRIMITIVES, 0.0)
    both = budget.within(budgets, genotype, probabilities, PRIMITIVES, 0.0)
    assert [found.genes[0][0][0] for found in (alone, both)] == ["sep_conv_3x3", "skip_connect"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("search.budget.macs", 1e-6, "cheapest network of this space has"),
        ("parse.method", "complete", "counts two edges of every node"),
    ],
)
def test_impossible_budgets_are_refused(limited, key, value, message):
    """Before the search, not after it."""
    config, net, _ = limited
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        budget.of(config, net, Data)

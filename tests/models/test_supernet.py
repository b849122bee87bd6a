"""The supernet: sizes, wiring and statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddarts_jax.genotypes.genotype import edges
from ddarts_jax.models import layers
from ddarts_jax.models import primitives as prim
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import build, forward

# Two ways of computing the same in float32, through three cells of batch normalisation.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
# One of every kind, not in alphabetical order.
PRIMITIVES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")


def make(num_cells=3, num_nodes=2, channels=4, num_classes=5, image_channels=1, **options):
    return build(
        num_cells=num_cells,
        num_nodes=num_nodes,
        channels=channels,
        num_classes=num_classes,
        image_channels=image_channels,
        key=jax.random.key(0),
        **options,
    )


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Small:
    """Three cells (normal, reduction, reduction) of two nodes on images of odd size."""

    def __init__(self):
        self.supernet, self.variables = make(primitives=PRIMITIVES)
        rng = np.random.default_rng(0)
        self.gates = jnp.array(rng.uniform(0.1, 1, self.supernet.alphas_shape), jnp.float32)
        self.images = jnp.array(rng.normal(size=(4, 7, 7, 1)), jnp.float32)

        @chex.assert_max_traces(n=1)
        def train(variables, gates, images):
            return forward(self.supernet, variables, gates, images, True)

        self.train = jax.jit(train)
        self.logits, self.outputs, self.statistics = self.train(
            self.variables, self.gates, self.images
        )


@pytest.fixture(scope="module")
def small():
    return Small()


def test_supernet_has_as_many_weights_as_the_authors():
    """Count of the authors' program: 8 cells of 4 nodes, 10 classes, colour images."""
    supernet, variables = make(
        num_cells=8, num_nodes=4, channels=16, num_classes=10, image_channels=3
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.weights)) == 1_930_618
    assert supernet.alphas_shape == (8, 14, 7)
    assert supernet.reductions == (2, 5)


@pytest.mark.parametrize(
    ("num_cells", "num_nodes", "image", "dtype"),
    [
        (1, 2, (8, 8, 1), "float32"),
        (2, 1, (7, 7, 3), "bfloat16"),
        (4, 3, (32, 32, 3), "bfloat16"),
        (6, 2, (9, 5, 2), "float64"),
    ],
)
def test_shapes_and_dtypes_of_any_size(num_cells, num_nodes, image, dtype):
    """Reductions halve (rounding up) and double the channels; logits are float32 or better."""
    with jax.enable_x64(dtype == "float64"):
        supernet, variables = make(
            num_cells=num_cells,
            num_nodes=num_nodes,
            image_channels=image[2],
            primitives=PRIMITIVES,
        )
        logits, outputs, statistics = jax.eval_shape(
            lambda *args: forward(supernet, *args, True),
            variables,
            jax.ShapeDtypeStruct(supernet.alphas_shape, jnp.float32),
            jax.ShapeDtypeStruct((2, *image), dtype),
        )
    assert supernet.alphas_shape == (num_cells, sum(range(2, num_nodes + 2)), 4)
    height, width, channels = *image[:2], 4
    expected = [(2, height, width, 3 * channels)]
    for position in range(num_cells):
        if position in (num_cells // 3, 2 * num_cells // 3):
            height, width, channels = -(-height // 2), -(-width // 2), 2 * channels
        expected.append((2, height, width, num_nodes * channels))
    assert [output.shape for output in outputs] == expected
    assert {output.dtype for output in outputs} == {jnp.dtype(dtype)}
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.promote_types(dtype, jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(statistics, variables.statistics)


def test_strided_stem_and_given_structure():
    """A quarter of the size and one channel width; reductions and shared cells as they are given."""
    supernet, variables = make(
        num_cells=3, primitives=PRIMITIVES[1:2], stem="strided", reductions=(2,), seq=(0, 1, 0)
    )
    assert supernet.alphas_shape == (2, 5, 1) and supernet.seq == (0, 1, 0)
    _, outputs, _ = jax.eval_shape(
        lambda *args: forward(supernet, *args, True),
        variables,
        jax.ShapeDtypeStruct(supernet.alphas_shape, jnp.float32),
        jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32),
    )
    assert [output.shape for output in outputs] == [
        (2, 8, 8, 4),
        (2, 8, 8, 8),
        (2, 8, 8, 8),
        (2, 4, 4, 16),
    ]


def test_edges_start_with_different_weights_inside_the_bounds(small):
    """Stacking neither copies one edge to all nor changes the fan-in of the initialiser."""
    candidates = small.variables.weights["cells"][0]["plain"]["mixed"]["candidates"]
    for kernel in jax.tree.leaves(candidates):
        assert np.all(np.asarray(kernel[1:]) != np.asarray(kernel[:-1]))
    spatial = np.abs(candidates["dil_conv_5x5"]["spatial"])
    assert 0.18 < spatial.max() <= 1 / 5  # 25 inputs


def test_second_call_does_not_trace_again(small):
    """New values of variables, gates and images reuse the compiled program."""
    variables = Variables(jax.tree.map(lambda x: 2 * x, small.variables.weights), small.statistics)
    small.train(variables, 1 - small.gates, -small.images)


def test_statistics_change_in_training_only(small):
    """Training moves every running statistic; evaluation returns them as they are."""
    old = small.variables.statistics
    for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(small.statistics), strict=True):
        assert np.any(np.asarray(before) != np.asarray(after))

    @jax.jit
    def evaluate(variables):
        return forward(small.supernet, variables, small.gates, small.images, False)

    logits, _, statistics = evaluate(small.variables)
    assert np.isfinite(logits).all()
    assert_trees_equal(statistics, old)


def test_gates_of_a_cell_matter_from_that_cell_on(small):
    """Cells before it compute the same, it and those behind it do not."""
    for cell in range(3):
        gates = small.gates.at[cell].multiply(0.5)
        logits, outputs, _ = small.train(small.variables, gates, small.images)
        assert_trees_equal(outputs[: cell + 1], small.outputs[: cell + 1])
        for output, before in zip(outputs[cell + 1 :], small.outputs[cell + 1 :], strict=True):
            assert np.any(np.asarray(output) != np.asarray(before))
        assert np.any(np.asarray(logits) != np.asarray(small.logits))


@pytest.mark.parametrize("edge", range(5))
def test_edge_without_gates_contributes_nothing(small, edge):
    """In the reduction cell 1, whatever the weights of the edge; with gates they do matter."""
    source, _ = edges(2)[edge]
    strided = [e for e, (i, _) in enumerate(edges(2)) if i < 2]
    stack, row = ("strided", strided.index(edge)) if source < 2 else ("plain", 0)
    cells = list(small.variables.weights["cells"])
    changed = jax.tree.map(lambda kernel: jnp.array(kernel).at[row].multiply(-1.7), cells[1][stack])
    cells[1] = {**cells[1], stack: changed}
    variables = small.variables._replace(weights={**small.variables.weights, "cells": cells})

    closed = small.gates.at[1, edge].set(0)
    for gates, same in [(closed, True), (small.gates, False)]:
        (logits, *_), (expected, *_) = (
            small.train(v, gates, small.images) for v in (variables, small.variables)
        )
        assert np.array_equal(logits, expected) == same


def test_cell_without_gates_is_zero(small):
    """A cell's output is the sum of gated primitives and nothing else."""
    _, outputs, _ = small.train(small.variables, small.gates.at[1].set(0), small.images)
    assert not np.any(outputs[2])


def test_gate_weighs_the_primitive_of_its_name(small):
    """With the skips alone node 2 is the inputs' sum, and node 3 adds node 2 to it once more."""
    skip = PRIMITIVES.index("skip_connect")
    gates = small.gates.at[0].set(0).at[0, :, skip].set(1)
    _, outputs, _ = small.train(small.variables, gates, small.images)
    node2, node3 = np.split(np.asarray(outputs[1]), 2, axis=-1)
    np.testing.assert_allclose(node3, 2 * node2, rtol=1e-6, atol=1e-6)
    assert np.any(node2)


def test_unrolling_changes_nothing():
    """`unroll` is a matter of speed: also where it does not divide the number of edges."""
    results = []
    for unroll in (1, 3):
        supernet, variables = make(num_cells=1, primitives=PRIMITIVES[1:3], unroll=unroll)
        gates = jnp.full(supernet.alphas_shape, 0.5)
        images = jnp.array(np.random.default_rng(0).normal(size=(4, 7, 7, 1)), jnp.float32)
        run = jax.jit(lambda *args, supernet=supernet: forward(supernet, *args, True))
        results.append(run(variables, gates, images))
    chex.assert_trees_all_close(*results, **ROUNDING)


# A naive supernet: loops over cells, edges and primitives, each a module of its own.


def run_naive(module, weights, statistics, x):
    """Runs a module with these weights; returns output and new statistics."""
    graph, _ = nnx.split(module)
    module = nnx.merge(graph, weights, statistics)
    return module(x, True), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def naive_cell(weights, statistics, s0, s1, gates, channels, reduction, reduction_before):
    """One cell of two nodes; returns its output and a list of ((stack, row, name), statistics)."""
    nodes, seen = [], []
    for name, x in [("preprocess0", s0), ("preprocess1", s1)]:
        if name == "preprocess0" and reduction_before:
            module = layers.FactorizedReduce(x.shape[-1], channels, affine=False)
        else:
            module = layers.ConvBN(x.shape[-1], channels, 1, affine=False)
        nodes.append(run_naive(module, weights[name], statistics[name], x)[0])
    rows = {"strided": 0, "plain": 0}
    for e, (source, target) in enumerate(edges(2)):
        stack = "strided" if reduction and source < 2 else "plain"
        row, stride = rows[stack], 2 if stack == "strided" else 1
        rows[stack] += 1
        for o, name in enumerate(PRIMITIVES):
            own = [
                jax.tree.map(
                    lambda x, row=row: x[row], v[stack]["mixed"]["candidates"].get(name, {})
                )
                for v in (weights, statistics)
            ]
            module = prim.create(name, channels, stride, affine=False)
            out, after = run_naive(module, *own, nodes[source])
            seen.append(((stack, row, name), after))
            if len(nodes) == target:
                nodes.append(0)
            nodes[target] += gates[e, o] * out
    return jnp.concatenate(nodes[2:], -1), seen


def test_supernet_is_that_of_plain_loops(small):
    """Wiring, strides, stacked weights, order of the gates and the statistics of every edge."""
    weights, statistics = small.variables
    for cell, channels, reduction, before in [(0, 4, 0, 0), (1, 8, 1, 0), (2, 16, 1, 1)]:
        s0, s1 = small.outputs[max(cell - 1, 0)], small.outputs[cell]
        parts = weights["cells"][cell], statistics["cells"][cell]
        output, seen = naive_cell(*parts, s0, s1, small.gates[cell], channels, reduction, before)
        np.testing.assert_allclose(small.outputs[cell + 1], output, **ROUNDING)
        for (stack, row, name), after in seen:
            stacked = small.statistics["cells"][cell][stack]["mixed"]["candidates"].get(name, {})
            for actual, expected in zip(
                jax.tree.leaves(stacked), jax.tree.leaves(after), strict=True
            ):
                np.testing.assert_allclose(actual[row], expected, **ROUNDING)
    features = np.asarray(small.outputs[-1], np.float64).mean((1, 2))
    head = weights["head"]["classifier"]
    np.testing.assert_allclose(
        small.logits, features @ np.asarray(head["kernel"]) + np.asarray(head["bias"]), **ROUNDING
    )

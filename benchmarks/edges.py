"""Compares three ways to run the edges of a cell; prints one JSON line.

    python benchmarks/edges.py                  # a normal cell of 4 nodes, 16 channels, 32x32, batch 16
    python benchmarks/edges.py --dtype bfloat16

- `scan`: edge after edge in one loop, as the supernet does it (`supernet.StackedEdges`).
- `unrolled`: the same, all edges one after the other in the program.
- `source`: all edges that leave a node at once, by `vmap`, so that pools, skips and ReLUs, which have no
  weights, run once per node instead of once per edge.

Each way runs the forward pass and the gradient with respect to inputs, weights and gates; edges are
recomputed in the backward pass. All three give the same up to rounding, which is checked first.
"""

import functools
import statistics

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddarts_jax.genotypes.genotype import edges
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.models import layers, supernet
from ddarts_jax.models.layers import Variables, initialise
from ddarts_jax.models.supernet import StackedEdges


def scanned(arguments, pairs, unroll):
    """Builds `(variables, gates, nodes) -> nodes` as the supernet does; returns it and its variables."""
    names = SPACES[arguments.space]
    module = StackedEdges(names, pairs, arguments.channels, 1, unroll=unroll, remat=True)
    graph, weights, statistics = nnx.split(module, nnx.Param, nnx.BatchStat)
    weights = initialise(jax.random.key(0), nnx.to_pure_dict(weights))

    def run(variables, gates, nodes):
        return layers.apply(graph, variables, None, nodes, gates, True)[0]

    return run, Variables(weights, nnx.to_pure_dict(statistics))


def by_source(arguments, pairs):
    """Builds the same function with one computation for all edges that leave a node."""
    mixed = supernet.MixedOperation(SPACES[arguments.space], arguments.channels, 1)
    graph, _ = nnx.split(mixed)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def mix(variables, x, gates):
        def one(variables, gates):
            return layers.apply(graph, variables, x, gates, True)[0]

        return jax.vmap(one)(variables, gates)

    def run(variables, gates, nodes):
        variables = Variables(*(part["mixed"] for part in variables))
        for source in sorted({source for source, _ in pairs}):
            leaving = np.array([e for e, pair in enumerate(pairs) if pair[0] == source])
            targets = np.array([pairs[e][1] for e in leaving])
            own = jax.tree.map(lambda leaf, leaving=leaving: leaf[leaving], variables)
            nodes = nodes.at[targets].add(mix(own, nodes[source], gates[leaving]))
        return nodes

    return run


def compiled_gradients(ways, arguments, variables, pairs):
    """Compiles the value and gradients of each way.

    Args:
        ways: {name: `(variables, gates, nodes) -> nodes`}.
        arguments: the command line.
        variables: of the edges.
        pairs: (source, target) of each edge.

    Returns:
        {name: function that runs it once and waits for its result}, and what compiling took, by name.
    """
    shape = (2 + arguments.nodes, arguments.batch, arguments.size, arguments.size)
    nodes = jax.random.normal(jax.random.key(1), (*shape, arguments.channels), arguments.dtype)
    nodes = nodes.at[2:].set(0)
    towards = jax.random.normal(jax.random.key(2), nodes.shape, arguments.dtype)
    gates = jax.random.uniform(jax.random.key(3), (len(pairs), len(SPACES[arguments.space])))
    inputs = variables.weights, gates, nodes
    programs, compiling = {}, {}
    for name, way in ways.items():

        def value(weights, gates, nodes, way=way):
            output = way(Variables(weights, variables.statistics), gates, nodes)
            return jnp.sum((output[2:] * towards[2:]).astype(jnp.float32))

        differentiated = jax.jit(jax.value_and_grad(value, (0, 1, 2)))
        compiled, compiling[name] = harness.compile_timed(
            functools.partial(differentiated.lower, *inputs)
        )
        temporary = compiled.memory_analysis().temp_size_in_bytes
        compiling[name]["temporary_mb"] = round(temporary / 1e6)

        def run(compiled=compiled):
            return jax.block_until_ready(compiled(*inputs))

        programs[name] = run
    return programs, compiling


def check(results, tolerance):
    """Compares the results of all ways with those of the first, relative to the norm of each array."""
    expected, *others = results.values()
    for name, found in zip(list(results)[1:], others):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a), name


def main():
    """Measures and prints."""
    parser = harness.parser(
        __doc__, "nodes", "channels", "size", "batch", "space", "dtype", repeats=7
    )
    arguments = parser.parse_args()
    pairs = edges(arguments.nodes)
    scan, variables = scanned(arguments, pairs, 1)
    unrolled, _ = scanned(arguments, pairs, len(pairs))
    ways = {"scan": scan, "unrolled": unrolled, "source": by_source(arguments, pairs)}
    programs, found = compiled_gradients(ways, arguments, variables, pairs)
    results = {name: run() for name, run in programs.items()}
    check(results, 0.1 if arguments.dtype == "bfloat16" else 1e-3)
    for name, seconds in harness.in_turns(programs, arguments.repeats).items():
        milliseconds = [1e3 * value for value in seconds]
        found[name] |= {
            "ms": round(statistics.median(milliseconds), 1),
            "spread_ms": harness.spread(milliseconds, 1),
        }
    harness.report("edges", vars(arguments), found)


if __name__ == "__main__":
    main()

"""Compares three ways to run the edges of a cell; prints one JSON line.

    python benchmarks/edges.py                  # a normal cell of 4 nodes, 16 channels, 32x32, batch 16
    python benchmarks/edges.py --dtype bfloat16

- `scan`: edge after edge in one loop, as the supernet does it on a CPU (`edges.run_scanned`).
- `unrolled`: the same, all edges one after the other in the program.
- `joined`: all edges that can run together at once, as on a GPU (`edges.run_joined`).

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
from ddarts_jax.models.edges import StackedEdges, run_joined, run_scanned
from ddarts_jax.models.layers import Variables, initialise, split


def build(arguments, run_edges, unroll=1):
    """Builds `(variables, gates, inputs) -> nodes` for the edges of a cell.

    Args:
        arguments: the command line.
        run_edges: `run_scanned` or `run_joined`.
        unroll: see `supernet.build`.

    Returns:
        The function, and the edges' variables.
    """
    names, pairs = SPACES[arguments.space], edges(arguments.nodes)
    module = StackedEdges(names, pairs, arguments.channels, 1, unroll=unroll, remat=True)
    graph, variables = split(module)

    def run(variables, gates, inputs):
        stack = nnx.merge(graph, *variables)
        return run_edges(None, stack, tuple(inputs), (gates[:0], gates), True)

    return run, variables._replace(weights=initialise(jax.random.key(0), variables.weights))


def compiled_gradients(ways, arguments, variables):
    """Compiles the value and gradients of each way.

    Args:
        ways: {name: `(variables, gates, inputs) -> nodes`}.
        arguments: the command line.
        variables: of the edges.

    Returns:
        {name: function that runs it once and waits for its result}, and what compiling took, by name.
    """
    shape = (arguments.batch, arguments.size, arguments.size)
    inputs = jax.random.normal(jax.random.key(1), (2, *shape, arguments.channels), arguments.dtype)
    towards = jax.random.normal(
        jax.random.key(2), (*shape, arguments.nodes * arguments.channels), arguments.dtype
    )
    gates = jax.random.uniform(
        jax.random.key(3), (len(edges(arguments.nodes)), len(SPACES[arguments.space]))
    )
    inputs = variables.weights, gates, inputs
    programs, compiling = {}, {}
    for name, way in ways.items():

        def value(weights, gates, inputs, way=way):
            output = way(Variables(weights, variables.statistics), gates, inputs)
            return jnp.sum((output * towards).astype(jnp.float32))

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
    scan, variables = build(arguments, run_scanned)
    ways = {
        "scan": scan,
        "unrolled": build(arguments, run_scanned, len(edges(arguments.nodes)))[0],
        "joined": build(arguments, run_joined)[0],
    }
    programs, found = compiled_gradients(ways, arguments, variables)
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

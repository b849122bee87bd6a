"""Compares three ways to run the edges of a cell; prints one JSON line.

    python benchmarks/edges.py                  # a normal cell of 4 nodes, 16 channels, 32x32, batch 16
    python benchmarks/edges.py --dtype bfloat16

- `scan`: edge after edge in one loop, as the supernet does it (`supernet.StackedEdges`).
- `unrolled`: the same, all edges one after the other in the program.
- `source`: all edges that leave a node at once, by `vmap`, so that pools, skips and ReLUs, which have no
  weights, run once for a node in place of once for an edge.

Forward pass and gradient towards inputs, weights and gates; edges are computed anew in the backward
pass. All three give the same up to rounding, which is checked first.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time

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
    """`(variables, gates, nodes) -> nodes` of the supernet, and its variables."""
    names = SPACES[arguments.space]
    module = StackedEdges(names, pairs, arguments.channels, 1, unroll=unroll, remat=True)
    graph, weights, statistics = nnx.split(module, nnx.Param, nnx.BatchStat)
    weights = initialise(jax.random.key(0), nnx.to_pure_dict(weights))

    def run(variables, gates, nodes):
        return layers.apply(graph, variables, None, nodes, gates, True)[0]

    return run, Variables(weights, nnx.to_pure_dict(statistics))


def by_source(arguments, pairs):
    """The same with one computation for all edges that leave a node."""
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


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("nodes", 4), ("channels", 16), ("size", 32), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--space", choices=list(SPACES), default="darts")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    pairs = edges(arguments.nodes)
    scan, variables = scanned(arguments, pairs, 1)
    unrolled, _ = scanned(arguments, pairs, len(pairs))
    ways = {"scan": scan, "unrolled": unrolled, "source": by_source(arguments, pairs)}

    shape = (2 + arguments.nodes, arguments.batch, arguments.size, arguments.size)
    nodes = jax.random.normal(jax.random.key(1), (*shape, arguments.channels), arguments.dtype)
    nodes = nodes.at[2:].set(0)
    towards = jax.random.normal(jax.random.key(2), nodes.shape, arguments.dtype)
    gates = jax.random.uniform(jax.random.key(3), (len(pairs), len(SPACES[arguments.space])))
    compiled, found, results = {}, {}, {}
    for name, run in ways.items():

        def value(weights, gates, nodes, run=run):
            output = run(Variables(weights, variables.statistics), gates, nodes)
            return jnp.sum((output[2:] * towards[2:]).astype(jnp.float32))

        begun = time.perf_counter()
        lowered = jax.jit(jax.value_and_grad(value, (0, 1, 2))).lower(
            variables.weights, gates, nodes
        )
        traced = time.perf_counter()
        compiled[name] = lowered.compile()
        found[name] = {
            "trace_s": round(traced - begun, 1),
            "compile_s": round(time.perf_counter() - traced, 1),
            "temporary_mb": round(compiled[name].memory_analysis().temp_size_in_bytes / 1e6),
            "seconds": [],
        }
        results[name] = compiled[name](variables.weights, gates, nodes)
    tolerance = 0.1 if arguments.dtype == "bfloat16" else 1e-3
    for name in ways:  # relative to the norm of each array
        for a, b in zip(jax.tree.leaves(results["scan"]), jax.tree.leaves(results[name])):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a), name
    for _ in range(arguments.repeats):
        for name in ways:
            begun = time.perf_counter()
            jax.block_until_ready(compiled[name](variables.weights, gates, nodes))
            found[name]["seconds"].append(time.perf_counter() - begun)
    for way in found.values():
        seconds = way.pop("seconds")
        way |= {
            "ms": round(1e3 * statistics.median(seconds), 1),
            "spread_ms": [round(1e3 * pick(seconds), 1) for pick in (min, max)],
        }
    result = {
        "benchmark": "edges",
        **vars(arguments),
        **found,
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} core(s)",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

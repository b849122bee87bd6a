"""Times the architecture distance of random pairs of networks and prints one JSON line.

    python benchmarks/distance.py                          # 1,000 pairs, 8 cells of 4 nodes

The networks are dense (two primitives on most edges). No two pairs share a network, so caches do not
help; a distance matrix with as many entries is quicker. The same pairs are then measured by the
definition, with plain sets and loops, and the ratio of the times is given.
"""

import time

import harness
import numpy as np

from ddarts_jax.genotypes.distance import SCORES, architecture_distance
from ddarts_jax.genotypes.genotype import Genotype, edges, num_edges, parse, reduction_positions


def random_network(rng, num_cells, num_nodes) -> Genotype:
    """Parses a network from random probabilities."""
    p = rng.uniform(size=(num_cells, num_edges(num_nodes), len(SCORES)))
    return parse(p, tuple(SCORES), "edge", 0.85, reduction_positions(num_cells))


def by_definition(a: Genotype, b: Genotype, num_nodes: int) -> float:
    """Computes the distance with plain sets and loops, for networks of the same size."""
    total = sum(SCORES.values())

    def edge_sets(cell):
        return [
            {primitive for primitive, *ends in cell if ends == [node, source]}
            for source, node in edges(num_nodes)
        ]

    def one_way(u, v):
        return max(min(sum(SCORES[name] for name in x ^ y) for y in v) for x in u) / total

    cells = [(edge_sets(x), edge_sets(y)) for x, y in zip(a.cells, b.cells)]
    return sum(max(one_way(x, y), one_way(y, x)) for x, y in cells) / len(cells)


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__, "cells", "nodes")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of networks")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    size = arguments.cells, arguments.nodes
    pairs = [
        (random_network(rng, *size), random_network(rng, *size)) for _ in range(arguments.pairs)
    ]

    begun = time.perf_counter()
    distances = [architecture_distance(a, b) for a, b in pairs]
    ours = time.perf_counter() - begun
    begun = time.perf_counter()
    expected = [by_definition(a, b, arguments.nodes) for a, b in pairs]
    plain = time.perf_counter() - begun
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-12)
    results = {
        "time_s": round(ours, 4),
        "by_definition_s": round(plain, 2),
        "ratio": round(plain / ours, 1),
    }
    harness.report("distance", vars(arguments), results, packages=["numpy"])


if __name__ == "__main__":
    main()

"""Distances between architectures (D-DARTS paper, the DARTOpti extension).

An edge is the set of primitives chosen on it, and two edges differ by the weighted Hamming distance
of their sets; the weights are the primitives' operation scores. Two distances between networks are
based on this: the paper's, which ignores the position of an edge in its cell, and a positional one.
Both are symmetric, obey the triangle inequality and are between 0 and 1.
"""

import functools
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json
from ddarts_jax.genotypes.genotype import Genotype, edge_index, num_edges
from ddarts_jax.genotypes.spaces import ADDED

# Accuracy in per cent of a proxy network with one primitive only, mean over the edges (Table 1).
SCORES = {
    "conv_3x1_1x3": 82.105830863444,
    "conv_7x1_1x7": 83.1591640991211,
    "max_pool_3x3": 82.13416411336264,
    "avg_pool_3x3": 81.56333073120116,
    "skip_connect": 81.34166406249999,
    "simple_conv_1x1": 81.49166413777668,
    "simple_conv_3x3": 82.30333082275389,
    "sep_conv_3x3": 83.39583075561525,
    "sep_conv_5x5": 84.97416410115558,
    "dil_conv_3x3": 82.73583073323566,
    "dil_conv_5x5": 82.89249749959309,
    "bottleneck_1x3x1": 82.87499756469727,
}

# A set of primitives is an integer, bit o for primitive o, and a table contains the distance of any
# two sets, indexed by their exclusive or: 8 MB at this limit.
_MOST_PRIMITIVES = 20


def load_scores(path: str | os.PathLike) -> dict[str, float]:
    """Reads operation scores from a JSON file `{"scores": {"primitive": score, ...}}`.

    Other keys of the file are ignored.

    Raises:
        UserError: when the file is missing, unreadable or does not contain positive finite scores.
    """
    path = Path(path)
    fields = read_json(path, "Score file")
    if not isinstance(fields, dict) or not isinstance(fields.get("scores"), dict):
        raise UserError(
            f'Score file {path} must hold one JSON object {{"scores": {{"primitive": score, ...}}}}, '
            f"found {reprlib.repr(fields)}."
        )
    try:
        _check_scores(fields["scores"])
    except UserError as error:
        raise UserError(f"Score file {path} does not contain valid scores: {error}") from error
    return {primitive: float(score) for primitive, score in fields["scores"].items()}


def edge_distance(
    u: Iterable[str], v: Iterable[str], scores: Mapping[str, float] | None = None
) -> float:
    """Weighted Hamming distance between two edges: sum_o w_o [u_o != v_o] / sum_o w_o.

    Args:
        u: names of the primitives chosen on one edge.
        v: those on the other.
        scores: the weights w; they also define which primitives exist. `SCORES` if None.

    Raises:
        UserError: when a primitive has no score, or `scores` are not positive finite numbers.
    """
    u, v = tuple(u), tuple(v)
    names, table = _weigh(scores, {*u, *v})
    bits = _bits(names)
    u, v = (sum({_bit(primitive, bits) for primitive in edge}) for edge in (u, v))
    return float(table[u ^ v])


def cell_distances(
    a: Genotype, b: Genotype, scores: Mapping[str, float] | None = None
) -> np.ndarray:
    """Hausdorff distances of the cells at the same position.

    The largest distance from an edge of one cell to the nearest edge of the other, over the edges of
    both. Every edge counts, one without primitives as the empty set. A cell has the edges of all its
    network's nodes (those concatenated and those in entries), so networks with different numbers of
    nodes can be compared directly.

    Args:
        a: one network.
        b: the other.
        scores: weights of the primitives; `SCORES` if None.

    Returns:
        float64 [cells of the deeper network]. A cell that only one of them has counts as 1, the
        largest possible distance.

    Raises:
        UserError: when a primitive has no score, or `scores` are not positive finite numbers.
    """
    names, table = _weigh(scores, _primitives(a) | _primitives(b))
    u, v = _distinct_edges(a, names), _distinct_edges(b, names)
    both, deeper = sorted((len(u), len(v)))
    pairs = table[u[:both, :, None] ^ v[:both, None, :]]  # [cells, edges of a, edges of b]
    distances = np.ones(deeper)
    distances[:both] = np.maximum(pairs.min(2).max(1), pairs.min(1).max(1))
    return distances


def architecture_distance(
    a: Genotype, b: Genotype, scores: Mapping[str, float] | None = None
) -> float:
    """The paper's distance between two networks: the mean of `cell_distances`.

    Two networks whose cells contain the same edges in different places have distance 0. The triangle
    inequality holds for different depths too: a cell that only a third network has adds 1, which is at
    least the mean, to both of that network's distances.
    """
    return float(cell_distances(a, b, scores).mean())


def positional_cell_distances(
    a: Genotype, b: Genotype, scores: Mapping[str, float] | None = None
) -> np.ndarray:
    """Distances of the cells at the same position, edge by edge.

    The mean of `edge_distance` over the edges of the cell with more nodes; an edge that only one of
    the two cells has counts as 1. Arguments, result and errors are those of `cell_distances`.
    """
    names, table = _weigh(scores, _primitives(a) | _primitives(b))
    u, v = _edges(a, names), _edges(b, names)
    both, deeper = sorted((len(u), len(v)))
    fewer, more = sorted((u.shape[1], v.shape[1]))
    shared = table[u[:both, :fewer] ^ v[:both, :fewer]]
    distances = np.ones(deeper)
    distances[:both] = (shared.sum(1) + (more - fewer)) / more
    return distances


def positional_distance(
    a: Genotype, b: Genotype, scores: Mapping[str, float] | None = None
) -> float:
    """Distance between two networks, edge by edge: the mean of `positional_cell_distances`.

    Zero exactly if the networks have the same number of nodes and the same entries in every cell.
    """
    return float(positional_cell_distances(a, b, scores).mean())


def distance_matrix(
    genotypes: Sequence[Genotype],
    scores: Mapping[str, float] | None = None,
    distance: Callable[..., float] = architecture_distance,
) -> np.ndarray:
    """The distances between all pairs, float64 [n, n].

    Args:
        genotypes: n networks.
        scores: weights of the primitives; `SCORES` if None.
        distance: `architecture_distance` or `positional_distance`.

    Raises:
        UserError: when a primitive has no score, or `scores` are not positive finite numbers.
    """
    matrix = np.zeros((len(genotypes), len(genotypes)))
    for i, a in enumerate(genotypes):
        for j, b in enumerate(genotypes[:i]):
            matrix[i, j] = matrix[j, i] = distance(a, b, scores)
    return matrix


def _primitives(genotype: Genotype) -> set[str]:
    return {primitive for cell in genotype.genes for primitive, _, _ in cell}


def _weigh(scores, used: set[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the primitives and the table of distances [2 ** primitives].

    Primitives that users have added count only where a network has them, so that the distances of all
    other networks do not change.
    """
    if scores is None:
        scores = SCORES | {name: score for name, score in ADDED.items() if name in used}
    _check_scores(scores)
    return tuple(scores), _table(tuple(scores.values()))


@functools.lru_cache(maxsize=4)
def _table(weights) -> np.ndarray:
    table = np.zeros(1)
    for weight in weights:
        table = np.concatenate([table, table + weight])
    return table / table[-1]


def _check_scores(scores) -> None:
    if not 1 <= len(scores) <= _MOST_PRIMITIVES:
        raise UserError(
            f"Give scores of 1 to {_MOST_PRIMITIVES} primitives, found {len(scores)}: drop those that "
            f"your search does not use."
        )
    for primitive, score in scores.items():
        real = isinstance(score, int | float | np.floating) and not isinstance(score, bool)
        if not real or not 0 < score < _TOO_LARGE:
            raise UserError(
                f"The score of {primitive} must be a positive finite number, such as an accuracy in "
                f"per cent, found {reprlib.repr(score)}."
            )


_TOO_LARGE = 1e100  # far above any score; sums of such numbers stay finite


@functools.lru_cache(maxsize=1024)
def _edges(genotype: Genotype, names: tuple[str, ...]) -> np.ndarray:
    """The set of primitives on every edge, int64 [cells, edges]."""
    bits = _bits(names)
    genes = [[0] * num_edges(genotype.num_nodes) for _ in genotype.genes]
    for gene, cell in zip(genes, genotype.genes):
        for primitive, node, source in cell:
            gene[edge_index(source, node)] |= _bit(primitive, bits)
    genes = np.array(genes, np.int64)
    return genes if genotype.seq is None else genes[list(genotype.seq)]


@functools.lru_cache(maxsize=1024)
def _distinct_edges(genotype: Genotype, names: tuple[str, ...]) -> np.ndarray:
    """The edges of every cell without repetitions, int64 [cells, largest number in a cell].

    A cell with fewer edges repeats one of its own, which does not change any minimum or maximum.
    """
    cells = [sorted(set(cell)) for cell in _edges(genotype, names).tolist()]
    most = max(len(cell) for cell in cells)
    return np.array([cell + cell[:1] * (most - len(cell)) for cell in cells])


@functools.lru_cache(maxsize=4)
def _bits(names) -> dict[str, int]:
    return {name: 1 << index for index, name in enumerate(names)}


def _bit(primitive, bits) -> int:
    if primitive not in bits:
        raise UserError(
            f"Primitive {primitive!r} has no operation score: there are scores for {', '.join(bits)}."
        )
    return bits[primitive]

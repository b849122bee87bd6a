"""Genotypes, the discrete architectures of networks: parsing, encoding, expansion, storage as JSON.

Nodes 0 and 1 of a cell are its inputs (the outputs of the cell before the last and of the last
one), nodes 2, 3, ... its intermediate nodes. An edge leads from every node to every later
intermediate one.
"""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_text
from ddarts_jax.genotypes.fields import (
    MAX_NODE,
    Cell,
    checked_cell,
    distinct_integers,
    integers,
    is_sequence,
    short,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Genotype:
    """The architecture of a network: the operations of every cell and the order of the cells.

    Lists become tuples, entries are sorted by node; entries of one node keep their order, which has
    no meaning (a node is the sum of its inputs) and does not affect the equality of genotypes.

    Attributes:
        genes: the distinct cells, each a tuple of entries `(primitive, node, source)`.
        reductions: positions of the reduction cells in the network, ascending.
        concat: the nodes whose concatenation is a cell's output.
        seq: for every position in the network the index of its cell in `genes`; None when cell i is
            genes[i].

    Raises:
        UserError: when the fields do not describe a network.
    """

    genes: tuple[Cell, ...]
    reductions: tuple[int, ...]
    concat: tuple[int, ...]
    seq: tuple[int, ...] | None = None

    def __post_init__(self):
        if not is_sequence(self.genes) or not self.genes:
            raise UserError(f"genes must be a non-empty list of cells, found {short(self.genes)}.")
        genes = tuple(
            checked_cell(cell, f"genes[{index}]") for index, cell in enumerate(self.genes)
        )
        seq = None if self.seq is None else integers(self.seq, "seq", range(len(genes)))
        if seq == ():
            raise UserError("seq must name at least one cell; use null where cell i is genes[i].")
        if seq and (unnamed := set(range(len(genes))) - set(seq)):
            raise UserError(
                f"seq must name every cell of genes, but cell {min(unnamed)} does not occur in "
                f"{short(seq)}: leave it out of genes."
            )
        num_cells = len(genes if seq is None else seq)
        reductions = sorted(distinct_integers(self.reductions, "reductions", range(num_cells)))
        concat = distinct_integers(self.concat, "concat", range(2, MAX_NODE))
        if not concat:
            raise UserError("concat must name at least one intermediate node (2 or higher).")
        # A frozen dataclass can only be normalised through object.__setattr__.
        object.__setattr__(self, "genes", genes)
        object.__setattr__(self, "reductions", tuple(reductions))
        object.__setattr__(self, "concat", concat)
        object.__setattr__(self, "seq", seq)

    def _meaning(self):
        return tuple(map(frozenset, self.genes)), self.reductions, self.concat, self.seq

    def __eq__(self, other):
        if not isinstance(other, Genotype):
            return NotImplemented
        return self._meaning() == other._meaning()

    def __hash__(self):
        return hash(self._meaning())

    @property
    def num_nodes(self) -> int:
        """Number of intermediate nodes of a cell, up to the last one that any field names."""
        nodes = (node for cell in self.genes for _, node, _ in cell)
        return max([*nodes, *self.concat]) - 1

    @property
    def num_cells(self) -> int:
        """Number of cells in the network (copies counted)."""
        return len(self.genes if self.seq is None else self.seq)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in the order in which the network runs them."""
        return self.genes if self.seq is None else tuple(self.genes[index] for index in self.seq)

    def to_dict(self) -> dict:
        """The fields in a form that JSON can represent."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, name: str | os.PathLike) -> "Genotype":
        """Returns the genotype that `name` means.

        Args:
            name: the path of a `.json` that `save` wrote, or anything that `lookup.find_genotype`
                knows: the name of a handcrafted or published network, a file of text, or text.

        Raises:
            UserError: when there is no such network or file, or the file does not contain a genotype.

        Example:
            >>> dd.Genotype.load("PC_DARTS_cifar").num_cells
            8
        """
        if Path(name).suffix == ".json":
            return cls._from_json(name)
        from ddarts_jax.genotypes import lookup  # it imports this module

        return lookup.find_genotype(name)

    def expand(self, num_cells: int) -> "Genotype":
        """Returns a deeper network of `num_cells` cells (Algorithm 1); see the function `expand`.

        Example:
            >>> dd.Genotype.load("InceptionV4").expand(20).num_cells
            20
        """
        return expand(self, num_cells)

    @classmethod
    def _from_json(cls, path: str | os.PathLike) -> "Genotype":
        path = Path(path)
        fields = read_json(path, "Genotype file")
        required = {"genes", "reductions", "concat"}
        if not isinstance(fields, dict) or not required <= set(fields) <= required | {"seq"}:
            raise UserError(
                f"Genotype file {path} must hold one JSON object with the keys genes, reductions, "
                f"concat and, where cells repeat, seq; found {short(fields)}."
            )
        try:
            return cls(**fields)
        except UserError as error:
            raise UserError(
                f"Genotype file {path} does not contain a valid genotype: {error}"
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes the genotype as JSON, one entry per line; the file is never seen half-written.

        Raises:
            UserError: when the file cannot be written.
        """
        cells = ",".join(
            "\n    [" + ",".join(f"\n      {json.dumps(entry)}" for entry in cell) + "\n    ]"
            for cell in self.genes
        )
        text = (
            f'{{\n  "genes": [{cells}\n  ],\n  "reductions": {json.dumps(self.reductions)},\n'
            f'  "concat": {json.dumps(self.concat)},\n  "seq": {json.dumps(self.seq)}\n}}\n'
        )
        write_text(path, text)


def edge_index(source: int, node: int) -> int:
    """Index of the edge source -> node; edges are ordered node by node, then by source."""
    return sum(range(2, node)) + source


def num_edges(num_nodes: int) -> int:
    """Number of edges of a cell with `num_nodes` intermediate nodes."""
    return edge_index(0, num_nodes + 2)


def nodes_of_edges(count: int) -> int:
    """Number of intermediate nodes of a cell with `count` edges.

    Raises:
        UserError: no cell has as many edges.
    """
    num_nodes = 1
    while num_edges(num_nodes) < count:
        num_nodes += 1
    if num_edges(num_nodes) != count:
        raise UserError(
            f"There are {count} edges per cell, which no number of nodes has: 1, 2, 3, 4 nodes have "
            f"2, 5, 9, 14 edges."
        )
    return num_nodes


def edges(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """All (source, node) of a cell with `num_nodes` intermediate nodes, in edge order."""
    return tuple((source, node) for node in range(2, num_nodes + 2) for source in range(node))


def incoming_edges(num_nodes: int) -> list[slice]:
    """The places of the edges into each intermediate node, in edge order."""
    return [slice(edge_index(0, node), edge_index(0, node + 1)) for node in range(2, num_nodes + 2)]


def reduction_positions(num_cells: int) -> tuple[int, ...]:
    """Positions of the reduction cells, N // 3 and 2 N // 3 (one position where they coincide)."""
    return tuple(sorted({num_cells // 3, 2 * num_cells // 3}))


def existing_nodes(cell: Cell) -> frozenset[int]:
    """The inputs 0 and 1 and every node with an input from an existing node.

    A node without inputs does not exist: it has no value, so its outgoing edges are dropped.
    """
    exist = {0, 1}
    for _, node, source in cell:  # sorted by node, so every source comes before its readers
        if source in exist:
            exist.add(node)
    return frozenset(exist)


def parse(
    probabilities: np.ndarray,
    primitives: tuple[str, ...],
    method: str,
    threshold: float,
    reductions: tuple[int, ...],
    seq: tuple[int, ...] | None = None,
    *,
    strengths: np.ndarray | None = None,
) -> Genotype:
    """Derives the discrete architecture from the probabilities of the candidate primitives.

    Methods (D-DARTS paper, architecture derivation):

    - sparse: for each node the 2 incoming edges with the largest best probability, on each its
      best primitive if it reaches the threshold. Ties: the earlier source, the earlier
      primitive.
    - edge: on every edge the best 2 primitives that reach the threshold, the lower one first.
      Ties: the later primitive (the last two of a stable ascending sort).
    - complete: every primitive that reaches the threshold.
    - darts: like sparse, without a threshold.

    Args:
        probabilities: float [distinct cells, edges, primitives], finite.
        primitives: names of the candidate primitives, in the order of the last axis.
        method: 'sparse', 'edge', 'complete' or 'darts'.
        threshold: lowest probability that is kept; unused by 'darts'.
        reductions: positions of the reduction cells in the network.
        seq: indices of the distinct cells in network order; None when every cell is distinct.
        strengths: float [distinct cells, edges] by which edges are ranked too (PC-DARTS): the methods
            'sparse' and 'darts' multiply them with an edge's best probability before they choose two. A
            threshold applies to the probability alone. None: all edges are equally strong.

    Returns:
        The genotype; its cells concatenate all their intermediate nodes.

    Raises:
        UserError: when the shapes do not fit, a probability is not finite or the method is unknown.
    """
    probabilities = np.asarray(probabilities)
    num_nodes = _check_probabilities(probabilities, primitives)
    if method not in _PARSE_CELL:
        raise UserError(f"Unknown parsing method {method!r}: use one of {', '.join(_PARSE_CELL)}.")
    if strengths is None:
        strengths = np.ones(probabilities.shape[:2], probabilities.dtype)
    if np.shape(strengths) != probabilities.shape[:2] or not np.isfinite(strengths).all():
        raise UserError(
            f"Strengths of edges must be finite and of the shape {probabilities.shape[:2]}, found the "
            f"shape {np.shape(strengths)}."
        )
    genes = tuple(
        tuple(
            (primitives[o], node, source)
            for node, edges_in in enumerate(incoming_edges(num_nodes), 2)
            for source, o in _PARSE_CELL[method](cell[edges_in], float(threshold), strong[edges_in])
        )
        for cell, strong in zip(probabilities, strengths)
    )
    return Genotype(genes, reductions, tuple(range(2, num_nodes + 2)), seq)


def encode(genotype: Genotype, primitives: tuple[str, ...], strength: float) -> np.ndarray:
    """Writes a genotype as alphas, from which a search can start (DARTOpti).

    The inverse of `parse`: method 'complete' with any threshold between the probabilities
    sigmoid(-strength) and sigmoid(strength) gives the genotype back, if it concatenates all nodes.

    Args:
        genotype: the network.
        primitives: names of the candidate primitives, in the order of the last axis.
        strength: the alphas of the genotype's primitives; those of all others are its negative.

    Returns:
        float32 [distinct cells, edges, primitives].

    Raises:
        UserError: the genotype has a primitive that is not among the candidates.
    """
    alphas = np.full(
        (len(genotype.genes), num_edges(genotype.num_nodes), len(primitives)), -strength, np.float32
    )
    for index, cell in enumerate(genotype.genes):
        for primitive, node, source in cell:
            if primitive not in primitives:
                raise UserError(
                    f"Cell {index} of the genotype has the primitive {primitive!r}, which is not "
                    f"among the candidates: {', '.join(primitives)}."
                )
            alphas[index, edge_index(source, node), primitives.index(primitive)] = strength
    return alphas


def expand(genotype: Genotype, num_cells: int) -> Genotype:
    """Deepens a network to `num_cells` cells by repeating normal ones (D-DARTS paper, Algorithm 1).

    The reduction cells move to a third and two thirds of the new depth; each stretch of normal
    cells before, between and after them repeats the given cells of that stretch in order. 8 cells
    become 14 as 0 1 0 1 | 2 | 3 4 3 4 | 5 | 6 7 6 7.

    Where all normal cells are one and all reductions are one, as in DARTS, any depth is possible, a
    smaller one too.

    Returns:
        The deeper genotype: `genes` repeated in the new order, or, where cells already share
        (`seq` is given), the same `genes` and a longer `seq`. An equal genotype when nothing moves.

    Raises:
        UserError: when the network would shrink or lose a cell, has not exactly two reductions, or has
            no cell to fill a stretch with.
    """
    if num_cells > 0 and (kinds := _two_kinds(genotype)):
        new = reduction_positions(num_cells)
        return _reordered(genotype, [kinds[place in new] for place in range(num_cells)], new)
    if num_cells < genotype.num_cells:
        raise UserError(
            f"Cannot expand a genotype of {genotype.num_cells} cells to {num_cells}: "
            f"ask for at least {genotype.num_cells} cells."
        )
    if len(genotype.reductions) != 2:
        raise UserError(
            f"Only a genotype with exactly two reduction cells can be expanded, this one has "
            f"{len(genotype.reductions)}: keep its {genotype.num_cells} cells."
        )
    old, new = genotype.reductions, reduction_positions(num_cells)
    seq = range(genotype.num_cells) if genotype.seq is None else genotype.seq
    order = []
    for (start, stop), length in zip(
        _stretches(old, genotype.num_cells),
        (stop - start for start, stop in _stretches(new, num_cells)),
    ):
        if length and start == stop:
            raise UserError(
                f"Cannot expand to {num_cells} cells: with reductions at {old[0]} and {old[1]} of "
                f"{genotype.num_cells} cells the stretch of normal cells that begins at {start} is "
                f"empty, but {length} are needed there."
            )
        order += [seq[start + i % (stop - start)] for i in range(length)]
        order += [seq[stop]] if stop < genotype.num_cells else []
    lost = sorted(set(seq) - set(order))
    if lost and genotype.seq is None:  # a shared one may lose its place
        raise UserError(
            f"Cannot expand to {num_cells} cells: with reductions at {old[0]} and {old[1]} of "
            f"{genotype.num_cells} cells there would be no place for cell {lost[0]}: ask for more cells."
        )
    if genotype.seq is None:
        genes = tuple(genotype.genes[index] for index in order)
        return dataclasses.replace(genotype, reductions=new, genes=genes)
    return _reordered(genotype, order, new)


def _two_kinds(genotype) -> tuple[int, int] | None:
    """Indices of the one normal and the one reduction cell of a network arranged as DARTS does."""
    places = reduction_positions(genotype.num_cells)
    if genotype.seq is None or genotype.reductions != places:
        return None
    reductions = {genotype.seq[place] for place in places}
    normal = {index for place, index in enumerate(genotype.seq) if place not in places}
    return (*normal, *reductions) if len(normal) == len(reductions) == 1 else None


def _reordered(genotype, order, reductions):
    """The network whose cells are `genes[index]` for the indices in `order`, which stay shared."""
    used = sorted(set(order))
    genes = tuple(genotype.genes[index] for index in used)
    seq = tuple(used.index(index) for index in order)
    return dataclasses.replace(genotype, genes=genes, reductions=reductions, seq=seq)


def _stretches(reductions, num_cells):
    """The (start, stop) of the normal cells before, between and after two reduction cells."""
    first, second = reductions
    return (0, first), (first + 1, second), (second + 1, num_cells)


def _best_edges(probabilities, threshold, strengths):
    best = probabilities.max(axis=1)
    sources = np.argsort(-best * strengths, kind="stable")[:2]
    return [(int(i), int(probabilities[i].argmax())) for i in sources if best[i] >= threshold]


def _best_two_primitives(probabilities, threshold, strengths):
    return [
        (source, int(o))
        for source, edge in enumerate(probabilities)
        for o in np.argsort(edge, kind="stable")[-2:]
        if edge[o] >= threshold
    ]


def _all_primitives(probabilities, threshold, strengths):
    return [(int(source), int(o)) for source, o in np.argwhere(probabilities >= threshold)]


# Each maps a node's probabilities [sources, primitives], strengths [sources] to (source, primitive)s.
_PARSE_CELL = {
    "sparse": _best_edges,
    "edge": _best_two_primitives,
    "complete": _all_primitives,
    "darts": lambda probabilities, _, strengths: _best_edges(probabilities, -math.inf, strengths),
}


def _check_probabilities(probabilities, primitives):
    """Returns the number of intermediate nodes."""
    if probabilities.ndim != 3 or probabilities.dtype.kind not in "fi":
        raise UserError(
            f"Probabilities must be a real array [cells, edges, primitives], found "
            f"{probabilities.dtype} of shape {probabilities.shape}."
        )
    _, edge_count, primitive_count = probabilities.shape
    if primitive_count != len(primitives) or not primitives:
        raise UserError(
            f"Probabilities of shape {probabilities.shape} do not fit {len(primitives)} "
            f"primitives: the last axis must have one entry for each."
        )
    num_nodes = nodes_of_edges(edge_count)
    if not np.isfinite(probabilities).all():
        cell, edge, o = np.argwhere(~np.isfinite(probabilities))[0]
        raise UserError(
            f"The probability of {primitives[o]} on edge {edge} of cell {cell} is "
            f"{probabilities[cell, edge, o]}: the search has diverged, parse an earlier epoch."
        )
    return num_nodes

"""The outline of what a search will find: cells, nodes and reductions, as the config tells them."""

from typing import Any

from ddarts_jax.configuration import options_of
from ddarts_jax.genotypes.genotype import Genotype, reduction_positions
from ddarts_jax.genotypes.spaces import SKIP
from ddarts_jax.searching import methods


def shared(settings) -> bool:
    """Whether the method has one architecture for all normal cells and one for the reduction cells."""
    return methods.find(settings.method).share_cells(options_of(settings))


def structure(settings, num_cells: int, start: Genotype | None = None) -> dict[str, Any]:
    """Returns the arguments of `supernet.build` for cells and nodes.

    Args:
        settings: section `search` of the config.
        num_cells: number of cells without a start.
        start: the network that the search starts from, which defines them.
    """
    if start is not None:
        return {
            "num_cells": start.num_cells,
            "num_nodes": start.num_nodes,
            "reductions": start.reductions,
            "seq": start.seq,
        }
    reductions, seq = reduction_positions(num_cells), None
    if shared(settings):
        kinds = [position in reductions for position in range(num_cells)]
        # Of one or two cells all are reductions.
        seq = [sorted(set(kinds)).index(kind) for kind in kinds]
    return {
        "num_cells": num_cells,
        "num_nodes": settings.num_nodes,
        "reductions": reductions,
        "seq": seq,
    }


def genotype(settings, start: Genotype | None = None) -> Genotype:
    """Returns a genotype of the cells that the search will find, full of skip connections.

    Args:
        settings: section `search` of the config.
        start: see `structure`.
    """
    cells = structure(settings, settings.num_cells, start)
    nodes = range(2, 2 + cells["num_nodes"])
    cell = [(SKIP, node, source) for node in nodes for source in (0, 1)]
    distinct = 1 + max(cells["seq"] or range(cells["num_cells"]))
    return Genotype([cell] * distinct, cells["reductions"], tuple(nodes), cells["seq"])

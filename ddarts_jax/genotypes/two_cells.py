"""Genotypes of the DARTS family: one normal cell and one reduction cell, repeated over the network.

Liu et al. 2019 and the methods after it publish `Genotype(normal, normal_concat, reduce, reduce_concat)`.
Their network has any number of cells, with reductions at a third and two thirds of the depth.
"""

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.fields import (
    MAX_NODE,
    Cell,
    checked_cell,
    distinct_integers,
    is_sequence,
    short,
)
from ddarts_jax.genotypes.genotype import Genotype, existing_nodes, reduction_positions

NUM_CELLS = 8  # of the supernets in which these cells are searched; `expand` gives other depths


def combine(normal, normal_concat, reduce, reduce_concat) -> Genotype:
    """Returns the network of 8 cells that repeats two cells, reductions at 2 and 5.

    Args:
        normal: the normal cell in any of the forms in use: pairs (primitive, source), two for each
            node in turn (DARTS); a list of such pairs for each node; triples (primitive, node,
            source) (FairDARTS); or pairs with a weight behind them, which is not used (GDAS).
        normal_concat: the nodes that it concatenates.
        reduce: the reduction cell.
        reduce_concat: its likewise.

    Returns:
        A genotype whose `genes` are the two cells and whose `seq` shares them. `none`, which adds
        nothing to its node, is left out.

    Raises:
        UserError: a cell has none of these forms; or it computes what a `Genotype` cannot express: a
            primitive twice between the same nodes, a node that adds up nothing but `none`, or a
            concatenation that leaves out a node with inputs.
    """
    genes = _cell(normal, normal_concat, "normal"), _cell(reduce, reduce_concat, "reduce")
    named = [node for cell in genes for _, node, _ in cell] + [*normal_concat, *reduce_concat]
    places = reduction_positions(NUM_CELLS)
    seq = [int(place in places) for place in range(NUM_CELLS)]
    return Genotype(genes, places, range(2, max(named, default=2) + 1), seq)


def _cell(entries, concat, name: str) -> Cell:
    """The entries of one cell, if its network would concatenate the nodes `concat`."""
    written = checked_cell(_triples(entries, name), name)
    cell = tuple(entry for entry in written if entry[0] != "none")
    empty = {node for _, node, _ in written} - {node for _, node, _ in cell}
    if empty:
        raise UserError(
            f"Node {min(empty)} of {name} adds up nothing but 'none', but a node without inputs does "
            f"not exist in a Genotype: leave the node out, or give it another primitive."
        )
    concat = distinct_integers(concat, f"{name}_concat", range(2, MAX_NODE))
    left_out = existing_nodes(cell) - {0, 1, *concat}
    if left_out:
        raise UserError(
            f"{name}_concat leaves out node {min(left_out)}, but a cell here concatenates all of its "
            f"nodes that have inputs, so this network cannot be expressed as a Genotype."
        )
    return cell


def _triples(entries, name: str) -> list[tuple]:
    """The entries as (primitive, node, source), from any of the forms of `combine`."""
    if not is_sequence(entries):
        raise UserError(f"{name} must be a list of (primitive, source), found {short(entries)}.")
    if entries and all(is_sequence(group) and _is_list_of_entries(group) for group in entries):
        groups = [[_without_weight(entry) for entry in group] for group in entries]
    else:
        entries = [_without_weight(entry) for entry in entries]
        if not any(is_sequence(entry) and len(entry) == 2 for entry in entries):
            return entries
        if len(entries) % 2:
            raise UserError(
                f"{name} must have two pairs (primitive, source) for each node, found {len(entries)}."
            )
        groups = [entries[start : start + 2] for start in range(0, len(entries), 2)]
    triples = []
    for node, group in enumerate(groups, 2):
        for entry in group:
            if not is_sequence(entry) or len(entry) != 2:
                raise UserError(
                    f"{name} must contain pairs (primitive, source), found {short(entry)}."
                )
            triples.append((entry[0], node, entry[1]))
    return triples


def _is_list_of_entries(group) -> bool:
    return bool(group) and all(is_sequence(entry) for entry in group)


def _without_weight(entry):
    """(primitive, source) of (primitive, source, weight), anything else as it is."""
    weighted = is_sequence(entry) and len(entry) == 3 and isinstance(entry[2], float)
    return tuple(entry[:2]) if weighted else entry

"""The fields of a genotype: their types, and checks of what a user or a file gives for them."""

import collections
import operator
import reprlib

import numpy as np

from ddarts_jax.errors import UserError

Entry = tuple[str, int, int]  # (primitive, node, source): node += primitive(source)
Cell = tuple[Entry, ...]

MAX_NODE = 1000  # far above any cell; prevents a corrupt file from requesting billions of nodes

short = reprlib.repr  # truncated, so that a hostile file cannot flood the message


def checked_cell(cell, name: str) -> Cell:
    """Returns the entries of a cell, sorted by node; those of one node keep their order.

    Args:
        cell: anything; it should be a list of `(primitive, node, source)`.
        name: of the cell, which begins the messages, such as "genes[0]".

    Raises:
        UserError: it is no such list, or names an entry twice.
    """
    if not is_sequence(cell):
        raise UserError(f"{name} must be a list of entries, found {short(cell)}.")
    entries = []
    for entry in cell:
        where = f"{name} contains {short(entry)}"
        if not is_sequence(entry) or len(entry) != 3:
            raise UserError(f"{where}, but an entry is (primitive, node, source).")
        primitive, *ends = entry
        if not isinstance(primitive, str) or not primitive or not primitive.isprintable():
            raise UserError(f"{where}, but a primitive is a name.")
        node, source = integers(ends, f"{where}: node, source", range(MAX_NODE))
        if node < 2 or source >= node:
            raise UserError(f"{where}, but node must be at least 2 and source less than node.")
        entries.append((primitive, node, source))
    if len(set(entries)) < len(entries):
        twice, _ = collections.Counter(entries).most_common(1)[0]
        raise UserError(f"{name} contains an entry twice: {short(twice)}.")
    return tuple(sorted(entries, key=operator.itemgetter(1)))


def integers(values, name: str, allowed: range) -> tuple[int, ...]:
    """Returns a list of integers that are all in `allowed` as a tuple.

    Raises:
        UserError: it is something else; the message begins with `name`.
    """
    if not is_sequence(values):
        raise UserError(f"{name} must be a list of integers, found {short(values)}.")
    for value in values:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise UserError(f"{name} must contain integers only, found {short(value)}.")
        if value not in allowed:
            raise UserError(
                f"{name} must be between {allowed.start} and {allowed.stop - 1}, "
                f"found {short(value)}."
            )
    return tuple(int(value) for value in values)


def distinct_integers(values, name: str, allowed: range) -> tuple[int, ...]:
    """Returns a list of different integers that are all in `allowed` as a tuple.

    Raises:
        UserError: it is something else; the message begins with `name`.
    """
    found = integers(values, name, allowed)
    if len(set(found)) < len(found):
        raise UserError(f"{name} contains a number twice: {short(values)}.")
    return found


def is_sequence(value) -> bool:
    """Whether it is a list, a tuple or a range."""
    return isinstance(value, list | tuple | range)

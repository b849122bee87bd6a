"""What has no effect on a network's answer, against values that carry what they came through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddarts_jax.genotypes import effect
from ddarts_jax.genotypes.genotype import Genotype

_ENTRIES = st.integers(2, 5).flatmap(
    lambda node: st.tuples(st.just("a"), st.just(node), st.integers(0, node - 1))
)
_CELLS = st.lists(st.lists(_ENTRIES, min_size=1, max_size=8, unique=True), min_size=1, max_size=5)


def through(genotype):
    """The operations, as (position, entry), that the output of the last cell came through.

    Computed forwards, as a network computes its answer.
    """
    outputs = [frozenset(), frozenset()]
    for position, cell in enumerate(genotype.cells):
        states = dict(enumerate(outputs[-2:]))
        for node in range(2, 6):
            read = [entry for entry in cell if entry[1] == node and entry[2] in states]
            if read:
                own = {(position, entry) for entry in read}
                states[node] = own.union(*(states[source] for _, _, source in read))
        outputs.append(frozenset().union(*(states[node] for node in states if node > 1)))
    return outputs[-1]


@settings(max_examples=50)
@given(_CELLS)
def test_the_rest_is_what_the_answer_came_through(genes):
    """Working entries of the cells that are read, and no others."""
    genotype = Genotype(genes, [], [2])
    unread = effect.unread_cells(genotype)
    assert through(genotype) == {
        (position, entry)
        for position, cell in enumerate(genotype.cells)
        for entry in effect.working(cell)
        if position not in unread
    }


@pytest.mark.parametrize(
    "genotype, expected",
    [
        (Genotype([[("a", 2, 0)]], [], [2], [0] * 5), (1, 3)),
        (Genotype([[("a", 2, 1)]], [], [2], [0] * 5), ()),
        (Genotype([[("a", 2, 1)], []], [], [2]), (0,)),
    ],
)
def test_cells_that_are_passed_over(genotype, expected):
    """Counted from the last cell, which alone is read for certain."""
    assert effect.unread_cells(genotype) == expected


def test_it_is_said_in_a_sentence_each():
    """A genotype without such parts has none."""
    idle, unread = effect.without_effect(
        Genotype([[("a", 3, 0), ("a", 4, 2)], [("a", 2, 0)], [("a", 2, 0)]], [], [2, 3])
    )
    assert idle.startswith("1 operation is without effect and left out here")
    assert unread.startswith("No later cell reads the output of cell 1, left out here")
    assert effect.without_effect(Genotype([[("a", 2, 1)]], [], [2])) == []

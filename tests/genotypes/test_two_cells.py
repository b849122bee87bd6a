"""Two cells of the DARTS family as a network."""

import pytest

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.two_cells import combine

POOLS = [("max_pool_3x3", 0), ("max_pool_3x3", 1)]
TWO_NODES = [("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_5x5", 2), ("skip_connect", 0)]
TRIPLES = (
    *(("skip_connect", 2, 0), ("sep_conv_3x3", 2, 1)),
    *(("sep_conv_5x5", 3, 2), ("skip_connect", 3, 0)),
)


@pytest.mark.parametrize(
    "cell",
    [
        TWO_NODES,
        [TWO_NODES[:2], TWO_NODES[2:]],
        [(*pair, 0.25) for pair in TWO_NODES],
        [list(entry) for entry in TRIPLES],
    ],
    ids=["pairs", "by node", "weights", "triples"],
)
def test_every_form_of_a_cell_is_the_same_cell(cell):
    """The four ways in which programs write it; 8 cells, of which 2 and 5 are reductions."""
    expected = Genotype(
        (TRIPLES, (("max_pool_3x3", 2, 0), ("max_pool_3x3", 2, 1))),
        (2, 5),
        (2, 3),
        (0, 0, 1, 0, 0, 1, 0, 0),
    )
    assert combine(cell, [2, 3], POOLS, range(2, 3)) == expected


def test_nodes_may_have_any_number_of_inputs():
    """Named by triples (FairDARTS), or listed by node; a node without inputs may be concatenated."""
    triples = [("skip_connect", 2, 0), ("sep_conv_3x3", 4, 1)]
    genotype = combine(triples, range(2, 6), [[POOLS[0]], [POOLS[1], POOLS[0]]], (2, 3))
    assert genotype.genes[0] == tuple(triples)
    assert genotype.genes[1] == (
        *(("max_pool_3x3", 2, 0), ("max_pool_3x3", 3, 1), ("max_pool_3x3", 3, 0)),
    )
    assert genotype.concat == (2, 3, 4, 5)


def test_none_adds_nothing():
    """An edge of 'none' is left out; a node that has no other edge has no counterpart here."""
    with_none = [("skip_connect", 0), ("none", 1)]
    genotype = combine(with_none, [2], POOLS, [2])
    assert genotype.genes[0] == (("skip_connect", 2, 0),)
    with pytest.raises(UserError, match="Node 2 of normal adds up nothing but 'none'"):
        combine([("none", 0), ("none", 1)], [2], POOLS, [2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TWO_NODES, [3], POOLS, [2]), "normal_concat leaves out node 2, .* cannot be expressed"),
        ((POOLS, [2], TWO_NODES, [2]), "reduce_concat leaves out node 3"),
        (([POOLS[0]] * 2, [2], POOLS, [2]), "normal contains an entry twice"),
        ((TWO_NODES[:3], [2], POOLS, [2]), "normal must have two pairs .* found 3"),
        ((TWO_NODES, [2, 3], 7, [2]), r"reduce must be a list of \(primitive, source\), found 7"),
        (([POOLS, [("skip_connect",)]], [2, 3], POOLS, [2]), "normal must contain pairs"),
        (([*POOLS, ("a", 2, 0), "b"], [2], POOLS, [2]), "normal must contain pairs"),
        ((POOLS, [1, 2], POOLS, [2]), "normal_concat must be between 2 and"),
        ((POOLS, {2}, POOLS, [2]), "normal_concat must be a list of integers"),
    ],
)
def test_what_cannot_be_expressed_is_refused(arguments, message):
    """The message names the cell."""
    with pytest.raises(UserError, match=message):
        combine(*arguments)

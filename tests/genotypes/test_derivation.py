"""Derivations of DARTS, PC-DARTS, P-DARTS and DOTS: by hand, and equal to the public programs'."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import parse
from ddarts_jax.genotypes.spaces import DARTS_PRIMITIVES
from ddarts_jax.genotypes.text import parse_genotype

CANDIDATES = ("none", *DARTS_PRIMITIVES)
PLACES = (2, 5), (0, 0, 1, 0, 0, 1, 0, 0)  # of the two cells that a program prints


@functools.cache
def cases(key):
    """What the public programs derived from random parameters, where it is at hand."""
    path = tiny.SHARED / "methods" / "parsing.json"
    if not path.is_file():
        pytest.skip("needs the developers' parsing.json")
    return json.loads(path.read_text())[key]


def test_darts_equals_its_program():
    """Eight candidates, `none` among them."""
    for case in cases("darts"):
        found = derivation.darts(case["alphas"], CANDIDATES, *PLACES)
        assert found == parse_genotype(case["genotype"])


def test_pc_darts_equals_its_program():
    """Edges are ranked with their strengths."""
    for case in cases("pc_darts"):
        found = derivation.pc_darts(case["alphas"], case["betas"], CANDIDATES, *PLACES)
        assert found == parse_genotype(case["genotype"])


def test_p_darts_equals_its_program():
    """Three candidates an edge, without a limit of skip connections and with every lower one."""
    for case in cases("p_darts")["cases"]:
        alphas = [case["alphas_normal"], case["alphas_reduce"]]
        kept = [case["switches_normal"], case["switches_reduce"]]
        derive = functools.partial(derivation.p_darts, alphas, kept, CANDIDATES, *PLACES)
        assert derive() == parse_genotype(case["genotype"])
        for limit, genotype in case["by_max_skips"].items():
            assert derive(max_skips=int(limit)) == parse_genotype(genotype)


def test_p_darts_prunes_as_its_program():
    """From 8 to 5 and from 5 to 3 candidates an edge."""
    for case in cases("p_darts")["prune"]:
        after = derivation.prune([case["alphas"]], [case["before"]], case["drop"])
        np.testing.assert_array_equal(after, [np.array(case["after"], bool)])


def test_dots_equals_its_program():
    """Both derivations: of the operations from two groups, of the topology from pairs of edges."""
    for case in cases("dots"):
        normal, more_normal, reduce, more_reduce = case["group_alphas"]
        groups = [normal, reduce], [more_normal, more_reduce]
        found = derivation.dots_operations(groups, CANDIDATES, *PLACES)
        assert found == parse_genotype(case["genotype_operations"])
        found = derivation.dots_topology(
            case["balance"], case["masks"], case["betas"], CANDIDATES, *PLACES
        )
        assert found == parse_genotype(case["genotype"])

        # The same by the rule of the config, which knows shares and betas only.
        rule = SimpleNamespace(method="pairs", threshold=0.85, max_skips=-1)
        shares = np.full((2, 14, 8), derivation.DROPPED)
        shares[np.array(case["masks"], bool)] = derivation.softmax(
            np.array(case["balance"])
        ).ravel()
        found = derivation.by_rule(
            *(rule, shares[..., 1:], DARTS_PRIMITIVES, *PLACES), betas=case["betas"]
        )
        assert found == parse_genotype(case["genotype"])
        shares = np.concatenate(groups, -1)
        shares = derivation.softmax_in_groups(shares, CANDIDATES)[..., 1:]
        found = derivation.by_rule(rule, shares, DARTS_PRIMITIVES, *PLACES)
        assert found == parse_genotype(case["genotype_operations"])


# By hand: one cell of two nodes, edges 0->2, 1->2, 0->3, 1->3, 2->3.
NAMES = ("none", "skip_connect", "conv")


def entries(genotype):
    (cell,) = genotype.genes
    return set(cell)


def test_none_takes_its_share_but_is_never_chosen():
    """An edge that is mostly `none` loses its place to one whose best primitive is weaker by itself."""
    alphas = np.log([[[1, 2, 1], [6, 1, 3], [90, 8, 2], [1, 3, 6], [5, 2, 3]]])
    found = derivation.darts(alphas, NAMES, ())
    assert entries(found) == {
        *(("skip_connect", 2, 0), ("conv", 2, 1)),
        *(("conv", 3, 1), ("conv", 3, 2)),
    }


def test_strengths_of_edges_change_the_ranking_alone():
    """The edge of the largest beta is kept; its primitive is still the best of its alphas."""
    alphas = np.log([[[1, 2, 1], [1, 1, 3], [1, 8, 1], [1, 1, 8], [5, 2, 3]]])
    betas = np.log([[1, 1, 1, 2, 97]])
    found = derivation.pc_darts(alphas, betas, NAMES, ())
    assert entries(found) == {
        *(("skip_connect", 2, 0), ("conv", 2, 1)),
        *(("conv", 3, 1), ("conv", 3, 2)),
    }


def test_the_weakest_skip_gives_way():
    """Its edge keeps its place only if its next primitive still ranks among the two best."""
    alphas = np.log([[[1, 7, 2], [1, 5, 4], [1, 1, 2], [1, 3, 6], [1, 6, 3]]])
    kept = np.ones((1, 5, 3), bool)
    derive = functools.partial(derivation.p_darts, alphas, kept, NAMES, ())
    skips = {("skip_connect", 2, 0), ("skip_connect", 2, 1), ("skip_connect", 3, 2)}
    assert entries(derive()) == {*skips, ("conv", 3, 1)}
    two = {("skip_connect", 2, 0), ("skip_connect", 3, 2), ("conv", 2, 1), ("conv", 3, 1)}
    assert entries(derive(max_skips=2)) == two
    one = {("skip_connect", 2, 0), ("conv", 2, 1), ("conv", 3, 0), ("conv", 3, 1)}
    assert entries(derive(max_skips=1)) == one
    reduction = functools.partial(derivation.p_darts, alphas, kept, NAMES, (0,))
    assert reduction(max_skips=0) == reduction(), "only normal cells are limited"


def test_only_kept_candidates_are_derived():
    """Also where a skip is all that an edge has kept: then it stays, whatever the limit."""
    kept = np.zeros((1, 2, 3), bool)
    kept[0, :, 1] = True
    found = derivation.p_darts(np.zeros((1, 2, 1)), kept, NAMES, (), max_skips=0)
    assert entries(found) == {("skip_connect", 2, 0), ("skip_connect", 2, 1)}


def test_prune_by_hand():
    """The weakest falls, and what was dropped before stays out; of equal ones the first falls."""
    kept = [[[1, 0, 1, 1], [1, 1, 1, 0]]]
    after = derivation.prune([[[3, 1, 2], [0, 0, 0]]], kept, 1)
    assert after.astype(int).tolist() == [[[1, 0, 0, 1], [0, 1, 1, 0]]]


def test_the_best_pair_of_edges():
    """Not the two best edges: here the pair (0, 2) of node 3; `none` leaves the other candidate."""
    balance = np.array([[[1, 0], [0, 1], [1, 0], [9, 0], [0, 1]]], float)
    kept = np.array([[[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1]]], bool)
    betas = np.array([[0, 0.3, 0.4, 0.2]])  # (0, 1) of node 2; (0, 1), (0, 2), (1, 2) of node 3
    found = derivation.dots_topology(balance, kept, betas, NAMES, ())
    assert entries(found) == {
        *(("skip_connect", 2, 0), ("conv", 2, 1)),
        *(("skip_connect", 3, 0), ("conv", 3, 2)),
    }


def test_the_best_pair_of_edges_with_sigmoids():
    """Where candidates do not compete the betas choose the edges too, and no threshold is in force."""
    names = NAMES[1:]
    probabilities = np.array([[[0.9, 0.8], [0.1, 0.2], [0.3, 0.05], [0.99, 0.9], [0.1, 0.4]]])
    betas = np.array([[-5, 0.3, 0.4, 0.2]])  # as above
    rule = SimpleNamespace(method="pairs", threshold=0.85, max_skips=-1)
    found = derivation.by_rule(rule, probabilities, names, (), betas=betas)
    assert entries(found) == {
        *(("skip_connect", 2, 0), ("conv", 2, 1)),
        *(("skip_connect", 3, 0), ("conv", 3, 2)),
    }


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_without_none_darts_is_the_rule_of_parse(num_nodes, seed):
    """One group, equal betas and all candidates kept change nothing either."""
    names = NAMES[1:]
    shape = 2, num_nodes * (num_nodes + 3) // 2, 2
    alphas = np.random.default_rng(seed).normal(size=shape)
    odds = np.exp(alphas)
    expected = parse(odds / odds.sum(-1, keepdims=True), names, "darts", 0.0, (1,))
    assert derivation.darts(alphas, names, (1,)) == expected
    assert derivation.pc_darts(alphas, np.zeros(shape[:2]), names, (1,)) == expected
    assert derivation.p_darts(alphas, np.ones(shape, bool), names, (1,)) == expected
    assert derivation.dots_operations([alphas], names, (1,)) == expected


ALPHAS, KEPT = np.zeros((1, 5, 3)), np.ones((1, 5, 3), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: derivation.darts(ALPHAS[0], NAMES, ()), r"must be \[cells, edges, 3 primitives\]"),
        (lambda: derivation.darts(ALPHAS, NAMES[1:], ()), "2 primitives"),
        (lambda: derivation.darts(ALPHAS[:, :3], NAMES, ()), "3 edges per cell, which no number"),
        (lambda: derivation.darts(ALPHAS + np.nan, NAMES, ()), "alphas are not all finite"),
        (lambda: derivation.pc_darts(ALPHAS, [[0] * 4], NAMES, ()), r"betas must have .*\(1, 5\)"),
        (lambda: derivation.p_darts(ALPHAS, KEPT[..., :2], NAMES, ()), "kept must be"),
        (lambda: derivation.p_darts(ALPHAS, np.tri(5, 3)[None], NAMES, ()), "same number of cand"),
        (lambda: derivation.prune(ALPHAS, KEPT, 3), "Cannot drop 3 of 3 candidates"),
        (lambda: derivation.dots_topology(ALPHAS, KEPT, [[0] * 3], NAMES, ()), r"betas .*\(1, 4\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, message):
    """The message names the array, and what it should be."""
    with pytest.raises(UserError, match=message):
        call()

"""How the methods of the DARTS family derive a genotype from their architecture parameters.

Pure functions of arrays, by the definitions of the public programs of DARTS (Liu et al. 2019), PC-DARTS
(Xu et al. 2020), P-DARTS (Chen et al. 2019) and DOTS (Gu et al. 2021). The rule that all of them share,
the best primitive on each of a node's two best edges, is `genotype.parse` with method 'darts'; what
differs is what ranks edges and primitives. The candidate `none` takes its share of a softmax, but it is
never chosen, and no edge is ranked by it.

The arrays have the distinct cells on their first axis, and edges in the order of `genotype.edges`. The
arguments `reductions` and `seq` are those of `Genotype`.
"""

import itertools

import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import (
    Genotype,
    edge_index,
    incoming_edges,
    nodes_of_edges,
    parse,
)
from ddarts_jax.genotypes.spaces import NONE, SKIP, WEIGHTLESS

DROPPED = -1.0  # below any probability: a candidate that is no longer there
# DOTS: the temperature between the two candidates that an edge has left, where that between pairs is 1.
BALANCE_TEMPERATURE = 1e-3


def by_rule(
    rule, probabilities, primitives, reductions, seq=None, *, strengths=None, betas=None
) -> Genotype:
    """Derives a genotype as a config says.

    Args:
        rule: section `parse` of the config: method, threshold, max_skips.
        probabilities: float [distinct cells, E, O], `DROPPED` where a candidate is no longer there.
        primitives: names of the O candidates.
        reductions: positions of the reduction cells.
        seq: indices of the distinct cells in network order; None when every cell is distinct.
        strengths: see `genotype.parse`.
        betas: see `dots_topology`; by 'pairs' they alone choose a node's two edges, each of which keeps
            its most probable primitive, however improbable. Without them 'pairs' is 'darts'.

    Raises:
        UserError: see `genotype.parse`.
    """
    method, threshold = rule.method, rule.threshold
    if method == "pairs" and betas is not None:
        probabilities = _of_best_pairs(probabilities, betas)
    # 'sparse' is 'darts' with a threshold, here one that is below all but what was dropped.
    if method in ("darts", "pairs"):
        method, threshold = "sparse", 0.0

    def derive(probabilities):
        return parse(
            *(probabilities, primitives, method, threshold, reductions, seq), strengths=strengths
        )

    return with_few_skips(probabilities, primitives, rule.max_skips, derive)


def darts(alphas, primitives, reductions, seq=None) -> Genotype:
    """DARTS, DARTS- and beta-DARTS: rank by the softmax over all candidates of an edge.

    Args:
        alphas: float [distinct cells, E, O].
        primitives: names of the O candidates, `none` among them or not.
        reductions: positions of the reduction cells.
        seq: indices of the distinct cells in network order; None when every cell is distinct.

    Raises:
        UserError: the arrays do not fit each other, or an alpha is not finite.
    """
    return _best(softmax(_checked(alphas, primitives)), primitives, reductions, seq)


def pc_darts(alphas, betas, primitives, reductions, seq=None) -> Genotype:
    """PC-DARTS: the softmax over an edge times its strength, a softmax over the edges into its node.

    Args:
        alphas: see `darts`, as for the other arguments.
        betas: float [distinct cells, E].

    Raises:
        UserError: see `darts`.
    """
    alphas = _checked(alphas, primitives)
    betas = _fitting("betas", betas, alphas.shape[:2])
    return _best(softmax(alphas) * strengths(betas)[..., None], primitives, reductions, seq)


def p_darts(alphas, kept, primitives, reductions, seq=None, max_skips=-1) -> Genotype:
    """P-DARTS: DARTS's rule among the candidates that are left, with a limit on skip connections.

    While a normal cell has more of them, the weakest that was chosen is taken from its edge, and the
    rule is applied again.

    Args:
        alphas: float [distinct cells, E, K] of the K candidates that are left on every edge.
        kept: bool [distinct cells, E, O], which these are.
        primitives: see `darts`, as for the other arguments.
        max_skips: skip connections that a normal cell may have; -1: any number.

    Raises:
        UserError: see `darts`; or an edge does not keep K candidates.
    """
    alphas, kept = _of_kept(alphas, kept, primitives)
    probabilities = np.full(kept.shape, DROPPED)
    probabilities[kept] = softmax(alphas).ravel()
    return with_few_skips(
        *(probabilities, primitives, max_skips),
        lambda probabilities: _best(probabilities, primitives, reductions, seq),
    )


def prune(alphas, kept, drop: int) -> np.ndarray:
    """P-DARTS, at the end of a stage: drops the weakest candidates of every edge, also `none`.

    Args:
        alphas: float [distinct cells, E, K] of the K candidates that are left on every edge.
        kept: bool [distinct cells, E, O], which these are.
        drop: how many to drop; of equal ones the first.

    Returns:
        bool [distinct cells, E, O], of which K - drop are True on every edge.

    Raises:
        UserError: the arrays do not fit each other, or no candidate would be left.
    """
    alphas, kept = _of_kept(alphas, kept, None)
    if not 0 <= drop < alphas.shape[-1]:
        raise UserError(
            f"Cannot drop {drop} of {alphas.shape[-1]} candidates: at least one must be left."
        )
    weakest = np.argsort(alphas, axis=-1, kind="stable")[..., :drop]
    left = np.ones(alphas.shape, bool)
    np.put_along_axis(left, weakest, False, axis=-1)
    after = kept.copy()
    after[kept] = left.ravel()
    return after


def dots_operations(grouped, primitives, reductions, seq=None) -> Genotype:
    """DOTS after its search for operations: DARTS's rule on the softmax within each group.

    Args:
        grouped: arrays float [distinct cells, E, candidates of the group], whose candidates follow
            each other in `primitives`.
        primitives: see `darts`, as for the other arguments.

    Raises:
        UserError: see `darts`.
    """
    whole = _checked(np.concatenate([np.asarray(group) for group in grouped], -1), primitives)
    cuts = np.cumsum([np.shape(group)[-1] for group in grouped])[:-1]
    relaxed = [softmax(group) for group in np.split(whole, cuts, axis=-1)]
    return _best(np.concatenate(relaxed, -1), primitives, reductions, seq)


def groups(candidates) -> list[np.ndarray]:
    """DOTS's two groups of candidates, those without weights and the others; one if there is no other.

    Args:
        candidates: their names, `none` among them or not.

    Returns:
        For each group bool [candidates].
    """
    weightless = np.array([name in WEIGHTLESS for name in candidates])
    return [group for group in (weightless, ~weightless) if group.any()]


def best_of_groups(alphas, candidates) -> np.ndarray:
    """DOTS, at the end of its search for operations: the best candidate of each group stays.

    Args:
        alphas: float [distinct cells, E, candidates].
        candidates: their names.

    Returns:
        bool [distinct cells, E, candidates], one True in each group of an edge.
    """
    left = np.zeros(np.shape(alphas), bool)
    for group in groups(candidates):
        best = np.where(group, alphas, -np.inf).argmax(-1)
        np.put_along_axis(left, best[..., None], True, axis=-1)
    return left


def dots_topology(balance, kept, betas, primitives, reductions, seq=None) -> Genotype:
    """DOTS after its search for topology: each node's best pair of edges, on each the better candidate.

    Args:
        balance: float [distinct cells, E, 2], of the two candidates that are left on every edge.
        kept: bool [distinct cells, E, O], which these are; at least one is not `none`.
        betas: float [distinct cells, pairs] of every pair of edges into a node, node by node, in the
            order of `itertools.combinations`.
        primitives: see `darts`, as for the other arguments.

    Raises:
        UserError: see `darts`.
    """
    balance, kept = _of_kept(balance, kept, primitives)
    scores = np.full(kept.shape, DROPPED)
    scores[kept] = softmax(balance).ravel()
    return _best(_of_best_pairs(scores, betas), primitives, reductions, seq)


def pairs_of_edges(num_nodes: int) -> list[np.ndarray]:
    """For every node the pairs of edges that lead into it.

    Args:
        num_nodes: intermediate nodes of a cell.

    Returns:
        Of each node int [pairs, 2], the numbers of both edges, in the order of `itertools.combinations`.
    """
    return [
        np.array(list(itertools.combinations(range(node.start, node.stop), 2)))
        for node in incoming_edges(num_nodes)
    ]


def _of_best_pairs(scores, betas):
    """The scores [cells, E, O], `DROPPED` on all edges but those of each node's best pair."""
    num_nodes = nodes_of_edges(scores.shape[1])
    pairs = pairs_of_edges(num_nodes)
    starts = np.cumsum([0, *map(len, pairs)])
    betas = _fitting("betas", betas, (len(scores), starts[-1]))
    chosen = np.zeros(scores.shape[:2], bool)
    for start, of_node in zip(starts, pairs):
        best = of_node[betas[:, start : start + len(of_node)].argmax(-1)]
        np.put_along_axis(chosen, best, True, axis=1)
    return np.where(chosen[..., None], scores, DROPPED)


def _best(probabilities, primitives, reductions, seq) -> Genotype:
    """DARTS's rule; `none` and candidates that were dropped are not chosen."""
    chosen = [o for o, name in enumerate(primitives) if name != NONE]
    names = tuple(primitives[o] for o in chosen)
    # 'sparse' is 'darts' with a threshold, which is below all but what was dropped.
    return parse(probabilities[..., chosen], names, "sparse", 0.0, reductions, seq)


def normal_cells(genotype: Genotype) -> set[int]:
    """Indices of the distinct cells that stand somewhere as a normal cell."""
    places = range(len(genotype.genes)) if genotype.seq is None else genotype.seq
    return {index for place, index in enumerate(places) if place not in genotype.reductions}


def with_few_skips(probabilities, primitives, max_skips, derive) -> Genotype:
    """Derives a genotype whose normal cells have at most this many skip connections.

    While a cell has more, the weakest that was chosen gets the probability 0.

    Args:
        probabilities: [distinct cells, E, O]; other scores too, if those above 0 may be chosen.
        primitives: their names.
        max_skips: -1: any number.
        derive: `(probabilities) -> Genotype`.
    """
    genotype = derive(probabilities)
    if max_skips < 0 or SKIP not in primitives:
        return genotype
    skip = primitives.index(SKIP)
    probabilities = np.array(probabilities)
    normal = normal_cells(genotype)
    while True:
        weakest = []
        for cell in normal:
            chosen = [
                edge_index(source, node)
                for name, node, source in genotype.genes[cell]
                if name == SKIP
            ]
            own = probabilities[cell, chosen, skip]
            if len(chosen) > max_skips and own.max() > 0:
                least = np.where(own > 0, own, np.inf).argmin()
                weakest.append((cell, chosen[least], skip))
        if not weakest:
            return genotype
        for place in weakest:
            probabilities[place] = 0.0
        genotype = derive(probabilities)


def softmax(logits):
    """The softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def softmax_in_groups(logits, candidates):
    """The softmax over the candidates of each group (DOTS): an edge's numbers sum to 2."""
    return sum(softmax(np.where(group, logits, -np.inf)) for group in groups(candidates))


def strengths(betas):
    """The strengths [cells, E] of edges, a softmax of the betas over the edges into each node."""
    nodes = incoming_edges(nodes_of_edges(betas.shape[1]))
    return np.concatenate([softmax(betas[:, node]) for node in nodes], 1)


def pair_strengths(betas):
    """The strengths [cells, E] of edges, of which those into a node sum to 2 (DOTS).

    Args:
        betas: float [cells, E, nodes], where the alphas have them; see `models.relaxation`.
    """
    found = np.zeros(betas.shape[:2])
    for pairs in pairs_of_edges(betas.shape[2]):
        first, second = pairs.T
        shares = softmax(betas[:, first, second - first.min() - 1])
        for edges in (first, second):
            np.add.at(found, (slice(None), edges), shares)
    return found


def _checked(alphas, primitives):
    """The alphas in float64, if there is one for each primitive; `parse` checks the edges."""
    alphas = np.asarray(alphas, np.float64)
    if alphas.ndim != 3 or not alphas.size or alphas.shape[-1] != len(primitives):
        raise UserError(
            f"Alphas must be [cells, edges, {len(primitives)} primitives], found shape {alphas.shape}."
        )
    return _fitting("alphas", alphas, alphas.shape)


def _fitting(name, values, shape):
    """The values in float64, if they have this shape and are finite."""
    values, shape = np.asarray(values, np.float64), tuple(map(int, shape))
    if values.shape != shape:
        raise UserError(f"{name} must have the shape {shape}, found {values.shape}.")
    if not np.isfinite(values).all():
        raise UserError(
            f"{name} are not all finite: the search has diverged, derive an earlier epoch."
        )
    return values


def _of_kept(alphas, kept, primitives):
    """Alphas in float64 and the mask of bool, if the mask has one place for each alpha of an edge."""
    kept = np.asarray(kept, bool)
    if kept.ndim != 3 or (primitives is not None and kept.shape[-1] != len(primitives)):
        raise UserError(
            f"kept must be [cells, edges, primitives], one for each candidate, found {kept.shape}."
        )
    left = np.unique(kept.sum(-1))
    if len(left) != 1 or not left[0]:
        raise UserError(
            f"kept must keep the same number of candidates on every edge, found {left}."
        )
    return _fitting("alphas", alphas, (*kept.shape[:2], left[0])), kept

"""A budget of parameters, multiply-accumulates or time: a penalty in the search, a limit for its result.

All are of the network that is trained: at its channels, its image size, and its depth if it is
deepened (Algorithm 1). What a network costs is a sum over its primitives and a fixed rest, so that a
table says it. Of time only the primitives count, by a table that was measured (`models.latency`): no
rest is measured.

The penalty is `weight * max(0, expected / limit - 1)`. The expectation is that of a network that keeps
two edges of every node, with a chance in proportion to the edges' strengths where there are any, and on
each of them one primitive, with a chance in proportion to its probability.

The limit: while the network that the alphas give costs too much, the primitive is replaced whose
replacement by a cheaper one of the same edge loses the least probability for what it saves. Where a
threshold is in force, a primitive below it cannot replace another, but the edge may be given up. Limits
are dealt with in turn, and no replacement exceeds one that was dealt with before, or the skip
connections that a normal cell may have.
"""

import dataclasses
import hashlib
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.configuration import options_of
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import (
    Genotype,
    edge_index,
    edges,
    expand,
    incoming_edges,
    nodes_of_edges,
)
from ddarts_jax.genotypes.spaces import SKIP
from ddarts_jax.models import cost, latency, stems, supernet
from ddarts_jax.models.relaxation import Relaxation
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.training import train

_logger = logging.getLogger(__name__)

UNITS = {"params": "million", "macs": "million", "latency": "ms"}  # of each kind of cost


class Budget(NamedTuple):
    """A limit for one kind of cost; all numbers are in its unit.

    Attributes:
        kind: "params", "macs" (multiply-accumulates per image) or "latency" (of a batch).
        limit: the largest cost that a network may have.
        weight: of the penalty.
        fixed: what every network costs: stem, preprocessing, classifier; 0 for a latency.
        table: float64 [distinct cells, E, O], what each primitive adds in all the cells of its kind.
    """

    kind: str
    limit: float
    weight: float
    fixed: float
    table: np.ndarray

    @property
    def unit(self) -> str:
        """What the numbers are counted in, for messages."""
        return UNITS[self.kind]

    def cost(self, genotype: Genotype, primitives: tuple[str, ...]) -> float:
        """The cost of a network, if all its nodes have inputs; else at most that."""
        return self.fixed + sum(
            self.table[cell, edge_index(source, node), primitives.index(name)]
            for cell, genes in enumerate(genotype.genes)
            for name, node, source in genes
        )


def of(config, net: Supernet, dataset) -> tuple[Budget, ...]:
    """The budgets that a config sets for a search; empty if there are none.

    Raises:
        UserError: no network can be so cheap, the parsing does not choose two edges of each node, or the
            table of latencies cannot be used, see `latency.load` and `latency.Table.of`.
    """
    limits = {kind: config.search.budget[kind] for kind in UNITS if config.search.budget[kind]}
    if not limits:
        return ()
    if config.parse.method not in ("sparse", "darts", "pairs"):
        raise UserError(
            f"config.search.budget counts two edges of every node, but config.parse.method is "
            f"{config.parse.method!r}: set it to 'sparse' or 'darts', or the budget to 0."
        )
    order, size = trained(config, net, dataset)
    times = np.bincount(order.seq)[:, None, None]
    found = []
    for kind, limit in limits.items():
        table = times * _table(kind, config, order, size)
        own = Budget(kind, limit, config.search.budget.weight, 0.0, table)
        cheapest = _cheapest(table, net)
        least = own.cost(cheapest, net.primitives)
        if kind != "latency":
            counted = train.cost(config, _deepened(config, cheapest), dataset)
            own = own._replace(fixed=getattr(counted, kind) / 1e6 - least)
        if own.fixed + least > limit:
            raise UserError(
                f"config.search.budget.{kind} is {limit:g} {own.unit}, but the cheapest network of this "
                f"space has {own.fixed + least:.4g} {own.unit}: allow more, or set a smaller "
                "config.train.channels."
            )
        found.append(own)
    return tuple(found)


def identity(budgets: tuple[Budget, ...]) -> dict[str, float | str]:
    """What a search depends on besides its config, as JSON: with other values it is another one.

    Of a table of latencies only what the search reads counts, wherever the file lies and whatever else
    is in it.
    """
    found = {each.kind: round(float(each.fixed), 6) for each in budgets if each.kind != "latency"}
    for each in budgets:
        if each.kind == "latency":
            content = each.table.astype("<f8").tobytes()
            found["table_checksum"] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return found


def expected(budget: Budget, rule: Relaxation, alphas):
    """The expected cost of the network, in the budget's unit: scalar, differentiable by the alphas."""
    shares = rule.primitive_shares(alphas)
    if rule.weighs_edges:
        kept = rule.strengths(alphas)
        kept = 2 * kept if rule.topology == "edges" else kept
    else:
        incoming = np.array([node for _, node in edges(nodes_of_edges(shares.shape[1]))])
        kept = jnp.asarray(
            2 / incoming, shares.dtype
        )  # as many edges lead into a node as its number
    return budget.fixed + jnp.sum(kept[..., None] * shares * budget.table)


def penalty(budgets: tuple[Budget, ...], rule: Relaxation, alphas):
    """The sum of all penalties, and {metric: expected cost in the budget's unit}."""
    metrics = {f"expected_{b.kind}": expected(b, rule, alphas) for b in budgets}
    total = sum(
        b.weight * jax.nn.relu(cost / b.limit - 1) for b, cost in zip(budgets, metrics.values())
    )
    return total, metrics


def within(
    budgets: tuple[Budget, ...],
    genotype: Genotype,
    probabilities,
    primitives,
    threshold,
    max_skips: int = -1,
) -> Genotype:
    """Makes a network cheaper until it keeps to all budgets; see the module.

    Args:
        budgets: from `of`.
        genotype: of the distinct cells, all of whose nodes have inputs.
        probabilities: float [distinct cells, E, O] of the primitives.
        primitives: their names.
        threshold: the lowest probability of a primitive that may be kept. Where it is above 0 edges may
            be given up too.
        max_skips: skip connections that a normal cell may have; -1: any number.
    """
    limited = derivation.normal_cells(genotype) if max_skips >= 0 else ()
    genes, replaced = [list(cell) for cell in genotype.genes], 0
    for number, budget in enumerate(budgets):
        while budget.cost(genotype, primitives) > budget.limit:
            spare = [
                (each.table, max(0.0, each.limit - each.cost(genotype, primitives)))
                for each in budgets[:number]
            ]
            moves = [
                move
                for cell, own in enumerate(genes)
                for full in [cell in limited and _skips(own) >= max_skips]
                for place in range(len(own))
                for move in _moves(
                    *(budget.table, spare, probabilities, primitives, threshold),
                    *(own, cell, place, full),
                )
            ]
            if not moves:
                _logger.warning(
                    "search: nothing that reaches parse.threshold and keeps to the other limits is cheap "
                    "enough for search.budget.%s=%g; the network has up to %.4g %s",
                    *(budget.kind, budget.limit, budget.cost(genotype, primitives), budget.unit),
                )
                break
            _, cell, place, gene = min(moves, key=lambda move: move[0])
            genes[cell][place : place + 1] = [gene] if gene else []
            genotype = dataclasses.replace(genotype, genes=genes)
            replaced += 1
    if replaced:
        _logger.info("search: %d changes made the network keep to search.budget", replaced)
    return genotype


def _skips(genes) -> int:
    return sum(name == SKIP for name, *_ in genes)


def _moves(table, spare, probabilities, primitives, threshold, genes, cell, place, full):
    """Yields (probability lost for what is saved, cell, place, other gene or None to give it up).

    `spare` has the tables of other budgets, each with what a move may add by it. A cell that is `full`
    gets no further skip connection.
    """
    name, node, source = genes[place]
    edge, own = edge_index(source, node), primitives.index(name)
    costs, chances = table[cell, edge], probabilities[cell, edge]
    taken = {other for other, *rest in genes if tuple(rest) == (node, source)}
    for o, other in enumerate(primitives):
        saved = costs[own] - costs[o]
        added = ((t[cell, edge, o] - t[cell, edge, own], most) for t, most in spare)
        if (
            saved > 0
            and chances[o] >= threshold
            and other not in taken
            and not (full and other == SKIP)
            and all(more <= most for more, most in added)
        ):
            yield (chances[own] - chances[o]) / saved, cell, place, (other, node, source)
    # A node that loses its last input would be gone, and with it what reads from it.
    if threshold > 0 and costs[own] > 0 and sum(n == node for _, n, _ in genes) > 1:
        yield chances[own] / costs[own], cell, place, None


def trained(config, net: Supernet, dataset) -> tuple[Supernet, int]:
    """The network that is trained, with all candidates on all edges.

    Args:
        config: the whole config.
        net: the supernet of the search.
        dataset: images, of which the shape counts.

    Returns:
        Its structure, and the pixels per side of the images that its first cell gets.
    """
    count = len(set(net.seq))
    order = _deepened(config, _cheapest(np.zeros((count, *net.alphas_shape[1:])), net))
    seq = tuple(range(count)) if order.seq is None else order.seq
    structure, _ = supernet.build(
        num_cells=order.num_cells,
        num_nodes=net.num_nodes,
        channels=config.train.channels,
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        primitives=net.primitives,
        reductions=order.reductions,
        seq=seq,
        key=None,
    )
    # No primitive is in the stem: of it only the size matters that it leaves to the cells.
    return structure, -(-dataset.image_size // stems.STRIDES[config.train.stem][-1])


def _table(kind: str, config, order: Supernet, size: int) -> np.ndarray:
    """What each primitive of the network costs, [distinct cells, E, O]; see `cost.tabulate`."""
    if kind != "latency":
        return cost.cost_table(order, size if kind == "macs" else None)
    path = config.search.budget.table
    measured = processes.from_main(lambda: latency.load(path))
    _logger.info(
        "search: latencies of %s, %s, batch %d", measured.device, measured.dtype, measured.batch
    )
    return measured.of(order, size, path)


def _cheapest(table, net: Supernet) -> Genotype:
    """The cheapest network that keeps two edges of every node."""
    least = table.min(-1)
    genes = []
    for cell in range(len(table)):
        own = []
        for node, incoming in enumerate(incoming_edges(net.num_nodes), 2):
            for source in np.argsort(least[cell, incoming], kind="stable")[:2]:
                best = int(table[cell, incoming][source].argmin())
                own.append((net.primitives[best], node, int(source)))
        genes.append(own)
    concat = tuple(range(2, net.num_nodes + 2))
    return Genotype(genes, net.reductions, concat, net.seq)


def _deepened(config, genotype: Genotype) -> Genotype:
    """The genotype of the network that is trained, also from a shallower stage of the search."""
    stages = options_of(config.search).get("stages")
    depth = config.train.num_cells or (config.search.num_cells if stages else 0)
    deeper = expand(genotype, depth) if depth else genotype
    if len(deeper.genes) < len(genotype.genes):
        raise UserError(
            f"With {depth} cells not every searched cell has a place, so that search.budget cannot "
            "say what it costs: set another config.train.num_cells, or no budget."
        )
    return deeper

"""A search in stages: ever deeper supernets with ever fewer candidates (P-DARTS, Chen et al. 2019).

Each stage is a whole search with fresh weights and alphas. At its end every edge loses its weakest
candidates, so that the next supernet can be deeper, more like the network that is trained in the end.
Cells that share their alphas share what is left of them, too; individual cells hand it on by Algorithm 1
of D-DARTS: a cell of the next stage has the candidates of the cell that it repeats.
"""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.configuration import options_of
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import Genotype, reduction_positions
from ddarts_jax.genotypes.spaces import SKIP
from ddarts_jax.models.relaxation import hashable
from ddarts_jax.runs.metrics import MetricsWriter

_logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """What distinguishes a stage from the others.

    Attributes:
        num_cells: cells of its supernet.
        kept: the candidates that its edges have, see `Relaxation.kept`; None: all.
        skip_dropout: see `Relaxation.skip_dropout`.
        keep: the candidates that an edge has left after it, unless they compete in groups (DOTS), each of
            which keeps its best; 0 of the last stage.
        relaxation: see `Relaxation.kind`; empty: that of the method.
        topology: see `Relaxation.topology`; empty: that of the method's options.
        one_level: whether alphas and weights step on the same batches of all training images, in place
            of those of a half each.
        changes: pairs (dotted key of section `search`, value) that hold in this stage.
    """

    num_cells: int
    kept: tuple | None = None
    skip_dropout: float = 0.0
    keep: int = 0
    relaxation: str = ""
    topology: str = ""
    one_level: bool = False
    changes: tuple[tuple[str, Any], ...] = ()

    def of(self, config):
        """The whole config with the values of this stage."""
        if not self.changes:
            return config
        config = config.copy_and_resolve_references()
        config.search.update_from_flattened_dict(dict(self.changes))
        return config


def by_options(settings) -> tuple[Stage, ...]:
    """The stages that the options of a method ask for; one where there are no such options.

    Args:
        settings: section `search` of the config; the group of its method may have `stages`, the cells of
            the supernets before the last, `keep`, the candidates that an edge has left after each of
            them, `earlier_partial_channels`, their K, and `skip_dropout`, a rate for each and the last.
    """
    options = options_of(settings)
    depths = (*options.get("stages", ()), settings.num_cells)
    keep = (*options.get("keep", ()), 0)
    rates = options.get("skip_dropout") or (0.0,) * len(depths)
    found = [
        Stage(cells, skip_dropout=rate, keep=left) for cells, rate, left in zip(depths, rates, keep)
    ]
    for number, parts in enumerate(options.get("earlier_partial_channels", ())):
        changes = ((f"{settings.method}.partial_channels", parts),)
        found[number] = found[number]._replace(changes=changes)
    return tuple(found)


def run_earlier(plan: tuple[Stage, ...], shared: bool, workdir: Path, run: Callable) -> Stage:
    """Runs the stages before the last, each in `stages/<number>` of the workdir.

    A stage that has ended is not repeated: it is continued at its end.

    Args:
        plan: all stages, with all candidates.
        shared: whether cells share their alphas.
        workdir: of the whole search.
        run: `(stage, workdir, writer) -> search.Found`, one stage.

    Returns:
        The last stage, with the candidates that are left.

    Raises:
        UserError: individual cells of a stage cannot be deepened to those of the next.
    """
    *earlier, last = plan
    if not earlier:
        return last
    # Before anything is searched, as it may be refused.
    depths = [stage.num_cells for stage in plan]
    orders = None if shared else [_order(*pair) for pair in pairwise(depths)]
    kept = None
    for number, stage in enumerate(earlier):
        _logger.info("search: stage %d of %d, %d cells", number + 1, len(plan), stage.num_cells)
        folder = workdir / "stages" / str(number + 1)
        folder.mkdir(parents=True, exist_ok=True)
        writer = MetricsWriter(folder)
        try:
            found = run(stage._replace(kept=kept), folder, writer)
        finally:
            writer.close()
        left = _left(found, stage.keep)
        if orders:
            left = left[list(orders[number])]
        kept = hashable(left.tolist())
    _logger.info("search: stage %d of %d, %d cells", len(plan), len(plan), last.num_cells)
    return last._replace(kept=kept)


def _left(found, keep: int) -> np.ndarray:
    """The strongest candidates of every edge: bool [distinct cells, E, candidates]; see `Stage.keep`."""
    rule = found.supernet.relaxation
    alphas = np.asarray(rule.of_candidates(found.alphas))
    if rule.kind == "groups":
        return derivation.best_of_groups(alphas, rule.candidates)
    before = np.isfinite(alphas)
    own = alphas[before].reshape(*alphas.shape[:2], -1)
    return derivation.prune(own, before, own.shape[-1] - keep)


def _order(num_cells: int, deeper: int) -> tuple[int, ...]:
    """For every cell of a deeper network the cell that it repeats (Algorithm 1)."""
    numbered = Genotype(
        genes=[[(SKIP, 2, 0)]] * num_cells,
        reductions=reduction_positions(num_cells),
        concat=(2,),
        seq=range(num_cells),
    )
    return numbered.expand(deeper).seq

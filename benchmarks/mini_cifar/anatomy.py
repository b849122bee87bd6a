"""What the networks of the results are made of, and whether that goes with their accuracy.

`table.py` writes it onto its page. All networks have as good as equal parameters, so a network with more
poolings has more channels; no cause is told apart here.
"""

from collections.abc import Iterable

import numpy as np
import protocol
import ranking

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype

# Columns, and the beginnings of the names of their primitives.
FAMILIES = {
    "max pooling": "max_pool",
    "average pooling": "avg_pool",
    "skip connections": "skip_connect",
    "separable convolutions": "sep_conv",
    "dilated convolutions": "dil_conv",
}


def shares(genotype: Genotype) -> dict[str, float]:
    """Returns the share of every family among a network's primitives, cell by cell counted."""
    names = [name for cell in genotype.cells for name, _, _ in cell]
    return {
        family: sum(name.startswith(beginning) for name in names) / len(names)
        for family, beginning in FAMILIES.items()
    }


def text(results: dict[str, dict[int, dict]]) -> str:
    """Returns the section of the results' page: by method, and rank correlations over all networks.

    Args:
        results: {method: {seed: result}}, of methods alone.
    """
    found = {method: [_parts(run) for run in own.values()] for method, own in results.items()}
    lines = ["## What the networks are made of\n"]
    lines += [_line(("share of the primitives, %", *FAMILIES, "primitives", "channels"))]
    lines += ["|" + "---|" * (len(FAMILIES) + 3)]
    for method, own in found.items():
        means = np.mean(own, axis=0)
        cells = [*(f"{100 * share:.0f}" for share in means[:-2]), *(f"{n:.1f}" for n in means[-2:])]
        lines += [_line((protocol.ALL[method].title, *cells))]
    # What random search finds may be what chance drew, with the same training: one network.
    once = {run["genotype"]: run for own in results.values() for run in own.values()}.values()
    if len(once) > 2:
        accuracy = np.array([run["test_accuracy"] for run in once])
        measures = np.array([_parts(run) for run in once]).T
        taus = [ranking.kendall(measure, accuracy) for measure in measures]
        for title, keys in (("tau with accuracy", ("tau",)), ("its 95% interval", ("low", "high"))):
            cells = [" to ".join(f"{tau[key]:+.2f}" for key in keys) for tau in taus]
            lines += [_line((title, *cells))]
        lines += [
            f"\nTau: Kendall's rank correlation over all {len(once)} different networks of this table, "
            "with a bootstrap interval, not corrected for the number of columns; a cause it is not.\n"
        ]
    return "\n".join([*lines, ""])


def _parts(run: dict) -> list[float]:
    genotype = find_genotype(run["genotype"])
    count = sum(map(len, genotype.cells))
    return [*shares(genotype).values(), count, run["channels"]]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

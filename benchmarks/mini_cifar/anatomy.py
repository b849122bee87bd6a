"""Of what the networks and the searches are made, and whether that goes with their accuracy.

`table.py` writes it onto its page. All networks have as good as equal parameters, so a network with more
poolings has more channels; no cause is told apart here.
"""

import numpy as np
import protocol
import ranking

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.reports import markdown

# Columns, and the beginnings of the names of their primitives.
FAMILIES = {
    "max pooling": "max_pool",
    "average pooling": "avg_pool",
    "skip connections": "skip_connect",
    "separable convolutions": "sep_conv",
    "dilated convolutions": "dil_conv",
}


# What a search says of itself at its end: key of the results, and the row.
SIGNALS = {
    "supernet_accuracy": "the supernet's accuracy",
    "discrete_accuracy": "that of the mask of the network it found",
    "decided": "the share of decided gates",
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
        results: {method: {seed: result}}.
    """
    found = {method: [_parts(run) for run in own.values()] for method, own in results.items()}
    rows = []
    for method, own in found.items():
        *of_families, primitives, channels = np.mean(own, axis=0)
        cells = [
            *(f"{100 * share:.0f}" for share in of_families),
            f"{primitives:.1f}",
            f"{channels:.1f}",
        ]
        rows.append([protocol.ALL[method].title, *cells])
    # What random search finds may be what chance drew, with the same training: one network.
    networks = {
        method: {
            run["genotype"]: (run["test_accuracy"], *parts)
            for run, parts in zip(own.values(), found[method], strict=True)
        }
        for method, own in results.items()
    }
    once = {name: parts for own in networks.values() for name, parts in own.items()}
    rows += _tau_rows("accuracy", once)
    rows += _tau_rows("that of chance alone", networks.get(protocol.CHANCE, {}))
    note = (
        f"\nTau: Kendall's rank correlation over all {len(once)} different networks of this table, and "
        "over those of chance alone, with bootstrap intervals, not corrected for the number of columns. "
        "Over all, it may also say what else distinguishes the methods; a cause it is not.\n"
    )
    header = ("share of the primitives, %", *FAMILIES, "primitives", "channels")
    return f"## What the networks are made of\n\n{markdown.table(header, rows)}\n{note}"


def _tau_rows(title: str, networks: dict[str, tuple]) -> list[list[str]]:
    """Correlates the first value of every network with all others; no rows of fewer than three."""
    if len(networks) < 3:
        return []
    accuracy, *measures = np.array(list(networks.values())).T
    cells = [ranking.cells_of(ranking.kendall(measure, accuracy)) for measure in measures]
    taus, intervals = zip(*cells)
    return [[f"tau with {title}", *taus], ["its 95% interval", *intervals]]


def signals_text(results: dict[str, dict[int, dict]]) -> str:
    """Returns the section on what searches say of themselves; empty with fewer than three of them."""
    searches = [
        run
        for own in results.values()
        for run in own.values()
        if SIGNALS.keys() <= run["search"].keys()
    ]
    if len(searches) < 3:
        return ""
    accuracy = np.array([run["test_accuracy"] for run in searches])
    rows = []
    for key, name in SIGNALS.items():
        signal = np.array([run["search"][key] for run in searches])
        rows.append([name, *ranking.cells_of(ranking.kendall(signal, accuracy))])
    header = ("at the end of the search", "Kendall's tau", "95% interval")
    return (
        f"## What a search says of itself\n\n{markdown.table(header, rows)}\n"
        f"\nRank correlation with the accuracy of the network, over {len(searches)} searches of all "
        "methods and changes, with a bootstrap interval.\n"
    )


def convergence_text(results: dict[str, dict[int, dict]]) -> str:
    """Returns the section on the supernets' accuracy after every epoch; empty without any."""
    rows = []
    for method, own in results.items():
        curves = [run["search"].get("accuracy_by_epoch") for run in own.values()]
        curves = 100 * np.array([curve for curve in curves if curve])
        if len(curves) < 2:
            continue
        spread = curves.std(0, ddof=1)
        said = [f"{mean:.1f} ± {around:.1f}" for mean, around in zip(curves.mean(0), spread)]
        rows.append([protocol.ALL[method].title, len(curves), *said])
    if not rows:
        return ""
    header = ("", "n", *(f"epoch {k}" for k in range(1, max(map(len, rows)) - 1)))
    return (
        f"## Convergence of the supernets\n\n{markdown.table(header, rows)}\n"
        "\nAccuracy in per cent on the images that update the alphas, during the epoch: mean ± sample "
        "standard deviation over those n searches that have it by epoch, of methods with two or more.\n"
    )


def _parts(run: dict) -> list[float]:
    genotype = find_genotype(run["genotype"])
    count = sum(map(len, genotype.cells))
    return [*shares(genotype).values(), count, run["channels"]]

"""Fig. 9: distances between handcrafted networks and the results of searches.

    python benchmarks/paper/fig9_distances.py [--full] [--seeds 3] [--runs DIR]

Between the networks of all methods and seeds, and from ResNet18 and ResNet50 to what a search from
ResNet18 makes.
"""

import sys

import command
import common
import numpy as np

from ddarts_jax.genotypes.distance import architecture_distance, distance_matrix
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.runs.metrics import mean_and_spread

METHODS = {
    "D-DARTS": "",
    "w_AB = 0": "ddarts_no_ablation",
    "authors' program": "authors_program",
    "DARTS": "darts",
    "FairDARTS": "fairdarts",
    "random": "random",
}
DARTOPTI = "DARTOpti from ResNet18"
NOTES = [
    "The paper's column is from the file of distances in the authors' public repository. There the "
    "result of the search from ResNet50 is 0.170 from its start and 0.189 from that of the search "
    "from ResNet18. The figure averages over pairs of different networks; such pairs "
    "share networks, so no spread of theirs is given and nothing is claimed of them."
]


def settings(full):
    """Makes the settings of all methods, and of the search from ResNet18."""
    methods = {
        label: common.baseline(full, name) if name else common.whole(full)
        for label, name in METHODS.items()
    }
    return methods | {DARTOPTI: common.dartopti(full)}


def between(groups):
    """Computes mean distances of groups of networks, float64 [groups, groups].

    The diagonal is over pairs of different seeds, and not a number where there is only one.
    """
    networks = [run.network for runs in groups.values() for run in runs]
    distances = distance_matrix(networks)
    np.fill_diagonal(distances, np.nan)
    owner = np.repeat(np.arange(len(groups)), [len(runs) for runs in groups.values()])
    means = np.full((len(groups), len(groups)), np.nan)
    for a, b in np.ndindex(means.shape):
        pairs = distances[np.ix_(owner == a, owner == b)]
        if not np.isnan(pairs).all():
            means[a, b] = np.nanmean(pairs)
    return means


def conclude(groups):
    """Judges how far the search from ResNet18 moves."""
    methods = {label: groups[label] for label in METHODS}
    matrix = between(methods)
    figure, (axes,) = common.figure(("", ""))
    axes.grid(False)
    axes.imshow(matrix, cmap="Blues", vmin=0)
    for (row, column), value in np.ndenumerate(matrix):
        dark = value > 0.6 * np.nanmax(matrix, initial=0)
        text = "" if np.isnan(value) else f"{value:.3f}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(matrix)), methods, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(matrix)), methods, fontsize=8)

    handcrafted = [find_genotype(f"authors/{name}") for name in ("ResNet18", "ResNet50")]
    apart = architecture_distance(*handcrafted)
    found = {
        name: [architecture_distance(run.network, find_genotype(name)) for run in groups[DARTOPTI]]
        for name in ("ResNet18", "ResNet50")
    }
    rows = [["ResNet18 to ResNet50, as the authors encode them", "0.084", f"{apart:.3f}"]]
    for name, distances in found.items():
        mean, spread = mean_and_spread(distances)
        said = f"{mean:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
        paper = {"ResNet18": "0.169", "ResNet50": "0.168"}[name]
        rows.append([f"{name} to the result of the search", paper, f"{said}, n = {len(distances)}"])
    apart = architecture_distance(*map(find_genotype, found))
    return common.Findings(
        ["distance", "paper: CIFAR-10", "ours"],
        rows,
        {
            "methods": list(methods),
            "mean_distances": [[None if np.isnan(v) else v for v in row] for row in matrix],
            "to_handcrafted": found,
            "between_handcrafted": apart,
        },
        claims=[
            common.above(
                "a search moves further from ResNet18 than ResNet50 is",
                *(found["ResNet18"], apart, "ResNet50"),
            )
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

"""Section 5.2.2: networks searched with and without the ablation loss.

    python benchmarks/paper/section522_ablation.py [--full] [--seeds 3] [--runs DIR]

The two searches differ by w_AB alone, 0.5 and 0.
"""

import sys

import command
import common

WITH, WITHOUT = "with the ablation loss", "without"
PAPER = {
    WITH: "83.86% (3.9 M), 14 cells 84.15% (7.6 M)",
    WITHOUT: "82.90% (3.3 M), 14 cells 84.06% (6.1 M)",
}
NOTES = [
    "The paper's column: DD-4 and DD-6, one search each, 8 cells unless it says 14; no spread is given. "
    "On CIFAR-10 it has 97.02% (DD-1, sparse, 1.7 M) and, without the loss, 97.10% (DD-2, edge, "
    "3.3 M), which are parsed differently. In the authors' public program the ablation loss has no "
    "gradient, so that these networks cannot differ by it."
]


def settings(full):
    """Makes the settings with w_AB = 0.5 and 0."""
    return {WITH: common.whole(full), WITHOUT: common.baseline(full, "ddarts_no_ablation")}


def conclude(groups):
    """Judges the accuracies."""
    accuracy = common.COLUMNS["test_accuracy"]
    figure, (axes,) = common.figure(("", "test accuracy (%)"))
    common.draw_values(axes, [0, 1], groups, accuracy)
    axes.set_xticklabels(groups)
    keys = ("test_accuracy", "params", "search_accuracy", "discretisation_gap", "search_seconds")
    columns = [common.COLUMNS[key] for key in keys]
    return common.Findings(
        **common.table(groups, columns, PAPER, "paper: CIFAR-100, edge parsing"),
        claims=[
            common.higher(
                "the ablation loss finds more accurate networks", groups, WITH, WITHOUT, accuracy
            )
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

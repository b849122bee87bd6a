"""Figs. 7 and 8: distance to the handcrafted start, and accuracy, over the epochs of DARTOpti.

    python benchmarks/paper/fig7_distance.py [--full] [--seeds 3] [--runs DIR]

Searched to the end, without an early stop. Small: from ResNet18 on the digits; full: from ResNet18,
ResNet50 and Xception on CIFAR-10.
"""

import sys

import command
import common

from ddarts_jax.configuration import default_config
from ddarts_jax.reports.comparison import Column
from ddarts_jax.runs.rows import last, series
from ddarts_jax.searching.early_stop import is_stable

# Between a network and what the search on CIFAR-10 made of it: distances.csv of the authors' program.
PAPER = {"ResNet18": "0.169", "ResNet50": "0.170"}
NOTES = [
    "The curves of Figs. 7 and 8 could not be read; the paper's column is from the file of distances in "
    "the authors' public repository. The rule of stability is that of the early stop: from the tenth "
    "epoch on (the shaded ones, with fixed alphas, are counted), the distances after five epochs in a "
    "row are within 0.001 of the present one. It looks at the distance only, not at the accuracy."
]


def settings(full):
    """Makes one setting per start."""
    starts = ("ResNet18", "ResNet50", "Xception") if full else ("ResNet18",)
    return {start: common.to_the_end(common.dartopti(full, start)) for start in starts}


def _stable_after(run):
    """Finds the first epoch after which the search could stop."""
    stop = default_config().search.stop
    fixed = run.config["search.start.epochs"]
    distances = dict(enumerate(series(run.search, "distance_to_start"), 1))
    return next((epoch for epoch in distances if is_stable(distances, epoch, fixed, stop)), None)


def _last(key, title, scale=1, digits=3, unit=""):
    return Column(key, title, lambda run: last(run.search, key), scale, digits, unit)


STABLE = Column("stable_after", "stable after epoch", _stable_after, 1, 1)
COLUMNS = [
    _last("distance_to_start", "distance to the start"),
    _last("positional_distance_to_start", "positional distance"),
    STABLE,
    common.COLUMNS["search_accuracy"],
    common.COLUMNS["test_accuracy"],
]


def conclude(groups):
    """Judges whether the distance settles."""
    figure, (left, right) = common.figure(
        ("epoch", "distance to the start"), ("epoch", "accuracy of the supernet (%)")
    )
    common.draw_curves(left, groups, "distance_to_start", scale=1)
    common.draw_curves(right, groups, "accuracy")
    runs = [run for each in groups.values() for run in each]
    for axes in (left, right):
        axes.axvspan(0.5, runs[0].config["search.start.epochs"] + 0.5, color="#fdf3dc", zorder=0)
    return common.Findings(
        **common.table(groups, COLUMNS, PAPER, "paper: distance on CIFAR-10"),
        claims=[
            common.in_every_run(
                "the distance to the start settles before the search ends",
                [STABLE.of(run) is not None for run in runs],
            )
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

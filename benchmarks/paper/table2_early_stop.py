"""Table 2: DARTOpti from ResNet18, searched to the end and stopped early.

    python benchmarks/paper/table2_early_stop.py [--full] [--seeds 3] [--runs DIR]

The search ends early when its distance to ResNet18 no longer changes.
"""

import sys

import command
import common
import numpy as np

from ddarts_jax.reports.comparison import Column
from ddarts_jax.runs.rows import last

ALL, EARLY = "all epochs", "stopped early"
PAPER = {
    ALL: "97.39%, 50 epochs, 0.3 GPU-days",
    EARLY: "96.93%, 15 epochs, 0.1 GPU-days",
}
EPOCHS = Column("search_epochs", "epochs searched", lambda run: len(run.search) or None, 1, 1)
DISTANCE = Column(
    "distance_to_start",
    "distance to ResNet18",
    lambda run: last(run.search, "distance_to_start"),
    *(1, 3),
)
NOTES = [
    "Ours counts the first epochs too, in which the alphas are fixed, and the seconds of the search "
    "depend on what else the machine does: the epochs are the fairer cost. Both searches of a seed take "
    "the same steps up to the stop."
]


def settings(full):
    """Makes the settings with and without the stop."""
    early = common.dartopti(full)
    return {ALL: common.to_the_end(early), EARLY: early}


def conclude(groups):
    """Judges what stopping saves and what it costs."""
    accuracy, seconds = common.COLUMNS["test_accuracy"], common.COLUMNS["search_seconds"]
    figure, (left, right) = common.figure(
        ("", "test accuracy (%)"), ("epochs searched", "test accuracy (%)")
    )
    common.draw_values(left, [0, 1], groups, accuracy)
    left.set_xticklabels(groups)
    for (label, runs), marker in zip(groups.items(), "os"):
        pairs = [(EPOCHS.of(run), accuracy.of(run)) for run in runs]
        x, y = np.array(pairs, float).T  # a run without accuracy is not a number, and not drawn
        right.plot(x, 100 * y, marker, label=label)
    right.legend(frameon=False)
    return common.Findings(
        **common.table(groups, [accuracy, EPOCHS, seconds, DISTANCE], PAPER, "paper: CIFAR-10"),
        claims=[
            common.higher("stopping early saves epochs", groups, ALL, EARLY, EPOCHS),
            common.higher(
                "the network searched to the end is the more accurate one",
                *(groups, ALL, EARLY, accuracy),
            ),
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

"""Fig. 6: accuracy of the supernet while it is searched, D-DARTS against DARTS and FairDARTS.

    python benchmarks/paper/fig6_convergence.py [--full] [--seeds 3] [--runs DIR]

The accuracy is that on the half of the training images that moves the alphas.
"""

import statistics
import sys

import command
import common

from ddarts_jax.reports.comparison import Column
from ddarts_jax.runs.rows import series

NOTES = [
    "The values of Fig. 6 could not be read. The mean over the epochs is the larger, the sooner the "
    "accuracy rises. The authors' public program moves the weights mostly on the images on which its "
    "accuracy is measured; here the weights never see them, but in the row of that program, which "
    "does as it does."
]


def settings(full):
    """Makes one setting per method; they differ only in what defines the method."""
    return {
        "D-DARTS": common.whole(full),
        "DARTS": common.baseline(full, "darts"),
        "FairDARTS": common.baseline(full, "fairdarts"),
        "D-DARTS, the authors' program": common.baseline(full, "authors_program"),
    }


def _mean_accuracy(run):
    found = [value for value in series(run.search, "accuracy") if value is not None]
    return statistics.fmean(found) if found else None


MEAN = Column("mean_accuracy", "mean over the epochs", _mean_accuracy, 100, 2, "%")


def conclude(groups):
    """Judges how soon and how high the accuracy rises."""
    last = common.COLUMNS["search_accuracy"]
    figure, (axes,) = common.figure(("epoch", "accuracy of the supernet (%)"))
    common.draw_curves(axes, groups, "accuracy")
    return common.Findings(
        **common.table(groups, [last, MEAN, common.COLUMNS["test_accuracy"]], {}, "paper"),
        claims=[
            common.higher(
                f"the supernet of D-DARTS {what} that of {other}", groups, "D-DARTS", other, c
            )
            for other in ("DARTS", "FairDARTS")
            for what, c in (("converges sooner than", MEAN), ("ends more accurate than", last))
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

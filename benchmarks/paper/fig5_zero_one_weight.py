"""Fig. 5: the weight of the zero-one loss, w_01, and the share of candidates that are decided.

    python benchmarks/paper/fig5_zero_one_weight.py [--full] [--seeds 3] [--runs DIR]

Five weights of 3 seeds each; small: 3 cells of 2 nodes on the digits. A candidate is decided when its
sigmoid(alpha) is above 0.9 or below 0.1.
"""

import sys

import command
import common

WEIGHTS = (0.0, 1.0, 3.0, 7.0, 10.0)
NOTES = [
    "The values of Fig. 5 could not be read. The paper's searches use w_01 = 7. In the authors' public "
    "program gradients accumulate over the cells, so that its 7 acts like about 0.9 here; 7 need not be "
    "the best value of the loss as it is printed."
]


def settings(full):
    """Makes one setting per weight."""
    base = common.sweep(full)
    return {
        f"w_01 = {weight:g}": base.but(
            f"w_01_{weight:g}", {"search.ddarts.zero_one_weight": weight}
        )
        for weight in WEIGHTS
    }


def conclude(groups):
    """Judges what w_01 = 7 decides, and how good its networks are."""
    accuracy, decided = common.COLUMNS["test_accuracy"], common.COLUMNS["decided"]
    figure, (left, right) = common.figure(("epoch", "decided (%)"), ("w_01", "test accuracy (%)"))
    common.draw_curves(left, groups, "decided")
    common.draw_values(right, list(WEIGHTS), groups, accuracy)
    columns = [decided, common.COLUMNS["discretisation_gap"], accuracy, common.COLUMNS["params"]]
    return common.Findings(
        **common.table(groups, columns, {}, "paper"),
        claims=[
            common.higher(
                "the zero-one loss decides more candidates than there are without it",
                *(groups, "w_01 = 7", "w_01 = 0", decided),
            ),
            common.best("w_01 = 7 finds the most accurate networks", groups, "w_01 = 7", accuracy),
        ],
        notes=NOTES,
        figure=figure,
    )


if __name__ == "__main__":
    sys.exit(command.experiment(__file__, __doc__, settings, conclude))

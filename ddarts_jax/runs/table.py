"""The table of metrics: every number in a row of metrics.jsonl, and the chart that shows it.

Search and training produce the numbers. The report, the comparison of runs and TensorBoard loop over
this table, so that a new metric needs one new entry here; `rows.unknown` finds numbers that have none.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number, or one number per distinct cell, that a phase reports after each epoch.

    Attributes:
        key: name in metrics.jsonl.
        name: full name, for TensorBoard and for charts that show this metric alone.
        description: one sentence on what it measures.
        label: name of its curve in its chart, next to the chart's other curves; if empty, `name`.
        unit: "fraction" (shown as a percentage), another unit, or empty.
        per_cell: whether it is a list with one number per distinct cell.
        compared: whether the comparison of runs shows it.
        difference: keys of two metrics, for one that is the first minus the second and not itself in
            metrics.jsonl.
        tag: its name in TensorBoard, where the key alone does not say whose number it is; else the key.
    """

    key: str
    name: str
    description: str
    label: str = ""
    unit: str = ""
    per_cell: bool = False
    compared: bool = False
    difference: tuple[str, str] | None = None
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """The metrics of a phase that are drawn together.

    Attributes:
        phase: "search", "train", "random" or "detect", as in the rows.
        title: heading of the chart.
        caption: text below the chart.
        metrics: its curves, in order.
        scale: of the vertical axis.
    """

    phase: str
    title: str
    caption: str
    metrics: tuple[Metric, ...]
    scale: Literal["linear", "log", "from zero", "zero to one"] = "linear"


def _of_sgd(phase: str) -> tuple[Chart, ...]:
    """The charts of the weights' optimizer in a training."""
    return (
        Chart(
            phase,
            "Learning rate",
            "Learning rate of SGD at the end of the epoch.",
            (Metric("learning_rate", "Learning rate", "Learning rate of SGD, end of the epoch."),),
        ),
        Chart(
            phase,
            "Norms of the steps",
            "Norm of the gradient before it is clipped, and of the update; on a logarithmic axis.",
            (
                Metric(
                    "gradient_norm",
                    "Norm of the gradient",
                    "Global norm before clipping.",
                    "gradient",
                ),
                Metric(
                    "update_norm", "Norm of the update", "Global norm of what SGD adds.", "update"
                ),
            ),
            scale="log",
        ),
    )


def _of_time(phase: str) -> tuple[Chart, ...]:
    """The charts of how long a training takes."""
    return (
        Chart(
            phase,
            "Speed of the training",
            "Images per second.",
            (
                Metric(
                    "images_per_second",
                    "Speed of the training",
                    "Images per second.",
                    unit="images/s",
                ),
            ),
            scale="from zero",
        ),
        Chart(
            phase,
            "Time per epoch of the training",
            "Seconds per epoch, without compiling and evaluation.",
            (Metric("seconds", "Time per epoch", "Seconds, without compiling.", unit="s"),),
            scale="from zero",
        ),
    )


CHARTS = (
    Chart(
        "search",
        "Accuracy",
        "Accuracy of the supernet during training: on the half of the images that updates the alphas, "
        "and on the half that updates the weights (bilevel optimisation).",
        (
            Metric(
                "accuracy",
                "Accuracy of the supernet",
                "Measured on the half of the images that updates the alphas.",
                label="architecture half",
                unit="fraction",
                compared=True,
                tag="accuracy_architecture_half",
            ),
            Metric(
                "weights_accuracy",
                "Accuracy of the supernet, weight half",
                "Measured on the half of the images that updates the weights.",
                label="weight half",
                unit="fraction",
            ),
        ),
    ),
    Chart(
        "search",
        "Cross-entropy",
        "L_CE of the supernet on the two halves.",
        (
            Metric(
                "loss",
                "Loss of the supernet",
                "Cross-entropy on the half of the images that updates the alphas.",
                label="architecture half",
                compared=True,
            ),
            Metric(
                "weights_loss",
                "Loss of the supernet, weight half",
                "Cross-entropy on the half of the images that updates the weights.",
                label="weight half",
            ),
        ),
    ),
    Chart(
        "search",
        "Discretisation gap",
        "Accuracy, on some of the images that update the alphas, of the supernet with all its "
        "candidates, of the same supernet masked to the parsed genotype, and their difference: how much "
        "the alphas still have to decide.",
        (
            Metric(
                "supernet_accuracy",
                "Accuracy with all candidates",
                "Measured on some of the images that update the alphas.",
                label="supernet",
                unit="fraction",
            ),
            Metric(
                "discrete_accuracy",
                "Accuracy with the genotype only",
                "Accuracy of the supernet masked to the parsed genotype.",
                label="masked to the genotype",
                unit="fraction",
                compared=True,
            ),
            Metric(
                "discretisation_gap",
                "Discretisation gap",
                "Accuracy of the supernet with all its candidates minus that with the genotype only.",
                label="gap",
                unit="fraction",
                difference=("supernet_accuracy", "discrete_accuracy"),
            ),
        ),
    ),
    Chart(
        "search",
        "Decided candidates",
        "Share of the alphas whose probability is above 0.9 or below 0.1.",
        (
            Metric(
                "decided",
                "Decided candidates",
                "Share of the candidates with a probability above 0.9 or below 0.1.",
                unit="fraction",
                compared=True,
            ),
        ),
        scale="zero to one",
    ),
    Chart(
        "search",
        "Distance",
        "The paper's distance between architectures (mean over the cells of the Hausdorff distance of "
        "their edges), between consecutive epochs and, if the search has a start, to that start "
        "(DARTOpti). The positional distance compares edge by edge.",
        (
            Metric(
                "distance_to_last",
                "Distance to the epoch before",
                "The paper's distance between architectures.",
                label="to the epoch before",
                compared=True,
            ),
            Metric(
                "distance_to_start",
                "Distance to the start",
                "The paper's distance between architectures.",
                label="to the start",
                compared=True,
            ),
            Metric(
                "positional_distance_to_start",
                "Positional distance to the start",
                "Distance between architectures, compared edge by edge.",
                label="to the start, positional",
            ),
        ),
        scale="from zero",
    ),
    Chart(
        "search",
        "Marginal contribution",
        "M_i = L_CE(C) - L_CE(C without cell i), D-DARTS equation 3: below zero where the cell helps.",
        (
            Metric(
                "marginal_contribution",
                "Marginal contribution",
                "Loss of the supernet minus its loss without the cell.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Total loss",
        "L_T of each cell, which its alphas minimise: cross-entropy + w_01 · zero-one loss + w_AB · "
        "ablation loss.",
        (
            Metric(
                "loss_total",
                "Total loss",
                "Loss that the alphas of the cell minimise.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Ablation loss",
        "L_AB, D-DARTS equation 4: below zero where the cell helps more than the average cell.",
        (
            Metric(
                "loss_ablation",
                "Ablation loss",
                "Relative deviation of the cell's marginal contribution from the mean.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Zero-one loss",
        "L_01 (FairDARTS), from 0 (every probability at one half) to -0.25 (all decided).",
        (
            Metric(
                "loss_zero_one",
                "Zero-one loss",
                "Pushes the probabilities of the cell towards 0 and 1.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Parts of the gradient",
        "Norms of the three parts of the gradient that each cell's alphas follow, on a logarithmic axis: "
        "of the cross-entropy (g), of the zero-one loss and of the ablation loss, each with its weight.",
        (
            Metric(
                "gradient_norm_cross_entropy",
                "Gradient of the cross-entropy",
                "Norm of g, the gradient of the cross-entropy by the cell's alphas.",
                label="cross-entropy",
                per_cell=True,
            ),
            Metric(
                "gradient_norm_zero_one",
                "Gradient of the zero-one loss",
                "Norm of the gradient of w_01 L_01 by the cell's alphas.",
                label="zero-one loss",
                per_cell=True,
            ),
            Metric(
                "gradient_norm_ablation",
                "Gradient of the ablation loss",
                "Norm of the gradient of w_AB L_AB by the cell's alphas.",
                label="ablation loss",
                per_cell=True,
            ),
        ),
        scale="log",
    ),
    Chart(
        "search",
        "Factors of the gradients",
        "How often the gradient of each cell's alphas holds g, that of the full network's cross-entropy, "
        "and h, that of the ablated networks'. Below zero, g pushes the cell up the cross-entropy.",
        (
            Metric(
                "factor_full",
                "Factor of g",
                "1 + w_AB (dL_AB/dM_i + dL_AB/dmean(M)); below zero the cell climbs the cross-entropy.",
                label="g",
                per_cell=True,
            ),
            Metric(
                "factor_ablated",
                "Factor of h",
                "-w_AB dL_AB/dmean(M).",
                label="h",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Expected cost",
        "What the network that is trained is expected to cost, in millions; `search.budget` penalises "
        "what is above its limit.",
        (
            Metric(
                "expected_params",
                "Expected parameters",
                "Millions of parameters of a network drawn by the edges' and primitives' probabilities.",
                label="parameters",
            ),
            Metric(
                "expected_macs",
                "Expected MACs",
                "Millions of multiply-accumulates per image of such a network.",
                label="MACs",
            ),
        ),
    ),
    Chart(
        "search",
        "Expected latency",
        "What the primitives of the network that is trained are expected to take by the table of "
        "`search.budget`, which penalises what is above its limit.",
        (
            Metric(
                "expected_latency",
                "Expected latency",
                "Milliseconds of the primitives of a network drawn by the probabilities.",
                unit="ms",
            ),
        ),
    ),
    Chart(
        "search",
        "Beta decay",
        "What beta-DARTS adds to the loss of each cell, without its weight: the smaller, the smaller are "
        "the gates.",
        (
            Metric(
                "loss_beta_decay",
                "Beta decay",
                "Mean over the cell's edges of the logarithm of what normalises their gates.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Divergence of the gates",
        "What DrNAS adds to the loss of each cell, without its weight (`kl_weight`): how far the "
        "distributions of its gates are from a flat one.",
        (
            Metric(
                "loss_divergence",
                "Divergence of the gates",
                "Kullback-Leibler divergence, a sum over the cell's edges.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Implicit part of the gradient",
        "Norm of what second-order DARTS subtracts from each cell's gradient: the change that the alphas "
        "make to the next step of the weights.",
        (
            Metric(
                "gradient_norm_implicit",
                "Implicit part of the gradient",
                "Norm of the learning rate times the mixed second derivative along the loss's gradient.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Added loss",
        "The term that `alpha_loss` adds to every cell's loss.",
        (
            Metric(
                "loss_added",
                "Added loss",
                "Term of the cell's loss that the user's alpha_loss computes.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Learning rates",
        "Learning rate of the weights (SGD) and of each cell's alphas (Adam), on a logarithmic axis.",
        (
            Metric(
                "learning_rate_weights",
                "Learning rate of the weights",
                "Learning rate of SGD at the end of the epoch.",
                label="weights",
            ),
            Metric(
                "learning_rate_alphas",
                "Learning rate of the alphas",
                "Learning rate of the cell's Adam at the end of the epoch.",
                label="alphas",
                per_cell=True,
            ),
        ),
        scale="log",
    ),
    Chart(
        "search",
        "Norms of the weights' steps",
        "Norm of the gradient before it is clipped, and of the update; on a logarithmic axis.",
        (
            Metric(
                "gradient_norm_weights",
                "Norm of the weights' gradient",
                "Global norm before clipping.",
                label="gradient",
            ),
            Metric(
                "update_norm_weights",
                "Norm of the weights' update",
                "Global norm of what SGD adds to the weights.",
                label="update",
            ),
        ),
        scale="log",
    ),
    Chart(
        "search",
        "Norm of the alphas' gradient",
        "Norm of the gradient of L_T, cell by cell.",
        (
            Metric(
                "gradient_norm_alphas",
                "Norm of the alphas' gradient",
                "Norm of the gradient of the cell's total loss.",
                per_cell=True,
            ),
        ),
    ),
    Chart(
        "search",
        "Speed of the search",
        "Images per second, both halves together.",
        (
            Metric(
                "images_per_second",
                "Speed of the search",
                "Images per second, both halves together.",
                unit="images/s",
            ),
        ),
        scale="from zero",
    ),
    Chart(
        "search",
        "Time per epoch of the search",
        "Seconds per epoch, without compiling.",
        (Metric("seconds", "Time per epoch", "Seconds, without compiling.", unit="s"),),
        scale="from zero",
    ),
    Chart(
        "random",
        "Candidates",
        "Accuracy of each random architecture on the half of the images that it was not trained on. The "
        "best one is the result.",
        (
            Metric(
                "accuracy",
                "Accuracy of the candidate",
                "Measured on the half of the images that it was not trained on.",
                unit="fraction",
                tag="accuracy_architecture_half",
            ),
        ),
    ),
    Chart(
        "random",
        "Loss of the candidates",
        "Cross-entropy of each random architecture on the same half.",
        (
            Metric(
                "loss",
                "Loss of the candidate",
                "Cross-entropy on the half of the images that it was not trained on.",
            ),
        ),
    ),
    Chart(
        "random",
        "Time per candidate",
        "Seconds of training per candidate, without compiling.",
        (Metric("seconds", "Time per candidate", "Seconds, without compiling.", unit="s"),),
        scale="from zero",
    ),
    Chart(
        "train",
        "Accuracy",
        "Accuracy on the test images after each epoch, and on the augmented training images during it.",
        (
            Metric(
                "accuracy",
                "Test accuracy of the network",
                "Accuracy of the derived network after each epoch of its training.",
                label="test",
                unit="fraction",
                compared=True,
                tag="test_accuracy",
            ),
            Metric(
                "train_accuracy",
                "Training accuracy of the network",
                "Accuracy on the augmented training images during the epoch.",
                label="training",
                unit="fraction",
            ),
        ),
    ),
    Chart(
        "train",
        "Loss",
        "Cross-entropy on the test images; on the training images with what the recipe adds (label "
        "smoothing, auxiliary head).",
        (
            Metric(
                "test_loss",
                "Test loss of the network",
                "Cross-entropy on the test images.",
                label="test",
            ),
            Metric(
                "loss",
                "Training loss of the network",
                "Cross-entropy on the training images, with label smoothing and auxiliary head.",
                label="training",
            ),
        ),
    ),
    *_of_sgd("train"),
    Chart(
        "detect",
        "Average precision",
        "Box AP on the test images, as COCO defines it: the mean over overlaps (IoU) from 0.5 to 0.95, "
        "and that at an overlap of 0.5, which asks only that objects are found.",
        (
            Metric(
                "box_ap",
                "Box AP of the detector",
                "Mean over overlaps from 0.5 to 0.95, on the test images.",
                label="AP",
                unit="fraction",
            ),
            Metric(
                "box_ap50",
                "Box AP of the detector at an overlap of 0.5",
                "On the test images.",
                label="AP50",
                unit="fraction",
            ),
        ),
        scale="zero to one",
    ),
    Chart(
        "detect",
        "Average precision of masks",
        "As that of boxes, with the overlap of masks.",
        (
            Metric(
                "mask_ap",
                "Mask AP of the detector",
                "Mean over overlaps from 0.5 to 0.95, on the test images.",
                label="AP",
                unit="fraction",
            ),
            Metric(
                "mask_ap50",
                "Mask AP of the detector at an overlap of 0.5",
                "On the test images.",
                label="AP50",
                unit="fraction",
            ),
        ),
        scale="zero to one",
    ),
    Chart(
        "detect",
        "Loss",
        "Loss on the training images: of the classes, of the boxes, and of what else the detector finds.",
        (
            Metric("loss", "Loss of the detector", "Sum of all parts.", label="sum"),
            Metric(
                "loss_classification",
                "Loss of the detector's classes",
                "RetinaNet: focal loss of all anchors and classes, by the number of positive anchors; "
                "otherwise cross-entropy of the proposals, by their number.",
                label="classes",
            ),
            Metric(
                "loss_boxes",
                "Loss of the detector's boxes",
                "Difference of the coded boxes, by the number of positive anchors, or of proposals.",
                label="boxes",
            ),
            Metric(
                "loss_objectness",
                "Loss of the proposals' probability",
                "Cross-entropy of the anchors, whether an object is there, by their number.",
                label="objectness",
            ),
            Metric(
                "loss_proposals",
                "Loss of the proposals' boxes",
                "Difference of the coded boxes, by the number of anchors.",
                label="proposals",
            ),
            Metric(
                "loss_masks",
                "Loss of the detector's masks",
                "Cross-entropy of each part of the true class's mask, its mean.",
                label="masks",
            ),
        ),
    ),
    *_of_time("detect"),
    *_of_sgd("detect"),
    *_of_time("train"),
)

# {phase: {key: metric}}
METRICS = {
    phase: {
        metric.key: metric for chart in CHARTS if chart.phase == phase for metric in chart.metrics
    }
    for phase in ("search", "random", "train", "detect")
}

"""First-order DARTS (Liu et al. 2019): softmax over the candidates of an edge, shared cells.

With `none` among the candidates, as published. Without it (`search.darts.none=False`) it is the space S5
that later articles search.
"""

from ddarts_jax.searching.contributions import contributions
from ddarts_jax.searching.method import Method


def gradient(net, variables, alphas, images, labels, context):
    """Returns the gradient of cross-entropy on the architecture split; see `Method.gradient`."""
    measured = contributions(
        *(net, variables, alphas, images, labels),
        progress=context.progress,
        key=context.key,
        ablate=False,
    )
    return measured.gradient, {"loss": measured.loss, "accuracy": measured.accuracy}


METHOD = Method(gradient, relaxation="softmax", share_cells=lambda options: True)

"""First-order DARTS (Liu et al. 2019): softmax over the primitives of an edge, shared cells."""

from ddarts_jax.searching.contributions import contributions
from ddarts_jax.searching.method import Method


def gradient(net, variables, alphas, images, labels, options, key):
    """Returns the gradient of cross-entropy on the architecture split; see `Method.gradient`."""
    measured = contributions(net, variables, alphas, images, labels, ablate=False)
    return measured.gradient, {"loss": measured.loss, "accuracy": measured.accuracy}


METHOD = Method(gradient, relaxation="softmax", share_cells=lambda options: True)

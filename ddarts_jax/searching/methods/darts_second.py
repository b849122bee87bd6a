"""Second-order DARTS (Liu et al. 2019, section 2.3): alphas that look one step of the weights ahead.

See `hypergradient` for what is computed, and for what the published finite difference is.
"""

from ddarts_jax.searching import hypergradient
from ddarts_jax.searching.method import Method


def gradient(net, variables, alphas, images, labels, context):
    """Returns the gradient through one step of the weights; see `Method.gradient`."""
    found = hypergradient.hypergradient(
        *(net, variables, alphas, (images, labels), context),
        difference=context.options.difference,
    )
    metrics = {
        "loss": found.loss,
        "accuracy": found.accuracy,
        "gradient_norm_implicit": found.implicit_norm,
    }
    return found.direct - found.implicit, metrics


METHOD = Method(gradient, relaxation="softmax", share_cells=lambda options: True)

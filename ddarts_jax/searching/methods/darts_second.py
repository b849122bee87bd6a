"""Second-order DARTS (Liu et al. 2019, section 2.3): alphas that look one step of the weights ahead.

See `hypergradient` for what is computed, and for what the published finite difference is.
"""

from ddarts_jax.searching import bilevel, hypergradient
from ddarts_jax.searching.methods import darts


def gradient(net, variables, alphas, images, labels, context):
    """Returns the gradient through one step of the weights; see `Method.gradient`."""
    found = hypergradient.hypergradient(
        *(net, variables, alphas, (images, labels), context),
        difference=context.options.difference,
    )
    metrics = {
        "loss": found.loss,
        "accuracy": found.accuracy,
        "gradient_norm_implicit": bilevel.norm_by_cell(found.implicit),
    }
    return found.direct - found.implicit, metrics


METHOD = darts.METHOD._replace(gradient=gradient)

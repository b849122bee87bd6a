"""FairDARTS (Chu et al. 2020): sigmoid gates and a zero-one loss, shared cells.

Its program takes one mean over the alphas of both cells, with weight 10. Ours is a mean of each cell, for
whose gradient that is 5.
"""

import jax

from ddarts_jax.searching.contributions import contributions
from ddarts_jax.searching.losses import zero_one_loss
from ddarts_jax.searching.method import Method


def gradient(net, variables, alphas, images, labels, context):
    """Returns the gradient of L_CE + w_01 L_01 for every cell; see `Method.gradient`."""
    options = context.options
    measured = contributions(net, variables, alphas, images, labels, ablate=False)
    zero_one = zero_one_loss(alphas)
    by_zero_one = jax.grad(lambda a: zero_one_loss(a).sum())(alphas)
    metrics = {
        "loss": measured.loss,
        "accuracy": measured.accuracy,
        "loss_zero_one": zero_one,
        "loss_total": measured.loss + options.zero_one_weight * zero_one,
    }
    return measured.gradient + options.zero_one_weight * by_zero_one, metrics


METHOD = Method(gradient, share_cells=lambda options: True)

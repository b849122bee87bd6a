"""DrNAS (Chen et al. 2021): an edge's gates are drawn from a Dirichlet distribution, which is learnt.

Its concentrations are elu(alpha) + 1, and the alphas follow the derivative of the drawn gates by them
(pathwise, or implicit: that of the samples of `jax.random.loggamma`). Alphas and weights see a draw of
their own in each step. What keeps the distribution near a flat one is the weight decay of the alphas, or
the divergence from it (`kl_weight`). Its program widens a trained supernet when it drops candidates; here
each stage starts with fresh weights and alphas.
"""

import jax
import jax.numpy as jnp

from ddarts_jax.searching import losses
from ddarts_jax.searching.methods import darts


def gradient(net, variables, alphas, images, labels, context):
    """Returns the gradient of L_CE plus the weighted divergence for every cell; see `Method.gradient`."""
    total, metrics = darts.gradient(net, variables, alphas, images, labels, context)
    weight = context.options.kl_weight
    if weight:
        values, pull_back = jax.vjp(
            lambda alphas: losses.divergence(net.relaxation, alphas), alphas
        )
        (own,) = pull_back(jnp.ones_like(values))
        total += weight * own
        metrics |= {"loss_divergence": values}
    return total, metrics


METHOD = darts.METHOD._replace(gradient=gradient, relaxation="dirichlet")

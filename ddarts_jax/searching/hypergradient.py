"""The gradient of the alphas through one step of the weights (DARTS section 2.3, second order).

`w' = w - xi (mu m + dL_train(w)/dw + decay w)` is the step that the weights would take on their own
split, without clipping; xi is the present learning rate, m the momentum. With `v = dL_val(w')/dw'`,

    dL_val(w'(alpha))/dalpha = dL_val(w')/dalpha - xi D,    D = d<dL_train(w)/dw, v>/dalpha.

DARTS takes D as a difference quotient of dL_train/dalpha between w + e v and w - e v with e = 0.01 /
|v|. That is not the second derivative: across kinks of ReLU and of max pooling between the two it
differs by as much as its own size. A difference of 0 asks for the derivative itself, by reverse mode
through reverse mode, at about three times the cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddarts_jax.distributed import sharding
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.training import optim


class Hypergradient(NamedTuple):
    """The two terms of the gradient, [cells, E, columns]: it is `direct - implicit`.

    Attributes:
        loss: L_val(w'), scalar.
        accuracy: on the same batch, at w'.
        direct: dL_val(w')/dalpha.
        implicit: xi D.
    """

    loss: jax.Array
    accuracy: jax.Array
    direct: jax.Array
    implicit: jax.Array


def hypergradient(
    net: Supernet, variables: Variables, alphas, batch, context, difference: float
) -> Hypergradient:
    """Differentiates the loss after one step of the weights by the alphas.

    Args:
        net: structure.
        variables: weights and statistics; the statistics do not change.
        alphas: [cells, E, columns].
        batch: of the architecture split, images [B, H, W, C] and labels [B].
        context: `bilevel.Context`, with the batch of the weights and their optimizer.
        difference: e |v| of the difference quotient (DARTS: 0.01), whose two gradients are in float32 or
            better; 0: the exact derivative, in the compute dtype.
    """
    weights, statistics = variables

    def loss(weights, alphas, images, labels):
        return supernet.weights_loss(
            weights, alphas, net, statistics, images, labels, context.progress
        )

    def training_gradient(weights, alphas):
        gradient, _ = jax.grad(loss, has_aux=True)(weights, alphas, *context.weight_batch)
        return sharding.mean(gradient)

    settings = context.weights_settings.copy_and_resolve_references()
    if settings.clip:  # stays a part of the chain, whose state this is
        settings.clip = float("inf")
    step, state = optim.weights_optimizer(settings, context.total_steps), context.weights_optimizer
    updates, stepped = step.update(training_gradient(weights, alphas), state, weights)
    ahead = optax.apply_updates(weights, updates)
    ((value, (_, accuracy)), (vector, direct)) = sharding.mean(
        jax.value_and_grad(loss, (0, 1), has_aux=True)(ahead, alphas, *batch)
    )

    if difference:
        images, labels = context.weight_batch
        images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        size = difference / optax.global_norm(vector)

        def beside(sign):
            shifted = jax.tree.map(lambda w, v: w + sign * size * v, weights, vector)
            return jax.grad(loss, 1, has_aux=True)(shifted, alphas, images, labels)[0]

        mixed = sharding.mean((beside(1) - beside(-1)) / (2 * size))
    else:

        def along_vector(alphas):
            # Not averaged over devices here: the whole is, once.
            gradient, _ = jax.grad(loss, has_aux=True)(weights, alphas, *context.weight_batch)
            return optax.tree.vdot(gradient, vector)

        mixed = sharding.mean(jax.grad(along_vector)(alphas))
    rate = optim.weights_learning_rate(stepped)
    return Hypergradient(value, accuracy, direct, rate * mixed)

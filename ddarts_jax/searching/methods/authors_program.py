"""The authors' public program, which accumulates gradients across cells and steps (for comparison only).

The program calls backward once per cell and clears little in between. So, with N cells, g the
gradient of cross-entropy on the architecture split and z_i that of w_01 L_01 of cell i:

- cell i steps on (i + 1) g_i + z_i + the remainder of the step before;
- the remainder for its next step is (N - 1 - i) g_i plus the gradient of the weights' loss by alpha_i;
- the weights step on N times the gradient on the architecture split plus the one on their own split.

Its ablation loss does not move the alphas: it is a constant there. While the alphas are fixed (at the
beginning of a search from a network) their gradients do not accumulate. N counts distinct cells: cells of
a start that share an architecture count once. The paper does not describe any of this.
"""

import jax
import jax.numpy as jnp
import optax

from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import bilevel
from ddarts_jax.searching.losses import zero_one_loss
from ddarts_jax.searching.method import Method
from ddarts_jax.searching.methods import ddarts
from ddarts_jax.training import optim


def make_step(
    method,
    net: Supernet,
    settings,
    total_steps: int,
    fixed_steps: int = 0,
    alpha_loss=None,
    epochs: int = 1,
    budgets: tuple = (),
):
    """Builds the step; see `bilevel.make_step`.

    `state.leftover` [cells, E, O] contains the remainder of the gradients.

    Raises:
        UserError: an `alpha_loss` or a budget is given, for which the accumulation is not defined.
    """
    if alpha_loss is not None or budgets:
        raise UserError(
            "The authors' program takes no alpha_loss and no budget; use search.method='ddarts'."
        )
    weights_optimizer, alphas_optimizer = bilevel.optimizers(settings, total_steps, fixed_steps)
    options = settings[settings.method]
    count = len(set(net.seq))
    order = jnp.arange(count)[:, None, None]

    def init(variables, alphas):
        state = bilevel.fresh(variables, alphas, weights_optimizer, alphas_optimizer)
        return state._replace(leftover=jnp.zeros_like(alphas))

    def differentiate(*arguments):
        by_weights_and_alphas = jax.value_and_grad(supernet.weights_loss, (0, 1), has_aux=True)
        return sharding.mean(by_weights_and_alphas(*arguments))

    def step(state, key, weight_batch, architecture_batch):
        weights, statistics = state.variables
        _, measured = ddarts.measure(
            net, state.variables, state.alphas, *architecture_batch, options, key, "none"
        )
        (_, (statistics, _)), (by_weights, g) = differentiate(
            weights, state.alphas, net, statistics, *architecture_batch
        )
        z = options.zero_one_weight * jax.grad(lambda a: zero_one_loss(a).sum())(state.alphas)
        gradient = (order + 1) * g + z + state.leftover
        alphas, alphas_state = bilevel.moved_alphas(state, gradient, alphas_optimizer, fixed_steps)

        (loss, (statistics, accuracy)), (own, by_alphas) = differentiate(
            weights, alphas, net, statistics, *weight_batch
        )
        piled = jax.tree.map(lambda there, here: count * there + here, by_weights, own)
        updates, weights_state = weights_optimizer.update(piled, state.weights_optimizer, weights)
        weights = optax.apply_updates(weights, updates)
        leftover = (count - 1 - order) * g + by_alphas
        measured |= {
            "gradient_norm_alphas": bilevel.norm_by_cell(gradient),
            "weights_loss": loss,
            "weights_accuracy": accuracy,
            "gradient_norm_weights": optax.global_norm(piled),
            "update_norm_weights": optax.global_norm(updates),
        }
        state = state._replace(
            step=state.step + 1,
            variables=Variables(weights, statistics),
            alphas=alphas,
            weights_optimizer=weights_state,
            alphas_optimizer=alphas_state,
            leftover=optim.held(state.step, fixed_steps, state.leftover, leftover),
        )
        return state, measured

    return init, jax.jit(step)


METHOD = Method(None, make_step=make_step)

"""The bilevel step of the authors' public program, whose gradients pile up; for comparison only.

The program calls backward once for every cell and clears little in between. So, with N cells, g the
gradient of cross-entropy on the architecture split and z_i that of w_01 L_01 of cell i:

- cell i steps on (i + 1) g_i + z_i + what was left over;
- left over for its next step are (N - 1 - i) g_i and the gradient of the weights' loss by alpha_i;
- the weights step on N parts of the gradient on the architecture split and one on their own split.

While the alphas stand still (a search from a network, at first) nothing of theirs accumulates. N counts
distinct cells: those of a start that share an architecture are one.

The paper describes none of this. `search.accumulated_gradients` turns it on.
"""

import jax
import jax.numpy as jnp
import optax

from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import architect
from ddarts_jax.searching.losses import zero_one_loss
from ddarts_jax.training import optim


def make_step(net: Supernet, settings, weights_optimizer, alphas_optimizer, fixed_steps: int = 0):
    """Builds the step.

    Args:
        net: the supernet.
        settings: the config's `search` section.
        weights_optimizer: of the weights.
        alphas_optimizer: of the alphas.
        fixed_steps: at the beginning, in which the alphas and their optimizer stand still.

    Returns:
        `step` as `search.search_step` returns it; `state.leftover` [cells, E, O] holds what is left.
    """
    count = len(set(net.seq))
    order = jnp.arange(count)[:, None, None]

    differentiate = jax.value_and_grad(supernet.weights_loss, (0, 1), has_aux=True)

    def step(state, key, weight_batch, architecture_batch):
        weights, statistics = state.variables
        _, measured = architect.architecture_gradient(
            net, state.variables, state.alphas, *architecture_batch, settings, key
        )
        (_, (statistics, _)), (by_weights, g) = differentiate(
            weights, state.alphas, net, statistics, *architecture_batch
        )
        z = settings.zero_one_weight * jax.grad(lambda a: zero_one_loss(a).sum())(state.alphas)
        gradient = (order + 1) * g + z + state.leftover
        updates, alphas_state = alphas_optimizer.update(
            gradient, state.alphas_optimizer, state.alphas
        )
        alphas = optax.apply_updates(state.alphas, updates)
        alphas, alphas_state = optim.held(
            state.step, fixed_steps, (state.alphas, state.alphas_optimizer), (alphas, alphas_state)
        )

        (loss, (statistics, accuracy)), (own, by_alphas) = differentiate(
            weights, alphas, net, statistics, *weight_batch
        )
        piled = jax.tree.map(lambda there, here: count * there + here, by_weights, own)
        updates, weights_state = weights_optimizer.update(piled, state.weights_optimizer, weights)
        weights = optax.apply_updates(weights, updates)
        leftover = (count - 1 - order) * g + by_alphas
        measured |= {
            "gradient_norm_alphas": jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2))),
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

    return step

"""The bilevel step: alphas on a batch of the architecture split, then weights on one of their split.

First-order bilevel optimisation (DARTS section 2.3; D-DARTS section 3.2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddarts_jax.configuration import options_of
from ddarts_jax.distributed import sharding
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import budget
from ddarts_jax.searching.losses import beta_decay
from ddarts_jax.training import optim


class SearchState(NamedTuple):
    """The whole state of a search.

    Attributes:
        step: int32 scalar, steps done.
        variables: the supernet's weights and BatchNorm statistics.
        alphas: float32 [distinct cells, E, columns].
        weights_optimizer: SGD's state.
        alphas_optimizer: every cell's Adam, the cells on the leading axis of each leaf.
        leftover: state that the method keeps between steps; empty for most methods.
    """

    step: jax.Array
    variables: Variables
    alphas: jax.Array
    weights_optimizer: optax.OptState
    alphas_optimizer: optax.OptState
    leftover: jax.Array | tuple = ()


class Context(NamedTuple):
    """What else a method's gradient may depend on.

    Attributes:
        options: the method's group of the config; empty if it has none.
        progress: scalar, the share of the search's epochs that are over; see `Relaxation.gates`.
        key: a random key.
        weight_batch: the batch on which the weights step next: images [B, H, W, C], labels [B].
        weights_settings: section `search.weights` of the config.
        weights_optimizer: state of the weights' optimizer.
        total_steps: steps over which the weights' learning rate falls.
    """

    options: Any
    progress: jax.Array
    key: jax.Array
    weight_batch: tuple
    weights_settings: Any
    weights_optimizer: optax.OptState
    total_steps: int


def make_step(
    method,
    net: Supernet,
    settings,
    total_steps: int,
    fixed_steps: int = 0,
    alpha_loss: Callable | None = None,
    epochs: int = 1,
    budgets: tuple = (),
):
    """Builds the bilevel step.

    Args:
        method: the alphas follow its `gradient`, see `method.Method`.
        net: the supernet.
        settings: the config's `search` section.
        total_steps: steps over which the learning rates fall, those of the alphas from `fixed_steps` on.
        fixed_steps: number of first steps in which the alphas and their optimizer do not change.
        alpha_loss: a further term of every cell's loss, `(gates [cells, E, G], net) -> [cells]`; None:
            no such term. The metric `loss_added` reports it.
        epochs: number of epochs of `total_steps`; what changes by epoch follows it.
        budgets: see `budget.of`; their penalties are part of every cell's loss.

    Returns:
        `init(variables, alphas) -> SearchState`, and
        `step(state, key, weight_batch, architecture_batch) -> (state, metrics)`, where a batch is
        (images [B, H, W, C], labels [B]) and metrics are scalars or [cells].
    """
    weights_optimizer, alphas_optimizer = optimizers(settings, total_steps, fixed_steps)
    options = options_of(settings)

    def init(variables, alphas):
        return fresh(variables, alphas, weights_optimizer, alphas_optimizer)

    def step(state: SearchState, key, weight_batch, architecture_batch):
        progress = progress_at(state.step, total_steps, epochs)
        with jax.named_scope("architecture_step"):
            context = Context(
                *(options, progress, key, weight_batch),
                *(settings.weights, state.weights_optimizer, total_steps),
            )
            gradient, measured = method.gradient(
                net, state.variables, state.alphas, *architecture_batch, context
            )
            weight = options.get("beta_decay_weight", 0)
            decay = weight * progress if weight else None
            for further, metrics in further_terms(net, state.alphas, decay, budgets, alpha_loss):
                gradient += further
                measured |= metrics
            measured |= {"gradient_norm_alphas": norm_by_cell(gradient)}
            alphas, alphas_state = moved_alphas(state, gradient, alphas_optimizer, fixed_steps)

        with jax.named_scope("weight_step"):
            differentiate = jax.value_and_grad(supernet.weights_loss, has_aux=True)
            (loss, (statistics, accuracy)), gradient = sharding.mean(
                differentiate(
                    *(state.variables.weights, alphas, net, state.variables.statistics),
                    *(*weight_batch, progress, jax.random.fold_in(key, 1)),
                )
            )
            updates, weights_state = weights_optimizer.update(
                gradient, state.weights_optimizer, state.variables.weights
            )
            weights = optax.apply_updates(state.variables.weights, updates)

        measured |= {
            "weights_loss": loss,
            "weights_accuracy": accuracy,
            "gradient_norm_weights": optax.global_norm(gradient),
            "update_norm_weights": optax.global_norm(updates),
        }
        variables = Variables(weights, statistics)
        return SearchState(state.step + 1, variables, alphas, weights_state, alphas_state), measured

    # Jitted, so that the shapes of its metrics and the chunk share one trace.
    return init, jax.jit(step)


def progress_at(step, total_steps: int, epochs: int):
    """The share of the epochs that are over at a step, float32; constant within an epoch."""
    return (step // max(total_steps // epochs, 1)).astype(jnp.float32) / epochs


def optimizers(settings, total_steps: int, fixed_steps: int):
    """Returns the optimizers of the weights and of the alphas; arguments as for `make_step`."""
    return (
        optim.weights_optimizer(settings.weights, total_steps),
        optim.alphas_optimizer(settings.alphas, total_steps - fixed_steps),
    )


def fresh(variables, alphas, weights_optimizer, alphas_optimizer) -> SearchState:
    """Returns the state before the first step."""
    return SearchState(
        jnp.zeros((), jnp.int32),
        variables,
        alphas,
        weights_optimizer.init(variables.weights),
        alphas_optimizer.init(alphas),
    )


def moved_alphas(state: SearchState, gradient, optimizer, fixed_steps: int):
    """Returns the alphas after a step and their optimizer's state; both as before in the fixed steps."""
    before = state.alphas, state.alphas_optimizer
    updates, optimizer_state = optimizer.update(gradient, *reversed(before))
    after = optax.apply_updates(state.alphas, updates), optimizer_state
    return optim.held(state.step, fixed_steps, before, after)


def norm_by_cell(gradient):
    """Returns the Euclidean norm of every cell's part of a gradient [cells, E, columns]: [cells]."""
    return jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)))


def further_terms(net: Supernet, alphas, decay, budgets, alpha_loss):
    """Yields (gradient [cells, E, columns], metrics) of each further term of the cells' losses.

    Args:
        net: structure.
        alphas: [cells, E, columns].
        decay: the present weight of the beta decay; None: there is none.
        budgets: see `make_step`.
        alpha_loss: see `make_step`.
    """
    if decay is not None:
        values, pull_back = jax.vjp(lambda alphas: beta_decay(net.relaxation, alphas), alphas)
        # The loss of a cell depends only on its own alphas.
        (gradient,) = pull_back(jnp.ones_like(values))
        yield decay * gradient, {"loss_beta_decay": values}
    if budgets:
        penalty = jax.grad(
            lambda alphas: budget.penalty(budgets, net.relaxation, alphas), has_aux=True
        )
        yield penalty(alphas)
    if alpha_loss is not None:
        added, gradient = _added(alpha_loss, net, alphas)
        yield gradient, {"loss_added": added}


def _added(alpha_loss: Callable, net: Supernet, alphas):
    """The values [cells] of a user's loss term, and its gradient [cells, E, columns].

    The term of one cell may depend on other cells' gates; a cell follows only its own term.
    """

    def of_cell(alphas, cell):
        return alpha_loss(net.gates(alphas), net)[cell]

    cells = jnp.arange(len(alphas))
    values, gradients = jax.vmap(jax.value_and_grad(of_cell), in_axes=(None, 0))(alphas, cells)
    return values, gradients[cells, cells]

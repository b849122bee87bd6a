"""DOTS (Gu et al. 2021): a search for operations, then one for the topology.

In the first stage the candidates without weights compete apart from the others; the best of each group
stays on every edge. In the second, with fresh weights, those two compete, and so do the pairs of edges
that lead into a node, at a temperature that falls: at its end one pair and one candidate are left. There
alphas and weights follow the gradient of one loss on all training images.

Its program has a BatchNorm and a ReLU before the classifier, trains the second stage on half of the
images until the alphas move, and has one cosine for both stages; none of that is done here.
"""

import jax
import optax

from ddarts_jax.distributed import sharding
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import bilevel
from ddarts_jax.searching.methods import darts
from ddarts_jax.searching.stages import Stage


def stages(settings) -> tuple[Stage, Stage]:
    """The search for operations, with epochs of its own, and that for the topology."""
    own = settings.dots.operations
    changes = {
        "epochs": own.epochs,
        "warmup_epochs": own.warmup_epochs,
        "alphas.b1": own.b1,
    }
    return (
        Stage(settings.num_cells, changes=tuple(changes.items())),
        Stage(settings.num_cells, relaxation="balance", topology="pairs", one_level=True),
    )


def make_step(method, net: Supernet, settings, *args, **options):
    """Builds the step of the stage that the supernet is of; see `bilevel.make_step`.

    That for the topology takes one batch: `step(state, key, batch)`.
    """
    build = one_level_step if net.relaxation.kind == "balance" else bilevel.make_step
    return build(method, net, settings, *args, **options)


def one_level_step(
    method,
    net: Supernet,
    settings,
    total_steps: int,
    fixed_steps: int = 0,
    alpha_loss=None,
    epochs: int = 1,
    budgets: tuple = (),
):
    """Builds the step of alphas and weights on one batch, from one gradient; see `make_step`."""
    weights_optimizer, alphas_optimizer = bilevel.optimizers(settings, total_steps, fixed_steps)

    def init(variables, alphas):
        return bilevel.fresh(variables, alphas, weights_optimizer, alphas_optimizer)

    def step(state, key, batch):
        progress = bilevel.progress_at(state.step, total_steps, epochs)
        differentiate = jax.value_and_grad(supernet.weights_loss, (0, 1), has_aux=True)
        (loss, (statistics, accuracy)), (by_weights, gradient) = sharding.mean(
            differentiate(
                *(state.variables.weights, state.alphas, net, state.variables.statistics),
                *(*batch, progress, key),
            )
        )
        measured = {"loss": loss, "accuracy": accuracy}
        for further, metrics in bilevel.further_terms(net, state.alphas, None, budgets, alpha_loss):
            gradient += further
            measured |= metrics

        alphas, alphas_state = bilevel.moved_alphas(state, gradient, alphas_optimizer, fixed_steps)
        updates, weights_state = weights_optimizer.update(
            by_weights, state.weights_optimizer, state.variables.weights
        )
        weights = optax.apply_updates(state.variables.weights, updates)
        measured |= {
            "gradient_norm_alphas": bilevel.norm_by_cell(gradient),
            "gradient_norm_weights": optax.global_norm(by_weights),
            "update_norm_weights": optax.global_norm(updates),
        }
        variables = Variables(weights, statistics)
        state = bilevel.SearchState(state.step + 1, variables, alphas, weights_state, alphas_state)
        return state, measured

    return init, jax.jit(step)


METHOD = darts.METHOD._replace(relaxation="groups", make_step=make_step, stages=stages)

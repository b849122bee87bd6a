"""Optimizers: SGD for the weights, and one Adam per cell for the alphas."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ddarts_jax.errors import UserError


def at_least_float32(tree, dtype):
    """Casts parameters to float64 if the compute dtype is float64, else to float32."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(jnp.float32, dtype)), tree)


def cosine(first: float, final: float, steps: int) -> optax.Schedule:
    """Returns the schedule that falls from `first` to `final` by half a cosine in `steps` steps.

    Unlike `optax.cosine_decay_schedule`, whose final value is a factor, `first` may be 0.
    """
    fall = optax.cosine_decay_schedule(first - final, steps)
    return lambda count: final + fall(count)


def exponential(first: float, decay: float, epoch_steps: int) -> optax.Schedule:
    """Returns the schedule that is constant within an epoch and `decay` times as large in the next.

    It equals PyTorch's `StepLR(step_size=1, gamma=decay)`, stepped once per epoch.
    """
    return optax.exponential_decay(first, epoch_steps, decay, staircase=True)


def in_tenths(first: float, after: Sequence[int], warmup_steps: int) -> optax.Schedule:
    """Returns the schedule of detectors: a tenth after each of some steps, and a warm-up.

    In the first `warmup_steps` the rate rises linearly from a thousandth (MMDetection).
    """
    falling = optax.piecewise_constant_schedule(first, dict.fromkeys(after, 0.1))
    if not warmup_steps:
        return falling
    rise = optax.linear_schedule(1e-3, 1.0, warmup_steps)
    return lambda count: falling(count) * rise(count)


def weights_optimizer(
    settings: ConfigDict, steps: int, warmup_steps: int = 0
) -> optax.GradientTransformation:
    """Returns PyTorch's SGD with clipping of the gradient's global norm and a schedule.

    Args:
      settings: `config.search.weights` or `config.train`: learning_rate, final_learning_rate,
        momentum, weight_decay (L2, added to the clipped gradient), clip; for `train` also schedule,
        decay and epochs. The search uses the schedule "cosine".
      steps: number of updates over which the learning rate falls.
      warmup_steps: number of first steps in which it rises linearly from 0 instead.
    """
    first = settings.learning_rate
    if settings.get("schedule", "cosine") == "exponential":
        schedule = exponential(first, settings.decay, steps // settings.epochs)
    else:
        schedule = cosine(first, settings.final_learning_rate, steps - warmup_steps)
    if warmup_steps:
        rise = optax.linear_schedule(0.0, first, warmup_steps)
        schedule = optax.join_schedules([rise, schedule], [warmup_steps])
    return sgd(schedule, settings)


def sgd(schedule: optax.Schedule, settings: ConfigDict, mask=None) -> optax.GradientTransformation:
    """Returns PyTorch's SGD with clipping of the gradient's global norm.

    Args:
      schedule: of the learning rate, by step.
      settings: momentum, weight_decay and clip; see `weights_optimizer`.
      mask: a tree of booleans, the weights that decay; None: all.
    """

    @optax.inject_hyperparams
    def scheduled(learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(
            *([optax.clip_by_global_norm(settings.clip)] if settings.clip else []),
            optax.add_decayed_weights(settings.weight_decay, mask),
            optax.trace(settings.momentum),
            optax.scale_by_learning_rate(learning_rate),
        )

    return scheduled(schedule)


def alphas_optimizer(settings: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Returns the optimizers of all cells as one transformation of the alphas.

    Each cell owns its moments, its count, its learning rate and its place in the schedule: every
    leaf of the state has the cells on its leading axis, and no cell depends on another, but for the
    clipping, where it is asked for: P-DARTS clips by the norm over all cells.

    Args:
      settings: `config.search.alphas`: learning_rate, final_learning_rate, cell_learning_rates,
        weight_decay (L2 in the gradient, as PyTorch's Adam), b1, b2, clip.
      steps: number of updates over which the learning rates fall.

    Returns:
      A transformation of arrays [distinct cells, edges, columns]; `update` needs the alphas.
    """

    @optax.inject_hyperparams
    def adam(peak: jax.Array, fall: jax.Array) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay),
            optax.scale_by_adam(settings.b1, settings.b2),
            optax.scale_by_learning_rate(peak * fall),
        )

    first, final = settings.learning_rate, settings.final_learning_rate
    fall = cosine(1.0, final / first if first else 0.0, steps)

    def init(alphas: jax.Array) -> optax.OptState:
        peaks = settings.cell_learning_rates or (first,) * len(alphas)
        if len(peaks) != len(alphas):
            raise UserError(
                f"config.search.alphas.cell_learning_rates has {len(peaks)} rates; it must be empty "
                f"or have one for each of the {len(alphas)} distinct cells."
            )
        peaks = jnp.asarray(peaks, alphas.dtype)
        return jax.vmap(lambda cell, peak: adam(peak, fall).init(cell))(alphas, peaks)

    def update(
        gradients: jax.Array, state: optax.OptState, alphas: jax.Array
    ) -> tuple[jax.Array, optax.OptState]:
        if settings.clip:
            gradients, _ = optax.clip_by_global_norm(settings.clip).update(gradients, None)
        # The peaks are in the state, where `init` put them; the one given here is not used.
        return jax.vmap(adam(first, fall).update)(gradients, state, alphas)

    return optax.GradientTransformation(init, update)


def held(step: jax.Array, fixed_steps: int, before, after):
    """Returns `before` in the first `fixed_steps` steps and `after` from then on; both are pytrees."""
    if not fixed_steps:
        return after
    return jax.tree.map(lambda b, a: jnp.where(step < fixed_steps, b, a), before, after)


def weights_learning_rate(state: optax.OptState) -> jax.Array:
    """Returns the learning rate [] of the last update (before any update, that of the first)."""
    return state.hyperparams["learning_rate"]


def alphas_learning_rates(state: optax.OptState) -> jax.Array:
    """Returns each cell's learning rate [distinct cells]; see `weights_learning_rate`."""
    return state.hyperparams["peak"] * state.hyperparams["fall"]

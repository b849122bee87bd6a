"""The architecture side of the bilevel step: a loss of its own for every cell (D-DARTS section 3.2).

`L_T_i = L_CE + w_01 L_01_i + w_AB L_AB_i`, and alpha_i gets exactly dL_T_i / dalpha_i.
"""

import jax
import jax.numpy as jnp

from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching.contributions import Contributions, contributions
from ddarts_jax.searching.losses import ablation_loss, zero_one_loss


def total_gradient(measured: Contributions, alphas, ablation_weight, zero_one_weight):
    """dL_T_i / dalpha_i for every cell i.

    Args:
        measured: losses and gradients of the full and the ablated networks.
        alphas: [cells, E, O].
        ablation_weight: w_AB.
        zero_one_weight: w_01.

    Returns:
        [cells, E, O].
    """
    # L_01 of a cell depends on that cell's alphas alone, so the sum's gradient holds each cell's own.
    gradient = measured.gradient + zero_one_weight * jax.grad(lambda a: zero_one_loss(a).sum())(
        alphas
    )
    if measured.ablated_gradient is None:
        return gradient
    marginal = measured.marginal
    by_own, by_mean = jax.vmap(jax.grad(ablation_loss, argnums=(0, 1)), in_axes=(0, None))(
        marginal, marginal.mean()
    )
    g, h = measured.gradient, measured.ablated_gradient
    per_cell = (slice(None), None, None)
    return gradient + ablation_weight * (by_own[per_cell] * g + by_mean[per_cell] * (g - h))


def architecture_gradient(
    supernet: Supernet, variables: Variables, alphas, images, labels, settings, key
):
    """Losses and gradients of all cells on one batch of the architecture split.

    Args:
        supernet: structure.
        variables: weights and statistics, left alone.
        alphas: [cells, E, O].
        images: [B, H, W, channels], normalised.
        labels: [B].
        settings: the config's `search` section.
        key: random key; used by `ablation.removal = "random"` alone.

    Returns:
        gradient [cells, E, O], and a dict of metrics: scalars `loss` (L_CE on this split) and
        `accuracy`; [cells] `loss_zero_one`, `loss_ablation`, `loss_total`, `marginal_contribution`
        (those of the ablation only where w_AB is not 0).
    """
    ablation = settings.ablation
    table = None
    if ablation.removal == "random":
        table = jax.random.uniform(key, alphas.shape, alphas.dtype)
    measured = contributions(
        supernet,
        variables,
        alphas,
        images,
        labels,
        ablate=ablation.weight != 0,
        gradient=ablation.gradient,
        table=table,
        microbatch=settings.microbatch,
    )
    gradient = total_gradient(measured, alphas, ablation.weight, settings.zero_one_weight)

    zero_one = zero_one_loss(alphas)
    total = measured.loss + settings.zero_one_weight * zero_one
    metrics = {"loss": measured.loss, "accuracy": measured.accuracy, "loss_zero_one": zero_one}
    if ablation.weight != 0:
        marginal = measured.marginal
        relative = ablation_loss(marginal, marginal.mean())
        total += ablation.weight * relative
        metrics |= {"marginal_contribution": marginal, "loss_ablation": relative}
    metrics["loss_total"] = total
    metrics["gradient_norm_alphas"] = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)))
    return gradient, metrics

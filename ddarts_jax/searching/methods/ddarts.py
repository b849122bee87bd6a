"""D-DARTS: every cell has its own architecture, and a loss of its own (section 3.2).

`L_T_i = L_CE + w_01 L_01_i + w_AB L_AB_i`, and alpha_i gets exactly dL_T_i / dalpha_i.
"""

import logging

import jax

from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import bilevel
from ddarts_jax.searching.contributions import Contributions, contributions
from ddarts_jax.searching.losses import ablation_loss, zero_one_loss
from ddarts_jax.searching.method import Method

_logger = logging.getLogger(__name__)


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


def measure(net: Supernet, variables: Variables, alphas, images, labels, options, key, gradient):
    """Measures the full and, unless w_AB is 0, the ablated networks on one batch.

    Args:
        net: structure.
        variables: weights and statistics, left alone.
        alphas: [cells, E, O].
        images: [B, H, W, channels], normalised.
        labels: [B].
        options: zero_one_weight, ablation.weight, ablation.removal and microbatch, as in
            `config.search.ddarts`.
        key: random key; used by `ablation.removal = "random"` alone.
        gradient: of the ablated networks, "full" or "none"; see `contributions`.

    Returns:
        `Contributions`, and a dict of metrics: scalars `loss` (L_CE on this split) and `accuracy`;
        [cells] `loss_zero_one`, `loss_ablation`, `loss_total`, `marginal_contribution` (those of the
        ablation only where w_AB is not 0).
    """
    ablation = options.ablation
    table = None
    if ablation.removal == "random":
        table = jax.random.uniform(key, alphas.shape, alphas.dtype)
    measured = contributions(
        net,
        variables,
        alphas,
        images,
        labels,
        ablate=ablation.weight != 0,
        gradient=gradient,
        table=table,
        microbatch=options.microbatch,
    )
    zero_one = zero_one_loss(alphas)
    total = measured.loss + options.zero_one_weight * zero_one
    metrics = {"loss": measured.loss, "accuracy": measured.accuracy, "loss_zero_one": zero_one}
    if ablation.weight != 0:
        marginal = measured.marginal
        relative = ablation_loss(marginal, marginal.mean())
        total += ablation.weight * relative
        metrics |= {"marginal_contribution": marginal, "loss_ablation": relative}
    metrics["loss_total"] = total
    return measured, metrics


def architecture_gradient(net: Supernet, variables, alphas, images, labels, options, key):
    """Returns dL_T_i / dalpha_i for every cell i [cells, E, O], and metrics; see `measure`."""
    measured, metrics = measure(
        net, variables, alphas, images, labels, options, key, options.ablation.gradient
    )
    gradient = total_gradient(measured, alphas, options.ablation.weight, options.zero_one_weight)
    return gradient, metrics


def make_step(method, net: Supernet, settings, *args):
    """Builds the bilevel step; see `bilevel.make_step`."""
    if len(set(net.seq)) == 1 and settings[settings.method].ablation.weight:
        _logger.info("search: a single distinct cell contributes the mean: its ablation loss is 0")
    return bilevel.make_step(method, net, settings, *args)


METHOD = Method(
    architecture_gradient, share_cells=lambda options: options.share_cells, make_step=make_step
)

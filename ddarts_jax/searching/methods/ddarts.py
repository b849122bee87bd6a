"""D-DARTS: every cell has its own architecture and its own loss (section 3.2).

`L_T_i = L_CE + w_01 L_01_i + w_AB L_AB_i`, and alpha_i gets exactly dL_T_i / dalpha_i.
"""

import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import bilevel
from ddarts_jax.searching.contributions import Contributions, contributions
from ddarts_jax.searching.losses import ablation_loss, zero_one_loss
from ddarts_jax.searching.method import Method

_logger = logging.getLogger(__name__)


class Parts(NamedTuple):
    """The parts of every cell's gradient; the alphas follow their sum.

    Attributes:
        cross_entropy: [cells, E, columns], g.
        zero_one: [cells, E, columns], gradient of w_01 L_01.
        ablation: [cells, E, columns], gradient of w_AB L_AB; zeros if that has no gradient.
        factor_full: [cells], factor of g in the sum: negative where a cell climbs the cross-entropy.
        factor_ablated: [cells], factor of h in the sum.
    """

    cross_entropy: jax.Array
    zero_one: jax.Array
    ablation: jax.Array
    factor_full: jax.Array
    factor_ablated: jax.Array

    @property
    def total(self):
        """dL_T_i / dalpha_i for every cell i, [cells, E, columns]."""
        return self.cross_entropy + self.zero_one + self.ablation


def mean_shares(net: Supernet, mean_of: str, dtype):
    """The share of each distinct cell in the mean contribution, [cells]; None: equal ones.

    Args:
        net: structure.
        mean_of: `config.search.ddarts.ablation.mean_of`.
        dtype: of the losses.

    Raises:
        UserError: the mean would be of no cell.
    """
    if mean_of == "all":
        return None
    cells = np.arange(net.alphas_shape[0]) != net.seq[-1]
    if not cells.any():
        raise UserError(
            "config.search.ddarts.ablation.mean_of='but_last' leaves no cell for the mean, as all cells "
            "share one architecture: use 'all'."
        )
    return jnp.asarray(cells / cells.sum(), dtype)


def relative_loss(measured: Contributions, relative_to: str, contribution, mean):
    """L_AB of a cell with a contribution, both [...].

    Args:
        measured: contributions of all cells; their spread counts as a constant.
        relative_to: "mean" or "spread", what the distance from the mean is divided by.
        contribution: M_i.
        mean: mean(M).
    """
    spread = measured.spread if relative_to == "spread" else None
    return ablation_loss(contribution, mean, spread=spread)


def gradient_parts(
    measured: Contributions,
    alphas,
    ablation_weight,
    zero_one_weight,
    mean_gradient="full",
    relative_to="mean",
    of_candidates=lambda alphas: alphas,
) -> Parts:
    """Differentiates every cell's own loss by its own alphas.

    Args:
        measured: losses and gradients of the full and the ablated networks.
        alphas: [cells, E, columns].
        ablation_weight: w_AB.
        zero_one_weight: w_01.
        mean_gradient: "full" differentiates mean(M) too, which needs `measured.ablated_gradient`: without
            it L_AB has no gradient. "stopped" takes mean(M) as a constant.
        relative_to: see `relative_loss`.
        of_candidates: takes the alphas of candidates, which alone have a zero-one loss.
    """
    # L_01 of a cell depends only on that cell's alphas, so the sum's gradient contains each cell's own.
    zero_one = zero_one_weight * jax.grad(lambda a: zero_one_loss(of_candidates(a)).sum())(alphas)
    g, h = measured.gradient, measured.ablated_gradient
    alone = len(alphas) == 1  # a single distinct cell is the mean, so that L_AB is 0
    if measured.ablated_losses is None or alone or (h is None and mean_gradient == "full"):
        none = jnp.zeros(len(alphas), g.dtype)
        return Parts(g, zero_one, jnp.zeros_like(g), 1 + none, none)
    differentiated = jax.grad(functools.partial(relative_loss, measured, relative_to), (0, 1))
    by_own, by_mean = jax.vmap(differentiated, in_axes=(0, None))(measured.marginal, measured.mean)
    per_cell = (slice(None), None, None)
    if mean_gradient == "stopped":
        by_mean = jnp.zeros_like(by_mean)
        ablation = ablation_weight * by_own[per_cell] * g
    else:
        ablation = ablation_weight * (by_own[per_cell] * g + by_mean[per_cell] * (g - h))
    factor_full = 1 + ablation_weight * (by_own + by_mean)
    return Parts(g, zero_one, ablation, factor_full, -ablation_weight * by_mean)


def random_gates(net: Supernet, alphas, progress, key):
    """The gates [cells, E, G] of a removed cell for `ablation.removal="random"`.

    Those of primitives are uniform in [0, 1], 0 where a stage has dropped them; others stay.
    """
    gates = net.gates(alphas, progress, key)
    shape = *gates.shape[:2], len(net.primitives)
    drawn = jax.random.uniform(key, shape, alphas.dtype)
    if net.relaxation.kept is not None:
        drawn = jnp.where(net.relaxation.kept_primitives, drawn, 0)
    return jnp.concatenate([drawn, gates[..., shape[-1] :]], -1)


def measure(
    net: Supernet,
    variables: Variables,
    alphas,
    images,
    labels,
    options,
    key,
    gradient,
    progress=1.0,
    mean_of="all",
    relative_to="mean",
):
    """Measures the full and, unless w_AB is 0, the ablated networks on one batch.

    Args:
        net: structure.
        variables: weights and statistics, not changed.
        alphas: [cells, E, columns].
        images: [B, H, W, channels], normalised.
        labels: [B].
        options: zero_one_weight, ablation.weight, ablation.removal and microbatch, as in
            `config.search.ddarts`.
        key: random key of what is drawn: dropout, and the gates of `ablation.removal = "random"`.
        gradient: gradient of the ablated networks, "full" or "none"; see `contributions`.
        progress: see `Relaxation.gates`.
        mean_of: see `mean_shares`.
        relative_to: see `relative_loss`.

    Returns:
        `Contributions`, and a dict of metrics: scalars `loss` (L_CE on this split) and `accuracy`;
        [cells] `loss_zero_one`, `loss_ablation`, `loss_total`, `marginal_contribution` (those of the
        ablation only where w_AB is not 0).
    """
    ablation = options.ablation
    drawn = ablation.removal == "random"
    measured = contributions(
        net,
        variables,
        alphas,
        images,
        labels,
        progress=progress,
        key=key,
        ablate=ablation.weight != 0,
        gradient=gradient,
        table=random_gates(net, alphas, progress, key) if drawn else None,
        bypass=ablation.removal == "bypass",
        mean_shares=mean_shares(net, mean_of, alphas.dtype),
        microbatch=options.microbatch,
    )
    zero_one = zero_one_loss(net.relaxation.of_candidates(alphas))
    total = measured.loss + options.zero_one_weight * zero_one
    metrics = {"loss": measured.loss, "accuracy": measured.accuracy, "loss_zero_one": zero_one}
    if ablation.weight != 0:
        marginal = measured.marginal
        relative = relative_loss(measured, relative_to, marginal, measured.mean)
        total += ablation.weight * relative
        metrics |= {"marginal_contribution": marginal, "loss_ablation": relative}
    metrics["loss_total"] = total
    return measured, metrics


def architecture_gradient(net: Supernet, variables, alphas, images, labels, context):
    """Returns dL_T_i / dalpha_i for every cell i [cells, E, columns], and metrics.

    In addition to the metrics of `measure` there are, by cell, the norms of the gradient's three parts
    and its factors of the gradients of the full and of the ablated networks (those of the ablation only
    where w_AB is not 0).
    """
    options = context.options
    ablation = options.ablation
    through_mean = ablation.gradient == "full" and ablation.mean_gradient == "full"
    measured, metrics = measure(
        *(net, variables, alphas, images, labels, options, context.key),
        "full" if through_mean else "none",
        context.progress,
        mean_of=ablation.mean_of,
        relative_to=ablation.relative_to,
    )
    stopped = "stopped" if ablation.gradient == "full" and not through_mean else "full"
    parts = gradient_parts(
        *(measured, alphas, ablation.weight, options.zero_one_weight),
        mean_gradient=stopped,
        relative_to=ablation.relative_to,
        of_candidates=net.relaxation.of_candidates,
    )
    metrics |= {
        "gradient_norm_cross_entropy": bilevel.norm_by_cell(parts.cross_entropy),
        "gradient_norm_zero_one": bilevel.norm_by_cell(parts.zero_one),
    }
    if ablation.weight != 0:
        metrics |= {
            "gradient_norm_ablation": bilevel.norm_by_cell(parts.ablation),
            "factor_full": parts.factor_full,
            "factor_ablated": parts.factor_ablated,
        }
    return parts.total, metrics


def make_step(method, net: Supernet, settings, *args, **options):
    """Builds the bilevel step; see `bilevel.make_step`."""
    if len(set(net.seq)) == 1 and settings[settings.method].ablation.weight:
        _logger.info("search: a single distinct cell contributes the mean: its ablation loss is 0")
    return bilevel.make_step(method, net, settings, *args, **options)


METHOD = Method(
    architecture_gradient, share_cells=lambda options: options.share_cells, make_step=make_step
)

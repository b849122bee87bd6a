"""The losses of the alphas beside cross-entropy.

Zero-one and ablation loss (D-DARTS), beta decay (beta-DARTS), the distance to a flat Dirichlet (DrNAS).
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

# Keeps the ablation loss finite where the mean contribution passes through zero, which it does in the
# first steps of every search; small beside contributions worth speaking of (hundredths and more).
EPSILON = 1e-3


def zero_one_loss(alphas):
    """L_01 of every cell (FairDARTS equation 5): pushes sigmoid(alpha) towards 0 or 1.

    Args:
        alphas: [cells, E, O]; a candidate that is gone, at -inf, does not count.

    Returns:
        [cells], between -0.25 (all decided) and 0 (all at one half).
    """
    squares = (jax.nn.sigmoid(alphas) - 0.5) ** 2
    return -jnp.mean(squares, axis=(1, 2), where=alphas > -jnp.inf)


def ablation_loss(contribution, mean_contribution, epsilon: float = EPSILON, spread=None):
    """L_AB of a cell: how much less than the average it helps, relative to the average.

    `(M_i - mean(M)) / (|mean(M)| + epsilon)`: equation 4 of D-DARTS with the absolute value in the
    denominator, so that a cell that helps more (a smaller M_i) has a smaller loss whatever the sign of
    the mean.

    Args:
        contribution: M_i, [...].
        mean_contribution: mean over all cells, broadcast against `contribution`.
        epsilon: see `EPSILON`.
        spread: standard deviation of the contributions, to divide by in place of |mean(M)|.

    Returns:
        [...]; its mean over the cells of the mean is 0.
    """
    scale = jnp.abs(mean_contribution) if spread is None else spread
    return (contribution - mean_contribution) / (scale + epsilon)


def beta_decay(relaxation, alphas):
    """The loss of beta-DARTS (Ye et al. 2022) of every cell, whose gradient is the cell's gates.

    A mean over the cell's edges. The authors' program does not run on the space of DARTS (its issue 1),
    so how two kinds of cells are added is not theirs.

    Args:
        relaxation: the supernet's.
        alphas: [cells, E, columns].

    Returns:
        [cells].
    """
    return jnp.mean(relaxation.log_partition(alphas), axis=1)


def divergence(relaxation, alphas):
    """How far the gates of every cell are from uniform ones (DrNAS, Chen et al. 2021).

    The Kullback-Leibler divergence of an edge's Dirichlet distribution from that whose concentrations
    are all 1, which prefers no gates to others, as a sum over the cell's edges.

    Args:
        relaxation: the supernet's, "dirichlet".
        alphas: [cells, E, columns].

    Returns:
        [cells].
    """
    concentrations = relaxation.concentrations(alphas)
    total = concentrations.sum(-1)
    there = concentrations > 0
    own = jnp.where(there, concentrations, 1.0)  # whose terms are 0
    normaliser = gammaln(total) - gammaln(own).sum(-1) - gammaln(there.sum(-1).astype(own.dtype))
    expected = jnp.sum((own - 1) * (digamma(own) - digamma(total)[..., None]), -1)
    return jnp.sum(normaliser + expected, axis=1)

"""Losses of detectors, element by element, neither masked nor summed."""

import jax
import jax.numpy as jnp


def sigmoid_focal(logits, targets, alpha: float = 0.25, gamma: float = 2.0):
    """The focal loss of independent classes, each a yes or no (RetinaNet, equation 5).

    It is the cross-entropy, but what is already right counts little: with p the probability of the
    right answer, -(1 - p)^gamma log(p), times alpha where the answer is yes and 1 - alpha where no.

    Args:
        logits: float [...].
        targets: bool [...], the right answers.
        alpha: weight of the positive ones.
        gamma: how little the easy ones count; 0: cross-entropy.

    Returns:
        [...].
    """
    wrong = jnp.where(targets, -logits, logits)  # logit of the wrong answer
    weights = jnp.where(targets, alpha, 1 - alpha).astype(logits.dtype)
    return weights * jax.nn.sigmoid(wrong) ** gamma * jax.nn.softplus(wrong)


def smooth_l1(predictions, targets, beta: float = 0.0):
    """Absolute differences, with a parabola in place of the tip between -beta and beta.

    Args:
        predictions: float [...].
        targets: float [...].
        beta: where the parabola meets the line, with their slopes equal; 0: none.

    Returns:
        [...]: the square / (2 beta) inside, the absolute difference - beta / 2 outside.
    """
    difference = predictions - targets
    # Not jnp.abs, whose gradient at 0 is 1.
    difference = difference * jnp.sign(difference)
    if not beta:
        return difference
    return jnp.where(difference < beta, difference**2 / (2 * beta), difference - beta / 2)

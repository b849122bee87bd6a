"""Standardisation over a batch, the arithmetic of BatchNorm."""

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # added to the variance, as in the reference


def shifted_moments(x, axes, shift):
    """Computes mean and variance in one pass, from the sums of `x - shift` and of its square.

    Without the shift they would lose all precision to rounding where the mean is much larger than the
    deviation; it takes a shift that is nearer to the mean, as the running mean is.

    Args:
        x: an array.
        axes: those to average over, leading ones.
        shift: of the shape that remains.

    Returns:
        Mean and (biased) variance, float32 or better.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)) - shift
    mean = jnp.mean(wide, axes)
    return mean + shift, jnp.maximum(jnp.mean(wide**2, axes) - mean**2, 0)


@jax.custom_vjp
def standardise(x):
    """Subtracts the mean and divides by the deviation, both over all axes but the last.

    Jitted and with its own gradient rule: a supernet has hundreds of them, and this way each shape is
    traced, transposed and lowered only once.

    Args:
        x: [..., C].

    Returns:
        `x` standardised, in its dtype; mean and (biased) variance [C], float32 or better, without
        gradients.
    """
    return _standardise_forward(x)[0]


@jax.jit
def _standardise_forward(x):
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes)
    # Not E[x^2] - E[x]^2, which loses all precision to rounding where mean >> deviation.
    variance = jnp.mean((wide - mean) ** 2, axes)
    inverse = lax.rsqrt(variance + EPSILON)
    output = ((wide - mean) * inverse).astype(x.dtype)
    return (output, mean, variance), (x, mean, inverse)


@jax.jit
def _standardise_backward(residuals, cotangents):
    x, mean, inverse = residuals
    axes = tuple(range(x.ndim - 1))
    wide = cotangents[0].astype(mean.dtype)
    output = (x - mean) * inverse
    to_x = wide - jnp.mean(wide, axes) - output * jnp.mean(wide * output, axes)
    return ((to_x * inverse).astype(x.dtype),)


standardise.defvjp(_standardise_forward, _standardise_backward)

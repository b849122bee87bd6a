"""Standardisation over a batch, the arithmetic of BatchNorm.

Sums over images and pixels are what BatchNorm costs. On a CPU each is computed by itself. On a GPU, where
many small kernels would cost more, one pass over an array gives all sums of it per image, and one kernel
adds up those of all images and arrays; data-parallel devices then exchange one array.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from ddarts_jax.ops import backend

EPSILON = 1e-5  # added to the variance, as in the reference
KEPT = "kept"  # name of what is not computed again where activations are rematerialised


def moments(outputs, shifts, kept: int = 1):
    """Computes means and (biased) variances over the batch.

    Args:
        outputs: arrays [B, ..., C].
        shifts: for each output an array of the shape of its mean that is near to it, such as the running
            mean; some implementations subtract it first. Without gradient.
        kept: number of last axes that are not averaged over.

    Returns:
        For each output the mean and the variance, float32 or better.
    """
    return backend.choose("moments")(outputs, shifts, kept)


@backend.implementation("moments", "separate")
def moments_by_two_passes(outputs, shifts, kept):
    """Subtracts the mean before it squares, whatever the shifts."""
    result = []
    for output in outputs:
        axes = tuple(range(output.ndim - kept))
        wide = output.astype(jnp.promote_types(output.dtype, jnp.float32))
        mean = jnp.mean(wide, axes)
        # Not E[x^2] - E[x]^2, which loses all precision to rounding where mean >> deviation.
        result.append((mean, jnp.mean((wide - mean) ** 2, axes)))
    return result


@backend.implementation("moments", "joined")
def moments_by_one_pass(outputs, shifts, kept):
    """Takes both moments from the sums of `output - shift` and of its square."""
    terms, result = [], []
    for output, shift in zip(outputs, shifts):
        wide = output.astype(jnp.promote_types(output.dtype, jnp.float32)) - shift
        terms += [wide, wide**2]
    sums = sum_joined(terms, kept)
    for output, shift, total, squares in zip(outputs, shifts, sums[::2], sums[1::2]):
        count = output.size // total.size
        mean = total / count
        result.append((mean + shift, jnp.maximum(squares / count - mean**2, 0)))
    # Few numbers that cost a pass over all images.
    return checkpoint_name(result, KEPT)


def sums(terms, kept: int = 1):
    """Adds up each of several arrays [B, ..., C] over all but the last `kept` axes."""
    return backend.choose("sums")(terms, kept)


@backend.implementation("sums", "separate")
def sum_separately(terms, kept):
    """Each array by itself."""
    return [jnp.sum(term, tuple(range(term.ndim - kept))) for term in terms]


@backend.implementation("sums", "joined")
def sum_joined(terms, kept):
    """First over the pixels of each image, then over the images of all arrays together."""
    by_image = [jnp.sum(term, tuple(range(1, term.ndim - kept))) for term in terms]
    joined = jnp.concatenate([each.reshape(len(each), -1) for each in by_image], -1).sum(0)
    ends = [sum(each[0].size for each in by_image[: i + 1]) for i in range(len(by_image))]
    parts = jnp.split(joined, ends[:-1])
    return [part.reshape(each.shape[1:]) for part, each in zip(parts, by_image)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def standardise(x, shift, rectify=False):
    """Subtracts the mean and divides by the deviation, both over all axes but the last.

    Jitted and with its own gradient rule: a supernet has hundreds of them, and this way each shape is
    traced, transposed and lowered only once.

    Args:
        x: [..., C].
        shift: [C], see `moments`.
        rectify: whether ReLU follows; its gradient needs no pass of its own then.

    Returns:
        `x` standardised, in its dtype; mean and (biased) variance [C], float32 or better, without
        gradients.
    """
    return _standardise_forward(x, shift, rectify)[0]


@functools.partial(jax.jit, static_argnums=2)
def _standardise_forward(x, shift, rectify):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    ((mean, variance),) = moments([x], [shift])
    inverse = lax.rsqrt(variance + EPSILON)
    output = ((wide - mean) * inverse).astype(x.dtype)
    if rectify:
        output = jnp.maximum(output, 0)
    return (output, mean, variance), (x, shift, mean, inverse)


@functools.partial(jax.jit, static_argnums=0)
def _standardise_backward(rectify, residuals, cotangents):
    x, shift, mean, inverse = residuals
    wide = cotangents[0].astype(mean.dtype)
    output = (x - mean) * inverse
    if rectify:
        wide = jnp.where(output > 0, wide, 0)
    count = x.size // x.shape[-1]
    total, along = sums([wide, wide * output])
    to_x = wide - total / count - output * (along / count)
    return (to_x * inverse).astype(x.dtype), jnp.zeros_like(shift)


standardise.defvjp(_standardise_forward, _standardise_backward)

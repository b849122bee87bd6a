"""3x3 pooling as in DARTS, with its own gradient rules, and the mean over all pixels.

The gradients are written out: those of XLA's windowed reductions (select-and-scatter) and of slices (a
sum of padded pieces) take several times as long on a CPU. A forward pass that is converted to ONNX uses
the windowed reductions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.ops import backend
from ddarts_jax.ops.fusion import unfused


def max_pool(x, stride):
    """3x3 maximum of `x` [B, H, W, C] with padding 1 that never wins; the first of equals wins."""
    return backend.choose("max_pool")(x, stride)


def avg_pool(x, stride):
    """3x3 mean of `x` [B, H, W, C] over the pixels inside the image; sums are float32 or better."""
    return backend.choose("avg_pool")(x, stride)


def global_pool(x):
    """Mean of `x` [B, H, W, C] over all pixels: [B, C], float32 or better."""
    return backend.choose("global_pool")(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


@backend.implementation("global_pool", "mean")
def global_pool_by_mean(x):
    """A mean."""
    return jnp.mean(x, axis=(1, 2))


@backend.implementation("global_pool", "library")
def global_pool_by_library(x):
    """One window of Flax's pooling."""
    size = x.shape[1:3]
    return jnp.squeeze(nnx.avg_pool(x, window_shape=size, strides=(1, 1), padding="VALID"), (1, 2))


@backend.implementation("max_pool", "library")
def max_pool_by_library(x, stride):
    """The maximum by Flax's pooling."""
    return _every(stride, nnx.max_pool(x, window_shape=(3, 3), strides=(1, 1), padding="SAME"))


@backend.implementation("avg_pool", "library")
def avg_pool_by_library(x, stride):
    """The mean by Flax's pooling."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    window = {"window_shape": (3, 3), "strides": (1, 1), "padding": "SAME"}
    return _every(stride, nnx.avg_pool(wide, **window, count_include_pad=False)).astype(x.dtype)


def _every(stride, x):
    """Takes every pixel at stride 1, every second one at stride 2.

    Not by the stride of the pooling, whose "SAME" would place the windows of an even size otherwise.
    Pooling over single pixels is one operation in ONNX, a slice of any number of images four.
    """
    if stride == 1:
        return x
    return nnx.max_pool(x, window_shape=(1, 1), strides=(stride, stride), padding="VALID")


def _slide(x, axis, stride, fill, combine):
    """Combines three neighbours along `axis`; the 3x3 window is separable, so two passes suffice."""
    size = x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, constant_values=fill)
    outputs = (size - 1) // stride + 1
    taps = [
        lax.slice_in_dim(padded, i, i + stride * (outputs - 1) + 1, stride, axis) for i in range(3)
    ]
    return combine(combine(taps[0], taps[1]), taps[2])


def _spread(outputs, stride, size, fill):
    """Dilates the outputs of a 3x3 window by its stride and pads them by the window's border.

    Args:
        outputs: [B, ceil(H / stride), ceil(W / stride), C].
        stride: stride of the window.
        size: (H, W) of its input.
        fill: value of all other positions.

    Returns:
        [B, H + 2, W + 2, C]; the window whose centre is the pixel (y, x) at (y + 1, x + 1).
    """
    spans = [stride * (n - 1) + 1 for n in outputs.shape[1:3]]
    padding = [(1, n + 1 - span, stride - 1) for n, span in zip(size, spans)]
    return lax.pad(outputs, jnp.asarray(fill, outputs.dtype), [(0, 0, 0), *padding, (0, 0, 0)])


@backend.implementation("max_pool", "sliced")
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def max_pool_by_slices(x, stride):
    """The maximum of shifted images."""
    for axis in (1, 2):
        x = _slide(x, axis, stride, -jnp.inf, jnp.maximum)
    return x


@functools.partial(jax.jit, static_argnums=1)
def _max_pool_forward(x, stride):
    height, width = ((n - 1) // stride * stride + 1 for n in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    best = None
    for tap, (i, j) in enumerate(np.ndindex(3, 3)):
        value = padded[:, i : i + height : stride, j : j + width : stride]
        if best is None:
            best, winner = value, jnp.zeros(value.shape, jnp.uint8)
        else:
            winner = jnp.where(value > best, np.uint8(tap), winner)
            best = jnp.maximum(value, best)
    return best, (winner, np.zeros((*x.shape[1:3], 0), np.uint8))


@functools.partial(jax.jit, static_argnums=0)
def _max_pool_backward(stride, residuals, cotangent):
    winner, like = residuals
    height, width = like.shape[:2]
    winner = _spread(winner, stride, (height, width), 9)
    dtype = cotangent.dtype
    cotangent = _spread(cotangent, stride, (height, width), 0)
    cotangent = cotangent.astype(jnp.promote_types(dtype, jnp.float32))
    total = 0
    for tap, (i, j) in enumerate(np.ndindex(3, 3)):
        here = slice(None), slice(2 - i, 2 - i + height), slice(2 - j, 2 - j + width)
        total += jnp.where(winner[here] == tap, cotangent[here], 0)
    return (unfused(total.astype(dtype)),)


max_pool_by_slices.defvjp(_max_pool_forward, _max_pool_backward)


@backend.implementation("avg_pool", "sliced")
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def avg_pool_by_slices(x, stride):
    """The mean as a sum of shifted images."""
    total = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in (1, 2):
        total = _slide(total, axis, stride, 0, jnp.add)
    return (total * _inverse_counts(x.shape[1:3], stride).astype(total.dtype)).astype(x.dtype)


def _inverse_counts(size, stride):
    """One over the number of pixels in each window: [1, ceil(H / stride), ceil(W / stride), 1]."""

    def along(n):
        position = np.arange(0, n, stride)
        return 1.0 / (np.minimum(position + 1, n - 1) - np.maximum(position - 1, 0) + 1)

    return np.outer(along(size[0]), along(size[1]))[None, :, :, None]


def _avg_pool_forward(x, stride):
    return avg_pool_by_slices(x, stride), np.zeros((*x.shape[1:3], 0), np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _avg_pool_backward(stride, like, cotangent):
    size = like.shape[:2]
    wide = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    spread = _spread(wide * _inverse_counts(size, stride).astype(wide.dtype), stride, size, 0)
    for axis in (1, 2):
        spread = _slide(spread, axis, 1, 0, jnp.add)
    return (spread[:, 1:-1, 1:-1].astype(cotangent.dtype),)


avg_pool_by_slices.defvjp(_avg_pool_forward, _avg_pool_backward)


def max_pool_2x2(x):
    """Maximum over 2x2 pixels that do not overlap: [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), C].

    The channels that pass by a strided edge in PC-DARTS; its program leaves out the last row of an odd
    size, which no other operation of an edge does.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(0, size % 2 if a == axis else 0) for a in range(4)]
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
        first, second = (lax.index_in_dim(x, k, axis + 1, keepdims=False) for k in (0, 1))
        x = jnp.maximum(first, second)
    return x

"""Depthwise-separable convolution: a depthwise kernel, then a 1x1 convolution."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ddarts_jax.distributed import sharding
from ddarts_jax.ops import backend
from ddarts_jax.ops.convolution import Canonical, Wanted, convolve
from ddarts_jax.ops.fusion import unfused

_MOST_TAPS = 9 * 256  # of all channels, up to which a dense convolution is quicker on an H100
_BLOCK = 64  # channels of a block


def separable(x, spatial, pointwise, stride, dilation):
    """Convolves depthwise and then pointwise, with the implementation for the present backend.

    Arguments and result are those of `separable_by_shifts`; or E kernels [E, k, k, 1, C] and
    [E, 1, 1, C, C'], see `separable_joined`.
    """
    if spatial.ndim == 5:
        return separable_joined(x, spatial, pointwise, stride, dilation)
    return backend.choose("separable")(x, spatial, pointwise, stride, dilation)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _shifted_sum(padded, spatial, shape, stride, dilation):
    """Depthwise convolution of an already padded image as a sum of shifted products."""
    wide = jnp.promote_types(padded.dtype, jnp.float32)
    spatial = spatial.astype(padded.dtype).astype(wide)
    total = 0
    for i in range(spatial.shape[0]):
        for j in range(spatial.shape[1]):
            row, column = i * dilation, j * dilation
            window = padded[
                :,
                row : row + stride * (shape[0] - 1) + 1 : stride,
                column : column + stride * (shape[1] - 1) + 1 : stride,
            ]
            total += window * spatial[i, j, 0]
    return total.astype(padded.dtype)


@backend.implementation("separable", "library")
def separable_by_library(x, spatial, pointwise, stride, dilation):
    """The same computation as `separable_by_shifts`, by XLA's grouped convolution."""
    x = convolve(x, spatial, (stride, stride), dilation, groups=x.shape[-1])
    return convolve(x, pointwise)


@backend.implementation("separable", "folded")
def separable_by_folding(x, spatial, pointwise, stride, dilation):
    """The same computation, as one dense convolution by the product of the two kernels.

    It does more arithmetic, but in tensor cores, and writes nothing between the two. Many channels are
    left to the library, unless the kernel is dilated: its gradients take up to a hundred times as long.
    """
    x, stride, dilation = _what_is_read(x, stride, dilation)
    if dilation == 1 and spatial.size > _MOST_TAPS:
        return separable_by_library(x, spatial, pointwise, stride, dilation)
    return separable_joined(x, spatial[None], pointwise[None], stride, dilation)


def separable_joined(x, spatial, pointwise, stride, dilation):
    """Several separable convolutions at once, folded as in `separable_by_folding`.

    Where every source has kernels of its own, sources are convolved in blocks: in larger ones most of a
    kernel would be zero, smaller ones would leave the tensor cores empty.

    Args:
        x: [B, H, W, S * C].
        spatial: [E, k, k, 1, C]; E = R * S, the source varies fastest.
        pointwise: [E, 1, 1, C, C'].
        stride: of the depthwise convolutions.
        dilation: of the depthwise convolutions.

    Returns:
        [B, H / stride, W / stride, E * C'].
    """
    x, stride, dilation = _what_is_read(x, stride, dilation)
    edges, _, _, channels, _ = pointwise.shape
    sources = x.shape[-1] // channels
    # All at once if the sources have several kernels, whose results lie side by side.
    block = sources if edges > sources else _block_of(sources, _BLOCK // channels)
    wide = jnp.promote_types(x.dtype, spatial.dtype)
    kernels = spatial[..., 0, :, None].astype(wide) * pointwise.astype(wide)  # [E, k, k, C, C']
    folded = fold(kernels, sources, sources // block)
    return convolve(x, folded, (stride, stride), dilation, groups=sources // block)


def _what_is_read(x, stride, dilation):
    """Leaves out pixels that a strided and dilated kernel does not read; returns what is left to do.

    XLA would write the gradient by the image as a convolution with a kernel that is mostly zeros.
    """
    if stride > 1 and dilation % stride == 0:
        return x[:, ::stride, ::stride], 1, dilation // stride
    return x, stride, dilation


def fold(kernels, sources, groups):
    """Makes the kernel of one convolution, in groups, of those of several.

    Args:
        kernels: [E, k, k, C, C'], each for one source; E = R * S, the source varies fastest.
        sources: S.
        groups: G, of S / G sources each; R is 1 unless G is 1.

    Returns:
        [k, k, S * C / G, E * C'], zero from a source to the results of another one's kernels.
    """
    edges, taps, _, inputs, outputs = kernels.shape
    block = sources // groups
    # By tap, channel, group, repetition, source within the group, and output.
    kernels = kernels.reshape(-1, groups, block, taps, taps, inputs, outputs)
    kernels = kernels.transpose(3, 4, 5, 1, 0, 2, 6)
    own = jnp.eye(block, dtype=kernels.dtype)[:, None, None, None, :, None]
    return (kernels[:, :, None] * own).reshape(taps, taps, block * inputs, edges * outputs)


def _block_of(sources, most):
    """The largest divisor of the number of sources that is at most `most`, but at least 1."""
    return max(n for n in range(1, sources + 1) if sources % n == 0 and n <= max(most, 1))


@backend.implementation("separable", "shifted")
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@functools.partial(jax.jit, static_argnums=(3, 4))
def separable_by_shifts(x, spatial, pointwise, stride, dilation):
    """Depthwise and pointwise convolution in a form that is fast on a CPU, forwards and backwards.

    Args:
        x: [B, H, W, C].
        spatial: depthwise kernel [k, k, 1, C], k odd.
        pointwise: [1, 1, C, C'].
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.

    Returns:
        [B, H / stride, W / stride, C'], equal to XLA's grouped convolution followed by a 1x1.
    """
    pad = dilation * (spatial.shape[0] // 2)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shape = tuple((size - 1) // stride + 1 for size in x.shape[1:3])
    x = _shifted_sum(padded, spatial, shape, stride, dilation)
    return x @ pointwise[0, 0].astype(x.dtype)


def _separable_forward(x, spatial, pointwise, stride, dilation):
    wanted = Wanted(x.perturbed, spatial.perturbed or pointwise.perturbed)
    arguments = x.value, spatial.value, pointwise.value
    return separable_by_shifts(*arguments, stride, dilation), (*arguments, wanted)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _separable_backward(stride, dilation, residuals, cotangent):
    x, spatial, pointwise, wanted = residuals
    # For the input: the transposed convolution is again a sum of shifted products; it convolves the
    # dilated cotangent with the flipped kernel.
    before_pointwise = cotangent @ pointwise[0, 0].T.astype(x.dtype)
    pad = dilation * (spatial.shape[0] // 2)
    spans = [stride * (outputs - 1) + 1 for outputs in cotangent.shape[1:3]]
    padding = [(pad, size + pad - span, stride - 1) for size, span in zip(x.shape[1:3], spans)]
    padding = [(0, 0, 0), *padding, (0, 0, 0)]
    spread = lax.pad(before_pointwise, jnp.zeros((), x.dtype), padding)
    to_input = _shifted_sum(spread, spatial[::-1, ::-1], x.shape[1:3], 1, dilation)
    to_input = unfused(to_input)
    if not wanted.to_kernels:
        return to_input, None, None

    # For the weights: the gradient of the dense kernel spatial * pointwise, [k, k, C, C'], is one large
    # contraction over images and positions, several times faster than k*k sums of products.
    rule = Canonical((stride, stride), dilation, (pad, pad))
    to_folded = sharding.sum_over_batch(
        lambda x, cotangent: rule.to_kernel(x, cotangent, spatial.shape), x, cotangent
    )
    to_spatial = jnp.sum(to_folded * pointwise, 3)[:, :, None]
    to_pointwise = jnp.sum(to_folded * jnp.swapaxes(spatial, 2, 3), (0, 1))[None, None]
    return to_input, to_spatial, to_pointwise


separable_by_shifts.defvjp(_separable_forward, _separable_backward, symbolic_zeros=True)

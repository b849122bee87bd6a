"""Candidate primitives of the search space, and the small layers that they are made of.

Images are `[batch, height, width, channels]`. Every module is called as `module(x, train)`: with
`train=True` BatchNorm uses the statistics of the batch and updates the running ones, otherwise it uses
the running ones. Parameters and statistics are float32; the computation follows the dtype of `x`.
Conventions are those of DARTS (Liu et al. 2019): ReLU-Conv-BN, padding that keeps the size, average
pooling that does not count padding, strided skips by factorized reduction.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.ops import backend

DARTS_PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

# The space of DARTOpti, in which handcrafted networks can be written.
DARTOPTI_PRIMITIVES = (
    "conv_3x1_1x3",
    "conv_7x1_1x7",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "simple_conv_1x1",
    "simple_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "bottleneck_1x3x1",
)

SPACES = {"darts": DARTS_PRIMITIVES, "dartopti": DARTOPTI_PRIMITIVES}


def kernel(*shape: int) -> nnx.Param:
    """A kernel without its numbers yet: see `initialise`."""
    return nnx.Param(np.zeros(shape, np.float32))


def initialise(key, weights):
    """Draws all kernels as the reference does: U(-b, b) with b = 1 / sqrt(fan_in) (PyTorch's default).

    Modules are built without numbers and filled here in one draw: drawing them one by one compiles a
    program for every shape, which took twenty seconds for the smallest supernet.

    Args:
        key: of the draw.
        weights: nested dict of a module's parameters; the last axes of a kernel are
            [kh, kw, in / groups, out] or [in, out], axes before them stack kernels of one shape.

    Returns:
        The same tree, float32, with random kernels; `scale` and `bias` are as they were.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    sizes = [0 if path[-1].key in ("scale", "bias") else leaf.size for path, leaf in leaves]
    numbers = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1, 1)
    parts = np.split(np.asarray(numbers), np.cumsum(sizes)[:-1])
    filled = [
        part.reshape(leaf.shape) / np.float32(np.sqrt(math.prod(leaf.shape[-4:-1])))
        if part.size
        else np.asarray(leaf)
        for part, (_, leaf) in zip(parts, leaves)
    ]
    return jax.tree.unflatten(tree, filled)


def convolve(x, kernel, stride=(1, 1), dilation=1, padding=None, groups=1):
    """Convolves `x` [B, H, W, Cin] with `kernel` [kh, kw, Cin / groups, Cout], symmetric padding.

    The kernel is rounded to the dtype of `x`; products are added up in float32 or better, and so is the
    kernel's gradient over the images of all devices.

    Args:
        x: images.
        kernel: float32 or better.
        stride: step between outputs, down and across.
        dilation: step between taps of the kernel.
        padding: pixels on every side; None keeps the size at stride 1.
        groups: number of channel groups.

    Returns:
        [B, H', W', Cout] of the dtype of `x`.
    """
    if padding is None:
        padding = [dilation * (size // 2) for size in kernel.shape[:2]]
    else:
        padding = [padding] * 2
    geometry = tuple(stride), dilation, tuple(padding), groups
    if kernel.shape[:2] == (1, 1) and groups == 1 and not any(padding):
        # As a matrix product: XLA's gradients of a 1x1 convolution inside a loop are slow on a CPU.
        rule = Product if geometry[0] == (1, 1) else backend.choose("strided_pointwise")
    else:
        rule = Library if groups > 1 else backend.choose("convolution")
    return _apply(rule(*geometry), x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(rule, x, kernel):
    """Applies a convolution by one of the rules below."""
    return rule.forward(x, kernel.astype(x.dtype))


def _apply_forward(rule, x, kernel):
    residuals = x.value, kernel.value, _Wanted(x.perturbed, kernel.perturbed)
    return _apply(rule, x.value, kernel.value), residuals


def _apply_backward(rule, residuals, cotangent):
    x, kernel, wanted = residuals
    to_x = to_kernel = None
    if wanted.to_input:
        to_x = rule.to_input(cotangent, kernel.astype(x.dtype), x)
    if wanted.to_kernels:
        to_kernel = sharding.sum_over_batch(
            lambda x, cotangent: rule.to_kernel(x, cotangent, kernel.shape), x, cotangent
        ).astype(kernel.dtype)
    return to_x, to_kernel


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Which gradients anything asks for: that of the alphas needs none of the kernels'."""

    to_input: bool
    to_kernels: bool


# Symbolic zeros say which arguments anything is differentiated by.
_apply.defvjp(_apply_forward, _apply_backward, symbolic_zeros=True)

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@backend.implementation("convolution", "library")
@backend.implementation("strided_pointwise", "library")
@dataclasses.dataclass(frozen=True)  # which, unlike tuples, differ by their class
class Library:
    """XLA's convolution, with the gradients that JAX derives.

    Attributes:
        stride, dilation, padding, groups: as of `convolve`, padding down and across.
    """

    stride: tuple[int, int]
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def forward(self, x, kernel):
        """The convolution."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.stride,
            [(p, p) for p in self.padding],
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=_LAYOUT,
            feature_group_count=self.groups,
        )

    def to_input(self, cotangent, kernel, x):
        """Gradient by `x`, of which shape and dtype count."""
        return jax.linear_transpose(lambda x: self.forward(x, kernel), x)(cotangent)[0]

    def to_kernel(self, x, cotangent, shape):
        """Gradient [kh, kw, Cin / groups, Cout] by the kernel."""
        kernel = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda kernel: self.forward(x, kernel), kernel)(cotangent)[0]


@backend.implementation("convolution", "canonical")
class Canonical(Library):
    """XLA's convolution, with gradients in the one layout that its CPU compiler is quick at.

    The gradients that JAX derives have other layouts. Outside of loops the compiler changes them;
    inside (the scans over edges and over steps) it runs them by naive code, 10 to 20 times slower.
    There is one group.
    """

    def to_input(self, cotangent, kernel, x):
        """Gradient by `x`: the transposed convolution.

        It convolves the cotangent, dilated by the stride, with the flipped kernel.
        """
        dilation = self.dilation
        before = [dilation * (taps - 1) - p for taps, p in zip(kernel.shape, self.padding)]
        spans = [s * (outputs - 1) + 1 for s, outputs in zip(self.stride, cotangent.shape[1:])]
        after = [size + p - span for size, p, span in zip(x.shape[1:], self.padding, spans)]
        return lax.conv_general_dilated(
            cotangent,
            jnp.swapaxes(kernel[::-1, ::-1], 2, 3),
            (1, 1),
            list(zip(before, after)),
            lhs_dilation=self.stride,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=_LAYOUT,
        )

    def to_kernel(self, x, cotangent, shape):
        """Gradient [kh, kw, Cin, Cout] by the kernel, by a convolution in `_LAYOUT`.

        The input's channels are its images, the input's images its channels, the cotangent its kernel.
        """
        dilation = self.dilation
        spans = [s * (outputs - 1) + 1 for s, outputs in zip(self.stride, cotangent.shape[1:])]
        after = [
            span + dilation * (n - 1) - size - p
            for span, n, size, p in zip(spans, shape, x.shape[1:], self.padding)
        ]
        return lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            cotangent.transpose(1, 2, 0, 3),
            (dilation, dilation),
            list(zip(self.padding, after)),
            rhs_dilation=self.stride,
            dimension_numbers=_LAYOUT,
        ).transpose(1, 2, 0, 3)


@backend.implementation("strided_pointwise", "product")
class Product(Library):
    """A 1x1 convolution without padding, in one group, as a matrix product."""

    def _pixels(self, x):
        return x[:, :: self.stride[0], :: self.stride[1]]

    def forward(self, x, kernel):
        """The convolution."""
        return self._pixels(x) @ kernel[0, 0]

    def to_input(self, cotangent, kernel, x):
        """Gradient by `x`, of which shape and dtype count."""
        (to_x,) = jax.linear_transpose(self._pixels, x)(cotangent @ kernel[0, 0].T)
        return to_x

    def to_kernel(self, x, cotangent, shape):
        """Gradient [1, 1, Cin, Cout] by the kernel, float32 or better."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        pixels = self._pixels(x)
        product = jnp.tensordot(pixels, cotangent, [(0, 1, 2)] * 2, preferred_element_type=wide)
        return product.reshape(shape)


_EPSILON, _MOMENTUM = 1e-5, 0.9  # of BatchNorm, as in the reference


@jax.custom_vjp
def standardise(x):
    """Subtracts the mean and divides by the deviation, both over all axes but the last.

    Jitted and with a gradient of its own: a supernet has hundreds of them, and each is traced,
    transposed and lowered once for a shape in place of every time.

    Args:
        x: [..., C].

    Returns:
        `x` standardised, of its dtype; mean and (biased) variance [C], float32 or better, through
        which no gradient flows.
    """
    return _standardise_forward(x)[0]


@jax.jit
def _standardise_forward(x):
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes)
    # Not E[x^2] - E[x]^2, which is lost to rounding where mean >> deviation.
    variance = jnp.mean((wide - mean) ** 2, axes)
    inverse = lax.rsqrt(variance + _EPSILON)
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


class BatchNorm(nnx.Module):
    """Batch normalisation as in the reference: eps 1e-5, running statistics with momentum 0.9.

    Args:
        channels: number of features.
        affine: whether it has scale and bias; the supernet has none (DARTS, section 2.2).
    """

    def __init__(self, channels: int, affine: bool):
        self.mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.var = nnx.BatchStat(np.ones(channels, np.float32))
        self.scale = nnx.Param(np.ones(channels, np.float32)) if affine else None
        self.bias = nnx.Param(np.zeros(channels, np.float32)) if affine else None

    def __call__(self, x, train):
        """Normalises `x` over all axes but the last; statistics are computed in float32 or better."""
        if train:
            output, *batch = standardise(x)
            for running, new in zip((self.mean, self.var), batch):
                mixed = _MOMENTUM * running[...] + (1 - _MOMENTUM) * new
                running.set_value(mixed.astype(running.dtype))
        else:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            inverse = lax.rsqrt(self.var[...].astype(wide) + _EPSILON)
            output = (x - self.mean[...]) * inverse
        if self.scale is not None:
            output = output * self.scale[...] + self.bias[...]
        return output.astype(x.dtype)


class ConvBN(nnx.Module):
    """ReLU, convolution, BatchNorm (no ReLU with `relu=False`, as in the stem)."""

    def __init__(self, cin, cout, size, stride=1, *, affine, relu=True, padding=None):
        self.kernel = kernel(size, size, cin, cout)
        self.norm = BatchNorm(cout, affine)
        self.stride, self.relu, self.padding = (stride, stride), relu, padding

    def __call__(self, x, train):
        """Maps [B, H, W, cin] to [B, H / stride, W / stride, cout]."""
        x = jax.nn.relu(x) if self.relu else x
        return self.norm(convolve(x, self.kernel[...], self.stride, padding=self.padding), train)


class StridedStem(nnx.Module):
    """The stem for large images (DARTS, ImageNet): two strided 3x3 convolutions, a quarter the size."""

    def __init__(self, cin, channels):
        self.first = ConvBN(cin, channels // 2, 3, 2, affine=True, relu=False)
        self.second = ConvBN(channels // 2, channels, 3, 2, affine=True)

    def __call__(self, x, train):
        """Maps [B, H, W, cin] to [B, H / 4, W / 4, channels]."""
        return self.second(self.first(x, train), train)


class FactorizedReduce(nnx.Module):
    """Halves the size without losing every second pixel: ReLU, two strided 1x1 convolutions, BN.

    One convolution reads the even pixels, the other the odd ones; each gives half of the channels.
    """

    def __init__(self, cin, cout, *, affine):
        half = cout // 2
        self.even = kernel(1, 1, cin, half)
        self.odd = kernel(1, 1, cin, cout - half)
        self.norm = BatchNorm(cout, affine)

    def __call__(self, x, train):
        """Maps [B, H, W, cin] to [B, ceil(H / 2), ceil(W / 2), cout]."""
        x = jax.nn.relu(x)
        # An odd size has one odd pixel fewer than even ones: a zero stands for it.
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        even = convolve(x, self.even[...], (2, 2))
        odd = convolve(x[:, 1:, 1:], self.odd[...], (2, 2))
        return self.norm(jnp.concatenate([even, odd], -1), train)


def preprocess(cin, channels, reduction_before: bool, *, affine):
    """The two layers that bring a cell's inputs to its number of channels, and to one size.

    Args:
        cin: channels of the output of the cell before the last, and of the last.
        channels: of the cell's nodes.
        reduction_before: whether the last cell was a reduction cell, so that the one before it has
            outputs twice the size.
        affine: see `create`.
    """
    first, second = cin
    if reduction_before:
        layer0 = FactorizedReduce(first, channels, affine=affine)
    else:
        layer0 = ConvBN(first, channels, 1, affine=affine)
    return layer0, ConvBN(second, channels, 1, affine=affine)


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
    """What `separable_by_shifts` computes, by XLA's grouped convolution."""
    x = convolve(x, spatial, (stride, stride), dilation, groups=x.shape[-1])
    return convolve(x, pointwise)


@backend.implementation("separable", "shifted")
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@functools.partial(jax.jit, static_argnums=(3, 4))
def separable_by_shifts(x, spatial, pointwise, stride, dilation):
    """Depthwise and pointwise convolution in a form that is quick on a CPU, forwards and backwards.

    Args:
        x: [B, H, W, C].
        spatial: depthwise kernel [k, k, 1, C], k odd.
        pointwise: [1, 1, C, C'].
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.

    Returns:
        [B, H / stride, W / stride, C'], as XLA's grouped convolution followed by a 1x1 gives.
    """
    pad = dilation * (spatial.shape[0] // 2)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shape = tuple((size - 1) // stride + 1 for size in x.shape[1:3])
    x = _shifted_sum(padded, spatial, shape, stride, dilation)
    return x @ pointwise[0, 0].astype(x.dtype)


def _separable_forward(x, spatial, pointwise, stride, dilation):
    wanted = _Wanted(x.perturbed, spatial.perturbed or pointwise.perturbed)
    arguments = x.value, spatial.value, pointwise.value
    return separable_by_shifts(*arguments, stride, dilation), (*arguments, wanted)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _separable_backward(stride, dilation, residuals, cotangent):
    x, spatial, pointwise, wanted = residuals
    # Towards the input: the transposed convolution is again a sum of shifted products, of the
    # cotangent spread out by the stride and with the kernel turned round.
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

    # Towards the weights: that of the dense kernel spatial * pointwise, [k, k, C, C'], is one large
    # contraction over images and positions, several times quicker than k*k sums of products.
    rule = Canonical((stride, stride), dilation, (pad, pad))
    to_folded = sharding.sum_over_batch(
        lambda x, cotangent: rule.to_kernel(x, cotangent, spatial.shape), x, cotangent
    )
    to_spatial = jnp.sum(to_folded * pointwise, 3)[:, :, None]
    to_pointwise = jnp.sum(to_folded * jnp.swapaxes(spatial, 2, 3), (0, 1))[None, None]
    return to_input, to_spatial, to_pointwise


separable_by_shifts.defvjp(_separable_forward, _separable_backward, symbolic_zeros=True)


class DepthwiseSeparable(nnx.Module):
    """ReLU, depthwise k x k, pointwise 1x1, BatchNorm."""

    def __init__(self, channels, size, stride, dilation=1, *, affine):
        self.spatial = kernel(size, size, 1, channels)
        self.pointwise = kernel(1, 1, channels, channels)
        self.norm = BatchNorm(channels, affine)
        self.stride, self.dilation = stride, dilation

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        convolve_separably = backend.choose("separable")
        kernels = self.spatial[...], self.pointwise[...]
        x = convolve_separably(jax.nn.relu(x), *kernels, self.stride, self.dilation)
        return self.norm(x, train)


class SepConv(nnx.Module):
    """Depthwise-separable convolution applied twice; only the first is strided."""

    def __init__(self, channels, size, stride, *, affine):
        self.first = DepthwiseSeparable(channels, size, stride, affine=affine)
        self.second = DepthwiseSeparable(channels, size, 1, affine=affine)

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        return self.second(self.first(x, train), train)


class RowColumnConv(nnx.Module):
    """ReLU, convolution 1 x k along the rows, then k x 1 along the columns, BatchNorm (Inception).

    The stride is split: across in the first, down in the second.
    """

    def __init__(self, channels, size, stride, *, affine):
        self.row = kernel(1, size, channels, channels)
        self.column = kernel(size, 1, channels, channels)
        self.norm = BatchNorm(channels, affine)
        self.stride = stride

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        x = convolve(jax.nn.relu(x), self.row[...], (1, self.stride))
        return self.norm(convolve(x, self.column[...], (self.stride, 1)), train)


class Bottleneck(nnx.Module):
    """ResNet50's block as the authors have it: ReLU, 1x1, BN, 3x3, BN, 1x1 to 4C, BN, ReLU, 1x1, BN.

    The article speaks of a block that begins with 4C channels; this is what its parameter counts are
    of: C channels up to the third convolution, 4C behind it, C at the end. Only the 3x3 is strided.
    """

    def __init__(self, channels, stride, *, affine):
        self.reduce = ConvBN(channels, channels, 1, affine=affine)
        self.spatial = ConvBN(channels, channels, 3, stride, affine=affine, relu=False)
        self.expand = ConvBN(channels, 4 * channels, 1, affine=affine, relu=False)
        self.project = ConvBN(4 * channels, channels, 1, affine=affine)

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        for part in (self.reduce, self.spatial, self.expand, self.project):
            x = part(x, train)
        return x


def unfused(x):
    """`x`, behind a barrier that XLA fuses nothing across where that pays."""
    return backend.choose("unfused")(x)


@backend.implementation("unfused", "product")
def _unfused_by_product(x):
    """`x`, computed by itself: on a CPU XLA would fuse it, and its like, into whatever reads it.

    The cotangents of all primitives of an edge end up in one sum. Fused into one loop with all their
    shifted windows they take several times as long, and fused further into the update of a slice they
    run on one thread. XLA fuses nothing into a matrix product, so one with the identity stands between.
    """
    return x @ jnp.eye(x.shape[-1], dtype=x.dtype)


@backend.implementation("unfused", "identity")
def _fused(x):
    return x


def _slide(x, axis, stride, fill, combine):
    """Combines three neighbours along `axis`; the 3x3 window is separable, so two passes do it."""
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
    """Puts `stride` apart what a 3x3 window of that stride gave, with the window's border around it.

    Args:
        outputs: [B, ceil(H / stride), ceil(W / stride), C].
        stride: of the window.
        size: (H, W) of its input.
        fill: stands everywhere else.

    Returns:
        [B, H + 2, W + 2, C]; the window whose centre is the pixel (y, x) at (y + 1, x + 1).
    """
    spans = [stride * (n - 1) + 1 for n in outputs.shape[1:3]]
    padding = [(1, n + 1 - span, stride - 1) for n, span in zip(size, spans)]
    return lax.pad(outputs, jnp.asarray(fill, outputs.dtype), [(0, 0, 0), *padding, (0, 0, 0)])


# The gradients of both pools are written out: those of XLA's windowed reductions (select-and-scatter)
# and of slices (a sum of padded pieces) take several times as long on a CPU.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def max_pool(x, stride):
    """3x3 maximum of `x` [B, H, W, C] with padding 1 that never wins; of equals the first counts."""
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


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def avg_pool(x, stride):
    """3x3 mean of `x` [B, H, W, C] over the pixels inside the image; sums are float32 or better."""
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
    return avg_pool(x, stride), np.zeros((*x.shape[1:3], 0), np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _avg_pool_backward(stride, like, cotangent):
    size = like.shape[:2]
    wide = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    spread = _spread(wide * _inverse_counts(size, stride).astype(wide.dtype), stride, size, 0)
    for axis in (1, 2):
        spread = _slide(spread, axis, 1, 0, jnp.add)
    return (spread[:, 1:-1, 1:-1].astype(cotangent.dtype),)


avg_pool.defvjp(_avg_pool_forward, _avg_pool_backward)


class Pool(nnx.Module):
    """3x3 pooling; in the supernet BatchNorm follows it, in a derived network nothing does."""

    def __init__(self, pool: Callable, channels, stride, *, affine):
        self.pool, self.stride = pool, stride
        self.norm = None if affine else BatchNorm(channels, affine)

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        x = self.pool(x, self.stride)
        return x if self.norm is None else self.norm(x, train)


class Identity(nnx.Module):
    """The skip connection at stride 1."""

    def __call__(self, x, train):
        """Returns `x`."""
        return x


def create(name: str, channels: int, stride: int, *, affine: bool):
    """Builds the primitive `name`; its kernels are still to be drawn (`initialise`).

    Args:
        name: one of `DARTOPTI_PRIMITIVES`, which has all of them.
        channels: features in and out.
        stride: 1 keeps the size, 2 halves it.
        affine: False in the supernet (BatchNorm without scale and bias, pools followed by BatchNorm),
            True in a derived network.

    Raises:
        UserError: for an unknown name.
    """
    match name:
        case "max_pool_3x3" | "avg_pool_3x3":
            pool = max_pool if name == "max_pool_3x3" else avg_pool
            return Pool(pool, channels, stride, affine=affine)
        case "skip_connect":
            if stride == 1:
                return Identity()
            return FactorizedReduce(channels, channels, affine=affine)
        case "sep_conv_3x3" | "sep_conv_5x5":
            return SepConv(channels, int(name[-1]), stride, affine=affine)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DepthwiseSeparable(channels, int(name[-1]), stride, dilation=2, affine=affine)
        case "simple_conv_1x1" | "simple_conv_3x3":
            return ConvBN(channels, channels, int(name[-1]), stride, affine=affine)
        case "conv_3x1_1x3" | "conv_7x1_1x7":
            return RowColumnConv(channels, int(name[-1]), stride, affine=affine)
        case "bottleneck_1x3x1":
            return Bottleneck(channels, stride, affine=affine)
    raise UserError(f"unknown primitive {name!r}: there are {', '.join(DARTOPTI_PRIMITIVES)}")

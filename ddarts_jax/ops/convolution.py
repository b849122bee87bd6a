"""Convolution with symmetric padding, and rules to compute it and its gradients.

Images are `[batch, height, width, channels]`, kernels `[height, width, channels in / groups, out]`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddarts_jax.distributed import sharding
from ddarts_jax.ops import backend
from ddarts_jax.ops.normalisation import sums


def convolve(x, kernel, stride=(1, 1), dilation=1, padding=None, groups=1):
    """Convolves `x` [B, H, W, Cin] with `kernel` [kh, kw, Cin / groups, Cout], symmetric padding.

    E kernels [E, kh, kw, Cin / groups, Cout] convolve each their own channels of `x` [B, H, W, E * Cin].
    An `x` of S * Cin channels, where S divides E, is read E / S times over.

    The kernel is rounded to the dtype of `x`; products are added up in float32 or better, and so is the
    kernel's gradient over the images of all devices.

    Args:
        x: images.
        kernel: float32 or better.
        stride: step between outputs, vertical and horizontal.
        dilation: step between taps of the kernel.
        padding: pixels on every side; None keeps the size at stride 1.
        groups: number of channel groups of a kernel.

    Returns:
        [B, H', W', Cout] of the dtype of `x`, or [B, H', W', E * Cout].
    """
    if kernel.ndim == 5:
        x, kernel, groups = _joined(x, kernel, groups)
    if padding is None:
        padding = [dilation * (size // 2) for size in kernel.shape[:2]]
    else:
        padding = [padding] * 2
    geometry = tuple(stride), dilation, tuple(padding), groups
    if kernel.shape[:2] == (1, 1) and groups == 1 and not any(padding):
        # As a matrix product: XLA's gradients of a 1x1 convolution inside a loop are slow on a CPU.
        rule = Product if geometry[0] == (1, 1) else backend.choose("strided_pointwise")
    elif groups > 1:
        rule = backend.choose("depthwise") if kernel.shape[2] == 1 else Library
    else:
        rule = backend.choose("convolution")
    return _convolve(rule(*geometry), x, kernel)


def _joined(x, kernels, groups):
    """Joins E kernels [E, kh, kw, Cin / groups, Cout] into one; returns input, kernel, and groups.

    1x1 kernels become one matrix: one product with many channels is quicker than many with few, although
    most of it is zero.
    """
    count, height, width, inputs, outputs = kernels.shape
    if (height, width, groups) == (1, 1, 1):
        return x, block_matrix(kernels[:, 0, 0], x.shape[-1] // inputs)[None, None], 1
    joined = jnp.moveaxis(kernels, 0, 3).reshape(height, width, inputs, count * outputs)
    return jnp.tile(x, count * inputs * groups // x.shape[-1]), joined, count * groups


def block_matrix(blocks, sources, interleaved=False):
    """Makes a matrix that applies E matrices to S vectors side by side, to each of them E / S.

    Args:
        blocks: [E, Cin, Cout]; E = R * S, the vector that a block applies to varies fastest.
        sources: S.
        interleaved: whether there are E vectors, ordered by S, Cin and R instead of R, S and Cin.

    Returns:
        [S * Cin, E * Cout], or [E * Cin, E * Cout] where interleaved.
    """
    edges, inputs, outputs = blocks.shape
    blocks = blocks.reshape(-1, sources, inputs, outputs).transpose(1, 2, 0, 3)
    own = jnp.eye(sources, dtype=blocks.dtype)[:, None, None, :, None]
    placed = blocks[:, :, :, None] * own  # [S, Cin, R, S, Cout]
    if interleaved:
        repeats = edges // sources
        own = jnp.eye(repeats, dtype=blocks.dtype)[:, :, None, None]
        placed = placed[:, :, :, None] * own  # [S, Cin, R, R, S, Cout]
    return placed.reshape(-1, edges * outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(rule, x, kernel):
    """Applies a convolution by one of the rules below."""
    return rule.forward(x, kernel.astype(x.dtype))


def _convolve_forward(rule, x, kernel):
    residuals = x.value, kernel.value, Wanted(x.perturbed, kernel.perturbed)
    return _convolve(rule, x.value, kernel.value), residuals


def _convolve_backward(rule, residuals, cotangent):
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
class Wanted:
    """The gradients that are needed: that of the alphas, for example, needs none of the kernels'."""

    to_input: bool
    to_kernels: bool


# Symbolic zeros show which arguments are differentiated.
_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)


_LAYOUT = ("NHWC", "HWIO", "NHWC")


@backend.implementation("convolution", "library")
@backend.implementation("depthwise", "library")
@backend.implementation("strided_pointwise", "library")
@dataclasses.dataclass(frozen=True)  # unlike tuples, unequal if their classes differ
class Library:
    """XLA's convolution, with the gradients that JAX derives.

    Attributes:
        stride, dilation, padding, groups: as in `convolve`; padding is (vertical, horizontal).
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
    """XLA's convolution, with gradients in the one layout for which its CPU compiler is fast.

    The gradients that JAX derives have other layouts. Outside loops the compiler changes them;
    inside (the scans over edges and over steps) it runs them with naive code, 10 to 20 times slower.
    Only one group is supported.
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

        It treats the input's channels as images, its images as channels, and the cotangent as kernel.
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


@backend.implementation("depthwise", "shifted")
class Shifted(Library):
    """A convolution of every channel by itself, as a sum of shifted products, which XLA fuses.

    A channel may have R kernels, [kh, kw, 1, groups * R], whose outputs lie side by side.
    """

    def forward(self, x, kernel):
        """The convolution."""
        spans = [self.dilation * (taps - 1) + 1 for taps in kernel.shape[:2]]
        size = [
            (pixels + 2 * pad - span) // step + 1
            for pixels, pad, span, step in zip(x.shape[1:], self.padding, spans, self.stride)
        ]
        taps = self._by_group(kernel)
        products = [
            window[..., None] * taps[i, j] for (i, j), window in self._windows(x, taps, size)
        ]
        return sum(products).reshape(*products[0].shape[:3], -1).astype(x.dtype)

    def to_input(self, cotangent, kernel, x):
        """Gradient by `x`, of which shape and dtype count: the transposed convolution."""
        taps = self._by_group(kernel)[::-1, ::-1]
        spread = self._spread(cotangent, taps, x.shape)
        own = Shifted((1, 1), self.dilation)
        total = 0
        for r in range(taps.shape[3]):
            one = spread.reshape(*spread.shape[:3], self.groups, -1)[..., r]
            for (i, j), window in own._windows(one, taps, x.shape[1:3]):
                total += window * taps[i, j, :, r]
        return total.astype(x.dtype)

    def to_kernel(self, x, cotangent, shape):
        """Gradient [kh, kw, 1, Cout] by the kernel, float32 or better."""
        taps = jax.ShapeDtypeStruct((*shape[:2], self.groups, shape[3] // self.groups), x.dtype)
        cotangent = cotangent.reshape(*cotangent.shape[:3], *taps.shape[2:])
        wide = cotangent.astype(jnp.promote_types(x.dtype, jnp.float32))
        products = [
            window[..., None] * wide for _, window in self._windows(x, taps, cotangent.shape[1:3])
        ]
        return jnp.stack(sums(products, kept=2)).reshape(shape)

    def _by_group(self, kernel):
        """The kernel as [kh, kw, groups, R], in float32 or better."""
        wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        return wide.reshape(*kernel.shape[:2], self.groups, -1)

    def _windows(self, x, taps, size):
        """Yields every tap's position and what it reads of `x`, for outputs of a height and width."""
        padding = [(0, 0), *((pad, pad) for pad in self.padding), (0, 0)]
        wide = jnp.pad(x, padding).astype(jnp.promote_types(x.dtype, jnp.float32))
        for tap in np.ndindex(*taps.shape[:2]):
            starts = [self.dilation * place for place in tap]
            rows, columns = (
                slice(start, start + step * (count - 1) + 1, step)
                for start, step, count in zip(starts, self.stride, size)
            )
            yield tap, wide[:, rows, columns]

    def _spread(self, cotangent, taps, shape):
        """The cotangent with zeros between (for strides) and around, to be convolved at stride 1."""
        padding = [(0, 0, 0)]
        for axis in (0, 1):
            reach = self.dilation * (taps.shape[axis] - 1)
            before, step = reach - self.padding[axis], self.stride[axis]
            span = step * (cotangent.shape[1 + axis] - 1) + 1
            padding.append((before, shape[1 + axis] + reach - before - span, step - 1))
        return lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [*padding, (0, 0, 0)])


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

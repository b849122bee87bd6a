"""Convolution with symmetric padding, and rules to compute it and its gradients.

Images are `[batch, height, width, channels]`, kernels `[height, width, channels in / groups, out]`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from ddarts_jax.distributed import sharding
from ddarts_jax.ops import backend


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
        plain = geometry[0] == (1, 1)
        rule = backend.choose("pointwise" if plain else "strided_pointwise")
    else:
        rule = Library if groups > 1 else backend.choose("convolution")
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


def block_matrix(blocks, sources):
    """Makes a matrix that applies E matrices to S vectors side by side, to each of them E / S.

    Args:
        blocks: [E, Cin, Cout]; E = R * S, the vector that a block applies to varies fastest.
        sources: S.

    Returns:
        [S * Cin, E * Cout].
    """
    edges, inputs, outputs = blocks.shape
    blocks = blocks.reshape(-1, sources, inputs, outputs).transpose(1, 2, 0, 3)
    own = jnp.eye(sources, dtype=blocks.dtype)[:, None, None, :, None]
    return (blocks[:, :, :, None] * own).reshape(-1, edges * outputs)  # from [S, Cin, R, S, Cout]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(rule, x, kernel):
    """Applies a convolution by one of the rules below."""
    return sharding.on_own_images(rule.forward, (x,), (kernel.astype(x.dtype),))


def _convolve_forward(rule, x, kernel):
    residuals = x.value, kernel.value, Wanted(x.perturbed, kernel.perturbed)
    return _convolve(rule, x.value, kernel.value), residuals


def _convolve_backward(rule, residuals, cotangent):
    x, kernel, wanted = residuals
    to_x = to_kernel = None
    if wanted.to_input:
        to_x = sharding.on_own_images(
            lambda cotangent, x, kernel: rule.to_input(cotangent, kernel, x),
            (cotangent, x),
            (kernel.astype(x.dtype),),
        )
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
@backend.implementation("pointwise", "library")
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


@backend.implementation("pointwise", "product")
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

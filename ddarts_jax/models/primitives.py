"""The candidate primitives of the search spaces.

The conventions are those of DARTS (Liu et al. 2019): ReLU-Conv-BN, padding that keeps the size, average
pooling that does not count padding, strided skips by factorized reduction.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces
from ddarts_jax.genotypes.distance import SCORES
from ddarts_jax.models.layers import BatchNorm, ConvBN, FactorizedReduce, Normalised, kernel
from ddarts_jax.ops.convolution import convolve
from ddarts_jax.ops.normalisation import KEPT
from ddarts_jax.ops.pooling import avg_pool, max_pool
from ddarts_jax.ops.separable import separable


class DepthwiseSeparable(Normalised):
    """ReLU, depthwise k x k, pointwise 1x1, BatchNorm."""

    last = ("pointwise",)

    def __init__(self, channels, size, stride, dilation=1, *, affine):
        self.spatial = kernel(size, size, 1, channels)
        self.pointwise = kernel(1, 1, channels, channels)
        self.norm = BatchNorm(channels, affine)
        self.stride, self.dilation = stride, dilation

    def unnormalised(self, x, train):
        """Returns the convolutions of ReLU(x)."""
        return self.convolved(jax.nn.relu(x))

    def convolved(self, x):
        """Returns the convolutions of `x`, to be kept where activations are rematerialised."""
        kernels = self.spatial[...], self.pointwise[...]
        return checkpoint_name(separable(x, *kernels, self.stride, self.dilation), KEPT)


class SepConv(Normalised):
    """Depthwise-separable convolution applied twice; only the first is strided."""

    def __init__(self, channels, size, stride, *, affine):
        self.first = DepthwiseSeparable(channels, size, stride, affine=affine)
        self.second = DepthwiseSeparable(channels, size, 1, affine=affine)

    @property
    def norm(self):
        """The second convolution's BatchNorm."""
        return self.second.norm

    def unnormalised(self, x, train):
        """Returns both convolutions."""
        first = self.first.norm(self.first.unnormalised(x, train), train, rectify=True)
        return self.second.convolved(first)


class RowColumnConv(Normalised):
    """ReLU, convolution 1 x k along the rows, then k x 1 along the columns, BatchNorm (Inception).

    The stride is split: horizontal in the first convolution, vertical in the second.
    """

    last = ("column",)

    def __init__(self, channels, size, stride, *, affine):
        self.row = kernel(1, size, channels, channels)
        self.column = kernel(size, 1, channels, channels)
        self.norm = BatchNorm(channels, affine)
        self.stride = stride

    def unnormalised(self, x, train):
        """Returns both convolutions of ReLU(x)."""
        x = convolve(jax.nn.relu(x), self.row[...], (1, self.stride))
        return convolve(x, self.column[...], (self.stride, 1))


class Bottleneck(Normalised):
    """ResNet50's block as in the authors' code: ReLU, 1x1, BN, 3x3, BN, 1x1 to 4C, BN, ReLU, 1x1, BN.

    The article describes a block that begins with 4C channels, but its parameter counts are those of
    this one: C channels up to the third convolution, 4C after it, C at the end. Only the 3x3 is
    strided.
    """

    def __init__(self, channels, stride, *, affine):
        self.reduce = ConvBN(channels, channels, 1, affine=affine)
        self.spatial = ConvBN(channels, channels, 3, stride, affine=affine, relu=False)
        self.expand = ConvBN(channels, 4 * channels, 1, affine=affine, relu=False)
        self.project = ConvBN(4 * channels, channels, 1, affine=affine)

    @property
    def norm(self):
        """The last convolution's BatchNorm."""
        return self.project.norm

    def unnormalised(self, x, train):
        """Returns all four convolutions."""
        for part in (self.reduce, self.spatial, self.expand):
            x = part(x, train)
        return self.project.unnormalised(x, train)


class Pool(Normalised):
    """3x3 pooling, followed by BatchNorm in the supernet and by nothing in a derived network."""

    def __init__(self, pool: Callable, channels, stride, *, affine):
        self.pool, self.stride = pool, stride
        self.norm = None if affine else BatchNorm(channels, affine)

    def __call__(self, x, train):
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        x = self.unnormalised(x, train)
        return x if self.norm is None else self.norm(x, train)

    def unnormalised(self, x, train):
        """Returns the pooled images."""
        return self.pool(x, self.stride)


class Identity(nnx.Module):
    """The skip connection at stride 1."""

    def __call__(self, x, train):
        """Returns `x`."""
        return x


_BUILDERS: dict[str, Callable] = {}  # for the primitives that users have added


def register(name: str, build: Callable | None = None, *, score: float | None = None):
    """Adds a primitive, which a search space can then name; can be used as a class decorator.

    Kernels that are zero, or named `kernel`, are drawn separately for every edge (see
    `layers.initialise`); all other parameters start with the values that `build` gives them.

    Args:
        name: an identifier; genotypes contain it.
        build: `(channels, stride, *, affine) -> nnx.Module`, called as `module(x, train)`: maps
            [B, H, W, channels] to [B, ceil(H / stride), ceil(W / stride), channels], of the dtype of
            `x`. Its variables are `nnx.Param` and `nnx.BatchStat`. `affine` is False in the supernet,
            where BatchNorm has no scale and bias. None: returns a decorator.
        score: operation score, the primitive's weight in distances between architectures; None: the
            mean of those of Table 1.

    Returns:
        `build`, or the decorator.

    Raises:
        UserError: the name is taken or cannot be used in a genotype.
    """
    if build is None:
        return functools.partial(register, name, score=score)
    spaces.add(name, float(np.mean([*SCORES.values()]) if score is None else score))
    _BUILDERS[name] = build
    return build


def create(name: str, channels: int, stride: int, *, affine: bool):
    """Builds the primitive `name` with zero kernels, which `initialise` draws later.

    Args:
        name: one of `DARTOPTI_PRIMITIVES`, which contains all that come with the package, or one
            that was registered.
        channels: number of input and output channels.
        stride: 1 keeps the size, 2 halves it.
        affine: False in the supernet (BatchNorm without scale and bias, pools followed by BatchNorm),
            True in a derived network.

    Raises:
        UserError: for an unknown name.
    """
    if name in _BUILDERS:
        return _BUILDERS[name](channels, stride, affine=affine)
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
    known = ", ".join([*spaces.DARTOPTI_PRIMITIVES, *_BUILDERS])
    raise UserError(
        f"Unknown primitive {name!r}: use one of {known}, or add your own with register_primitive."
    )

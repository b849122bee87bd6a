"""Layers of primitives, cells and stems; splitting and running modules.

Images are `[batch, height, width, channels]`. Every module is called as `module(x, train)`: with
`train=True` BatchNorm uses the statistics of the batch and updates the running ones; otherwise it uses
the running ones. Parameters and statistics are float32; the computation uses the dtype of `x`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.ops.convolution import convolve
from ddarts_jax.ops.normalisation import EPSILON, standardise

PyTree = Any


def kernel(*shape: int) -> nnx.Param:
    """A zero-filled kernel; `initialise` draws its values."""
    return nnx.Param(np.zeros(shape, np.float32))


def initialise(key, weights):
    """Draws all kernels as the reference does: U(-b, b) with b = 1 / sqrt(fan_in) (PyTorch's default).

    Kernels are the leaves named `kernel`, and all other leaves that are zero, except `scale` and
    `bias`. Modules are built with zeros and all kernels are drawn here at once: drawing them one by
    one compiles a program for every shape, which took twenty seconds for the smallest supernet.

    Args:
        key: random key of the draw.
        weights: nested dict of a module's parameters. A kernel is [kh, kw, in / groups, out] or
            [in, out]; those below a key "candidates" have the edges of a mixed operation on an axis
            before these.

    Returns:
        The same tree, float32, with random kernels; all other leaves are unchanged.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(weights)

    def is_kernel(path, leaf):
        name = path[-1].key
        return name == "kernel" or (name not in ("scale", "bias") and not np.any(leaf))

    def fan_in(path, leaf):
        stacked = any(getattr(part, "key", None) == "candidates" for part in path)
        return math.prod(leaf.shape[stacked:-1])

    sizes = [leaf.size if is_kernel(path, leaf) else 0 for path, leaf in leaves]
    numbers = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1, 1)
    parts = np.split(np.asarray(numbers), np.cumsum(sizes)[:-1])
    filled = [
        part.reshape(leaf.shape) / np.float32(np.sqrt(fan_in(path, leaf)))
        if part.size
        else np.asarray(leaf)
        for part, (path, leaf) in zip(parts, leaves)
    ]
    return jax.tree.unflatten(tree, filled)


_MOMENTUM = 0.9  # of running statistics, as in the reference


class BatchNorm(nnx.Module):
    """Batch normalisation as in the reference: eps 1e-5, running statistics with momentum 0.9.

    That of E joined edges (see `models.edges`) has statistics [E, C] and input [B, H, W, E * C].

    Args:
        channels: number of features.
        affine: whether it has a scale and a bias; in the supernet it does not (DARTS, section 2.2).
    """

    def __init__(self, channels: int, affine: bool):
        self.mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.var = nnx.BatchStat(np.ones(channels, np.float32))
        self.scale = nnx.Param(np.ones(channels, np.float32)) if affine else None
        self.bias = nnx.Param(np.zeros(channels, np.float32)) if affine else None

    def __call__(self, x, train, rectify=False):
        """Normalises `x` over all axes but the last; statistics are computed in float32 or better.

        With `rectify` ReLU follows.
        """
        rectified = rectify and train and self.scale is None
        if train:
            output, mean, variance = standardise(x, self.mean[...].reshape(-1), rectified)
            self.update(mean, variance, x.size // x.shape[-1])
        else:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            inverse = lax.rsqrt(self.var[...].astype(wide).reshape(-1) + EPSILON)
            output = (x - self.mean[...].reshape(-1)) * inverse
        if self.scale is not None:
            output = output * self.scale[...] + self.bias[...]
        output = output.astype(x.dtype)
        return jax.nn.relu(output) if rectify and not rectified else output

    def update(self, mean, variance, count: int):
        """Moves the running statistics towards those of a batch.

        Args:
            mean: as many numbers as the running mean has, or fewer, which are then repeated.
            variance: the biased variance, in the same shape.
            count: how many values each of them was computed from.
        """
        # As in PyTorch, the batch is standardised by its own (biased) variance, while the running
        # variance estimates that of the population.
        unbiased = variance * (count / max(count - 1, 1))
        for running, new in zip((self.mean, self.var), (mean, unbiased)):
            new = jnp.tile(new.reshape(-1), running.size // new.size).reshape(running.shape)
            mixed = _MOMENTUM * running[...] + (1 - _MOMENTUM) * new
            running.set_value(mixed.astype(running.dtype))


class Normalised(nnx.Module):
    """A layer that ends with a BatchNorm, `norm`, of what its method `unnormalised` computes.

    Attributes:
        last: names of the kernels whose outputs, side by side, are normalised, for `folding`; none where
            another layer inside of this one holds them, or where there are none.
    """

    last: tuple[str, ...] = ()

    def __call__(self, x, train):
        """Maps [B, H, W, cin] to [B, H / stride, W / stride, cout]."""
        return self.norm(self.unnormalised(x, train), train)


class ConvBN(Normalised):
    """ReLU, convolution, BatchNorm (no ReLU with `relu=False`, as in the stem)."""

    last = ("kernel",)

    def __init__(self, cin, cout, size, stride=1, *, affine, relu=True, padding=None):
        self.kernel = kernel(size, size, cin, cout)
        self.norm = BatchNorm(cout, affine)
        self.stride, self.relu, self.padding = (stride, stride), relu, padding

    def unnormalised(self, x, train):
        """Returns the convolution."""
        x = jax.nn.relu(x) if self.relu else x
        return convolve(x, self.kernel[...], self.stride, padding=self.padding)


class FactorizedReduce(Normalised):
    """Halves the size without losing every second pixel: ReLU, two strided 1x1 convolutions, BN.

    One convolution reads the even pixels, the other the odd ones; each produces half of the channels.
    """

    last = ("even", "odd")

    def __init__(self, cin, cout, *, affine):
        half = cout // 2
        self.even = kernel(1, 1, cin, half)
        self.odd = kernel(1, 1, cin, cout - half)
        self.norm = BatchNorm(cout, affine)

    def unnormalised(self, x, train):
        """Maps [B, H, W, cin] to [B, ceil(H / 2), ceil(W / 2), cout]."""
        x = jax.nn.relu(x)
        # With an odd size there is one odd pixel fewer than even ones: pad with a zero.
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        even = convolve(x, self.even[...], (2, 2))
        odd = convolve(x[:, 1:, 1:], self.odd[...], (2, 2))
        if self.even.ndim == 4:
            return jnp.concatenate([even, odd], -1)
        # Of joined edges: each edge's two halves side by side.
        halves = [half.reshape(*half.shape[:-1], len(self.even), -1) for half in (even, odd)]
        joined = jnp.concatenate(halves, -1)
        return joined.reshape(*joined.shape[:-2], -1)


def preprocess(cin, channels, reduction_before: bool, *, affine):
    """The two layers that bring a cell's inputs to its number of channels and to the same size.

    Args:
        cin: numbers of channels of the outputs of the cell before the last and of the last cell.
        channels: number of channels of the cell's nodes.
        reduction_before: whether the last cell was a reduction cell, so that the output of the one
            before it is twice the size.
        affine: see `create`.
    """
    first, second = cin
    if reduction_before:
        layer0 = FactorizedReduce(first, channels, affine=affine)
    else:
        layer0 = ConvBN(first, channels, 1, affine=affine)
    return layer0, ConvBN(second, channels, 1, affine=affine)


class Variables(NamedTuple):
    """The arrays of the modules, each field by part: `{"stem": ..., "cells": [...], "head": ...}`.

    Attributes:
        weights: trainable parameters.
        statistics: running means and variances of BatchNorm.
    """

    weights: PyTree
    statistics: PyTree


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Splits a module into its structure and its arrays."""
    graph, weights, statistics = nnx.split(module, nnx.Param, nnx.BatchStat)
    return graph, Variables(nnx.to_pure_dict(weights), nnx.to_pure_dict(statistics))


def apply(graph, variables: Variables, *args, method: str = "__call__"):
    """Runs a method of a split module purely: returns its output and the new statistics."""
    module = nnx.merge(graph, *variables)
    return getattr(module, method)(*args), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

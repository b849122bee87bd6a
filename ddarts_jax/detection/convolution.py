"""Convolutions with a bias, of which detectors are made, and how their kernels are drawn."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddarts_jax.models.layers import kernel
from ddarts_jax.ops.convolution import convolve


class Convolution(nnx.Module):
    """A convolution with a bias, and with no BatchNorm."""

    def __init__(self, cin: int, cout: int, size: int, stride: int = 1):
        self.kernel = kernel(size, size, cin, cout)
        self.bias = nnx.Param(np.zeros(cout, np.float32))
        self.stride = (stride, stride)

    def __call__(self, x):
        """Maps [B, H, W, cin] to [B, ceil(H / stride), ceil(W / stride), cout]."""
        # Added in float32, and so is the gradient of the bias, over all pixels, images and devices.
        return (convolve(x, self.kernel[...], self.stride) + self.bias[...]).astype(x.dtype)


def drawn(key, weights, sample: Callable, scale: Callable):
    """Draws all kernels of a part of a detector at once.

    Args:
        key: random key of the draw.
        weights: nested dict of parameters; those with several axes are kernels, the others biases.
        sample: `(key, shape) -> numbers`, such as `jax.random.normal`.
        scale: maps the shape of a kernel to the factor of its numbers.

    Returns:
        The same tree, float32, with random kernels; biases are unchanged.
    """
    leaves, tree = jax.tree.flatten(weights)
    sizes = [leaf.size if leaf.ndim > 1 else 0 for leaf in leaves]
    parts = np.split(np.asarray(sample(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
    filled = [
        part.reshape(leaf.shape) * np.float32(scale(leaf.shape)) if part.size else np.asarray(leaf)
        for part, leaf in zip(parts, leaves)
    ]
    return jax.tree.unflatten(tree, filled)


def xavier(key, weights):
    """Draws all kernels as the pyramid's are (Glorot and Bengio 2010, uniform).

    They are of U(-b, b) with b = sqrt(6 / (fan in + fan out)). For the arguments see `drawn`.
    """

    def uniform(key, shape):
        return jax.random.uniform(key, shape, jnp.float32, -1, 1)

    def bound(shape):
        return np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))

    return drawn(key, weights, uniform, bound)


def normal(key, weights, deviation: float = 0.01):
    """Draws all kernels from a normal distribution, as those of heads are; see `drawn`."""
    return drawn(key, weights, jax.random.normal, lambda shape: deviation)


def he_normal(key, weights):
    """Draws all kernels for ReLU (He et al. 2015), with deviation sqrt(2 / fan out); see `drawn`."""

    def deviation(shape):
        return np.sqrt(2 / (np.prod(shape[:-2]) * shape[-1]))

    return drawn(key, weights, jax.random.normal, deviation)

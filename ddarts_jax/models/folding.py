"""BatchNorm folded into the convolutions before it, for a network that is never trained again.

With the running statistics BatchNorm multiplies and shifts each channel. A convolution whose kernel is
multiplied instead gives the same, up to rounding (Jacob et al. 2018, section 3.2): one operation in place
of three, and the one that int8 arithmetic knows.
"""

import jax
import numpy as np
from flax import nnx

from ddarts_jax.models.layers import Normalised
from ddarts_jax.ops.normalisation import EPSILON


class Shift(nnx.Module):
    """What is left of a BatchNorm: a bias [C], and ReLU where it follows."""

    def __init__(self, bias):
        self.bias = nnx.Param(bias)

    def __call__(self, x, train, rectify=False):
        """Shifts `x` [..., C]."""
        x = x + self.bias[...].astype(x.dtype)
        return jax.nn.relu(x) if rectify else x


def fold(module: nnx.Module) -> None:
    """Folds every BatchNorm behind a convolution of a module into it, in place.

    Those of primitives that users have added stay, unless they are `Normalised` and name their kernels.

    Args:
        module: a derived network or a part of one, whose BatchNorm is affine; not that of a supernet.
    """
    for _, part in list(nnx.iter_modules(module)):
        if isinstance(part, Normalised) and part.last:
            mean, variance, scale, bias = (
                np.asarray(each[...], np.float64)
                for each in (part.norm.mean, part.norm.var, part.norm.scale, part.norm.bias)
            )
            factors = scale / np.sqrt(variance + EPSILON)
            part.norm = Shift((bias - mean * factors).astype(np.float32))
            kernels = [getattr(part, name) for name in part.last]
            ends = np.cumsum([kernel.shape[-1] for kernel in kernels])
            for kernel, own in zip(kernels, np.split(factors, ends[:-1]), strict=True):
                kernel.set_value((kernel[...] * own).astype(np.float32))

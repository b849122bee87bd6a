"""The feature pyramid: features of a backbone's levels made equally wide, and equally meaningful.

Images are [B, H, W, C]; sizes halve upwards from level to level, as those of strided convolutions do.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.detection.convolution import Convolution
from ddarts_jax.errors import UserError


class Pyramid(nnx.Module):
    """The feature pyramid network (Lin et al. 2017).

    A 1x1 convolution brings every level to the same width; from the coarsest on, each is enlarged and
    added to the finer one; a 3x3 convolution follows. Further levels on top are made of the coarsest
    input by strided 3x3 convolutions, with a ReLU between them (RetinaNet), or by leaving out every
    second pixel of the coarsest output (Mask R-CNN).

    Args:
        widths: channels of the inputs, the finest first.
        channels: of all outputs.
        extra: number of levels on top.
        kind: how they are made, "strided" or "subsampled".
    """

    def __init__(self, widths: Sequence[int], channels: int, extra: int, kind: str = "strided"):
        self.lateral = nnx.List([Convolution(width, channels, 1) for width in widths])
        self.output = nnx.List([Convolution(channels, channels, 3) for _ in widths])
        inputs = [widths[-1], *[channels] * extra][:extra]
        strided = kind == "strided"
        self.top = nnx.List([Convolution(cin, channels, 3, 2) for cin in inputs] if strided else [])
        self.subsampled = 0 if strided else extra

    def __call__(self, features: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps features [B, H, W, C] of the inputs to those of all levels, the finest first."""
        sums = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for fine in reversed(range(len(sums) - 1)):
            sums[fine] += _enlarged(sums[fine + 1], sums[fine].shape[1:3])
        outputs = [output(x) for output, x in zip(self.output, sums)]
        top = features[-1]
        for number, convolution in enumerate(self.top):
            top = convolution(jax.nn.relu(top) if number else top)
            outputs.append(top)
        for _ in range(self.subsampled):
            outputs.append(outputs[-1][:, ::2, ::2])
        return outputs


def _enlarged(x, size):
    """Doubles [B, h, w, C] to `size`, or to one less: nearest neighbours, floor(i h / H)."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, : size[0], : size[1]]


def all_strides(strides: Sequence[int], levels: int) -> tuple[int, ...]:
    """The strides of all levels of a pyramid that reads some of these strides, the finest first.

    Raises:
        UserError: the pyramid has fewer levels than it reads.
    """
    if levels < len(strides):
        raise UserError(
            f"config.fpn.levels={levels}, but the pyramid reads {len(strides)} levels of the backbone: "
            f"raise it, or name fewer in config.backbone.levels."
        )
    return (*strides, *(strides[-1] * 2**k for k in range(1, levels - len(strides) + 1)))

"""The stems, which stand before cell 0, and the strides of all feature maps that follow from them.

"plain" is one convolution that keeps the images' size, read twice by cell 0. The stems for large images
have three convolutions, of which cell 0 reads the outputs of the last two. In DARTS's network for
ImageNet all three are strided ("strided"), in that of D-DARTS's authors only the first and the third
("half"). Both have the same weights under the same names: nothing in a file tells them apart.
"""

from flax import nnx

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.layers import ConvBN

# By name, the strides of the outputs that cell 0 reads.
STRIDES = {"plain": (1,), "half": (2, 4), "strided": (4, 8)}


class StridedStem(nnx.Module):
    """The first two convolutions of a stem for large images, 3x3 both.

    Args:
        cin: channels of the images.
        channels: of the output.
        stride: of both together, 2 or 4.
    """

    def __init__(self, cin, channels, stride):
        if channels < 2:
            raise UserError(
                f"The stem for large images has half of {channels} channels in its first convolution: "
                f"use at least 2 channels, or the stem 'plain'."
            )
        self.first = ConvBN(cin, channels // 2, 3, 2, affine=True, relu=False)
        self.second = ConvBN(channels // 2, channels, 3, stride // 2, affine=True)

    def __call__(self, x, train):
        """Maps [B, H, W, cin] to [B, H / stride, W / stride, channels]."""
        return self.second(self.first(x, train), train)


def strides(genotype: Genotype, stem: str) -> dict[int, int]:
    """Computes how many pixels of the images one step in each feature map is.

    Args:
        genotype: its reduction cells halve the size.
        stem: a key of `STRIDES`.

    Returns:
        {position: stride} in the order in which the maps are computed: -1 for the stem, -2 for the last
        convolution of one for large images, then the cells from 0 on. Each stride is that of the map
        before it or twice that, and a map of stride s has ceil(H / s) rows.
    """
    found = dict(zip((-1, -2), STRIDES[stem]))
    stride = STRIDES[stem][-1]
    for position in range(genotype.num_cells):
        stride *= 2 if position in genotype.reductions else 1
        found[position] = stride
    return found

"""A network as the backbone of a detector: the feature maps that it reads, and what of them learns.

A level is a feature map that the pyramid of a detector reads, named by its position in the network: cells
from 0 on, -1 the stem, -2 the last convolution of a stem for large images. Nothing behind the last level
is built or loaded, the classifier and its auxiliary head neither. `network.features` computes the levels.

BatchNorm is "frozen" by calling it with `train=False`: the running statistics are used and never updated,
while scale and bias are trained as in MMDetection.
"""

import functools
import itertools
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import cost, network, weights
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.stems import strides

_logger = logging.getLogger(__name__)

_LARGEST_PLAIN = 256  # pixels per side: a plain stem's first cells run on all of them


class Levels(NamedTuple):
    """The feature maps that a detector reads.

    Attributes:
        positions: of the maps, the finest first.
        strides: of the maps, in pixels of the image; each is twice the one before it.
        missing: how many coarser maps were asked for that the network does not have; the pyramid makes
            them on top.
    """

    positions: tuple[int, ...]
    strides: tuple[int, ...]
    missing: int


def choose_levels(genotype: Genotype, stem: str, finest: int, count: int) -> Levels:
    """Chooses for each stride the last map of that stride.

    Where a network for large images has no cell of the finest stride, the stem stands in, with a warning.
    A network with a plain stem is one for small images: all its strides from 2 on are read.

    Args:
        genotype: of the network.
        stem: a key of `stems.STRIDES`.
        finest: stride of the finest level: 8 for RetinaNet, 4 for Mask R-CNN.
        count: number of levels: 3 for RetinaNet, 4 for Mask R-CNN.

    Raises:
        UserError: no map of the network has the finest stride.
    """
    last = {stride: position for position, stride in strides(genotype, stem).items()}
    if stem == "plain":
        finest, count = 2, len(last) - 1
    wanted = tuple(finest * 2**octave for octave in range(count))
    found = tuple(stride for stride in wanted if stride in last)
    if not found:
        raise UserError(
            f"The detector reads feature maps from stride {finest} on, but the coarsest of this backbone "
            f"has stride {max(last)}: use a genotype with more reduction cells, or a network that was "
            f"trained with --config.train.stem=strided."
        )
    positions = tuple(last[stride] for stride in found)
    if positions[0] < 0:
        _logger.warning(
            "backbone: no cell has stride %d, so the stem stands in as the finest level; it is two "
            "convolutions deep, and small objects will suffer. A network trained with "
            "--config.train.stem=half has cells of that stride.",
            found[0],
        )
    return Levels(positions, found, len(wanted) - len(found))


def given_levels(genotype: Genotype, stem: str, positions: Sequence[int]) -> Levels:
    """Returns the levels at given positions.

    Raises:
        UserError: the network has no such position, or the strides do not double from level to level.
    """
    known = strides(genotype, stem)
    if unknown := [position for position in positions if position not in known]:
        raise UserError(
            f"config.backbone.levels names position {unknown[0]}, which the network does not have: use "
            f"{', '.join(map(str, known))} (-1 and -2 are the stem's)."
        )
    found = tuple(known[position] for position in positions)
    if not found or any(2 * fine != coarse for fine, coarse in itertools.pairwise(found)):
        raise UserError(
            f"config.backbone.levels is {tuple(positions)}, whose strides are {found}: name positions of "
            f"which each has twice the stride of the one before; the network has (position: stride) "
            f"{', '.join(f'{position}: {stride}' for position, stride in known.items())}."
        )
    return Levels(tuple(positions), found, 0)


def build(
    genotype: Genotype,
    levels: Levels,
    *,
    channels: int,
    image_channels: int,
    stem: str,
    stem_multiplier: int,
    key: jax.Array | None,
) -> tuple[network.Network, Variables]:
    """Builds the part of a network that the levels need: its stem and its cells up to the last level.

    Args:
        genotype: of the whole network.
        levels: see `choose_levels`.
        channels: see `network.build_module`, as for all other arguments.
        image_channels: likewise.
        stem: likewise.
        stem_multiplier: likewise.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.

    Returns:
        The structure, for `network.features`, and its variables, named as those of the whole network.

    Raises:
        UserError: see `network.build`.
    """
    num_cells = max(*levels.positions, 0) + 1
    part = Genotype(
        genotype.cells[:num_cells],
        [position for position in genotype.reductions if position < num_cells],
        genotype.concat,
    )
    return network.build(
        part,
        channels=channels,
        num_classes=0,
        image_channels=image_channels,
        image_size=network.smallest_image(part, stem),
        stem=stem,
        stem_multiplier=stem_multiplier,
        key=key,
    )


def load(path: str | os.PathLike, variables: Variables) -> Variables:
    """Reads a backbone from the file of a whole network; the log tells how much is left out.

    Args:
        path: a file of `weights.save_network`, or an export's.
        variables: of `build`, for structure and shapes.

    Raises:
        UserError: the file is missing, corrupt, or of another network.
    """
    found, others = weights.load_part(path, variables)
    behind = {name: leaf.size for name, leaf in others.items() if name.startswith("weights/cells/")}
    if behind:
        _logger.info(
            "backbone: the cells from %d on are not read: %s parameters are left out",
            len(variables.weights["cells"]),
            f"{sum(behind.values()):,}",
        )
    return found


def frozen_cells(genotype: Genotype, levels: int) -> int:
    """Counts the cells that do not learn, where the finest levels are frozen.

    Frozen are the stem and the cells of the first `levels` strides, whether the pyramid reads them or
    not, as MMDetection's `frozen_stages` counts the stages of a ResNet.

    Args:
        genotype: of the whole network.
        levels: number of strides, from that of cell 0 on; 0: nothing is frozen, the stem neither.

    Raises:
        UserError: the cells have fewer strides.
    """
    ends = [0, *(position for position in genotype.reductions if position), genotype.num_cells]
    if levels >= len(ends):
        raise UserError(
            f"config.backbone.frozen_levels is {levels}, but the cells of this backbone have only "
            f"{len(ends) - 1} sizes: use at most {len(ends) - 1}."
        )
    return ends[levels]


def learning(weights, frozen: int):
    """Tells which leaves learn: those that are not of the stem or of the frozen cells.

    Args:
        weights: those of `Variables`.
        frozen: number of frozen cells, see `frozen_cells`; 0: the stem learns too.

    Returns:
        The same tree of booleans, as `optax.masked` takes it: what is False has no update and no decay.
    """

    def learns(path, _):
        part, *rest = (key.key for key in path)
        return not frozen or (part == "cells" and int(rest[0]) >= frozen)

    return jax.tree_util.tree_map_with_path(learns, weights)


def check_canvas(
    net: network.Network,
    variables: Variables,
    positions: Sequence[int],
    stem: str,
    images: jax.ShapeDtypeStruct,
) -> None:
    """Refuses large images for a plain stem, whose first cells have as many pixels as the images.

    Args:
        net: of `build`.
        variables: of `build`.
        positions: of the levels that are read.
        stem: of the network.
        images: shape [B, H, W, C] and compute dtype of a batch.

    Raises:
        UserError: a side is longer than 256 pixels; the message tells roughly how much memory a training
            step would need.
    """
    count, height, width, _ = images.shape
    if stem != "plain" or max(height, width) <= _LARGEST_PLAIN:
        return
    run = functools.partial(network.features, net, train=True, levels=tuple(positions))
    size = cost.activations(run, variables, images) * images.dtype.itemsize
    raise UserError(
        f"The backbone has the stem 'plain', which is for images of at most {_LARGEST_PLAIN} pixels a "
        f"side: {count} of {height}x{width} pixels would need about {size / 1e9:,.1f} GB in a training "
        f"step. Use a network that was trained with --config.train.stem=half or strided."
    )

"""The discrete network of a genotype, which is trained from scratch and evaluated.

Cells are connected as in DARTS: each reads the outputs of the two cells before it, reduction cells
halve the size and double the channels, BatchNorm is affine. A node without inputs does not exist:
edges from it are dropped, and a cell's output concatenates only the intermediate nodes that exist.

As in the supernet, the modules are built once and split; `forward` is a pure function over pytrees.
"""

import dataclasses
import functools
import itertools
import operator

import jax
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import effect
from ddarts_jax.genotypes.genotype import Cell as Entries
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import layers, stems
from ddarts_jax.models import primitives as prim
from ddarts_jax.models.classification import POOL, POOL_STRIDE, AuxiliaryHead, Head
from ddarts_jax.models.layers import Variables


class Cell(nnx.Module):
    """One cell of the network: the primitives that its genotype chose, with their own weights."""

    def __init__(
        self,
        entries: Entries,
        cin,
        channels,
        reduction,
        reduction_before,
    ):
        self.preprocess0, self.preprocess1 = layers.preprocess(
            cin, channels, reduction_before, affine=True
        )

        self.nodes = _nodes(entries)
        self.operations = nnx.Dict(
            {
                operation_name(name, node, source): prim.create(
                    name,
                    channels,
                    stride=2 if reduction and source < 2 else 1,
                    affine=True,
                )
                for node, inputs in self.nodes
                for name, source in inputs
            }
        )

    def __call__(self, s0, s1, train, scales=None):
        """Runs the cell.

        Args:
            s0: output of the cell before the last, [B, H0, W0, C0].
            s1: output of the last cell, [B, H, W, C1].
            train: whether BatchNorm uses the batch.
            scales: [nodes, B, 1, 1, 1], drop path's factors per node and image; None: 1.

        Returns:
            The existing intermediate nodes, concatenated: [B, H', W', nodes * channels].
        """
        states = {0: self.preprocess0(s0, train), 1: self.preprocess1(s1, train)}
        for i, (node, inputs) in enumerate(self.nodes):
            wide = jnp.promote_types(s1.dtype, jnp.float32)
            total = sum(
                self.operations[operation_name(name, node, source)](states[source], train).astype(
                    wide
                )
                for name, source in inputs
            )
            total = total if scales is None else total * scales[i].astype(wide)
            states[node] = total.astype(s1.dtype)
        return jnp.concatenate([states[node] for node, _ in self.nodes], axis=-1)


def _nodes(entries: Entries):
    """The existing intermediate nodes in order and their inputs: (node, ((name, source), ...))."""
    return tuple(
        (node, tuple((name, source) for name, _, source in group))
        for node, group in itertools.groupby(effect.working(entries), key=operator.itemgetter(1))
    )


def operation_name(name: str, node: int, source: int) -> str:
    """Returns the key of a genotype's entry in a cell's `operations`."""
    return f"{source}_to_{node}_{name}"


class DerivedNetwork(nnx.Module):
    """Stem, cells and classifier; see `build` for the arguments."""

    def __init__(
        self,
        genotype: Genotype,
        *,
        channels,
        num_classes,
        image_channels,
        auxiliary,
        stem,
        stem_multiplier,
    ):
        large = stem != "plain"
        # Channels of the inputs of cell 0.
        widths = [channels if large else stem_multiplier * channels] * 2
        if large:
            self.stem = stems.StridedStem(image_channels, channels, stems.STRIDES[stem][0])
        else:
            self.stem = layers.ConvBN(image_channels, widths[0], 3, affine=True, relu=False)
        self.second_stem = layers.ConvBN(channels, channels, 3, 2, affine=True) if large else None
        self.num_stems = len(stems.STRIDES[stem])
        self.cells = nnx.Dict()
        for position, entries in enumerate(genotype.cells):
            reduction = position in genotype.reductions
            channels *= 2 if reduction else 1
            cell = Cell(
                entries,
                widths[-2:],
                channels,
                reduction,
                position - 1 in genotype.reductions or (position == 0 and large),
            )
            self.cells[str(position)] = cell
            widths.append(len(cell.nodes) * channels)
        self.head = Head(widths[-1], num_classes) if num_classes else None
        self.auxiliary_position = _auxiliary_position(genotype)
        auxiliary_width = widths[self.auxiliary_position + 2]
        head = (auxiliary_width, num_classes, POOL_STRIDE[stem])
        self.auxiliary = AuxiliaryHead(*head) if auxiliary else None

    def __call__(self, images, train: bool = False):
        """Maps images [B, H, W, image channels] to logits [B, classes], float32 or better.

        Args:
            images: normalised.
            train: whether BatchNorm uses the batch, and updates its running statistics.
        """
        return self.run(images, train)[0]

    def features(self, images, train: bool = False) -> list[jax.Array]:
        """Computes the last feature map of every resolution, the finest first.

        Args:
            images: [B, H, W, image channels], normalised.
            train: whether BatchNorm uses the batch.

        Returns:
            Arrays [B, H', W', C']; each is about half as large as the one before it, and the classifier
            reads the last.
        """
        stages = []
        for output in self._outputs(images, train):
            if stages and stages[-1].shape[1:3] == output.shape[1:3]:
                stages[-1] = output
            else:
                stages.append(output)
        return stages

    def read(self, images, train, levels, frozen_cells=0) -> tuple[jax.Array, ...]:
        """Computes chosen feature maps, and nothing behind the last of them; see `features`."""
        positions = [*(-1, -2)[: self.num_stems], *range(len(self.cells))]
        last = max(map(positions.index, levels))
        frozen = self.num_stems + frozen_cells if frozen_cells else 0
        outputs = self._outputs(images, train, frozen=frozen)
        maps = dict(zip(positions[: last + 1], outputs))
        return tuple(maps[level] for level in levels)

    def run(self, images, train, scales=None):
        """Computes logits [B, classes] and, in training, those of the auxiliary head if there is one.

        Args:
            images: [B, H, W, image channels].
            train: whether BatchNorm uses the batch.
            scales: drop path's factors, [cells, nodes, B, 1, 1, 1]; None: 1.
        """
        auxiliary_logits = None
        place = self.num_stems + self.auxiliary_position
        for number, output in enumerate(self._outputs(images, train, scales)):
            if train and self.auxiliary is not None and number == place:
                with jax.named_scope("auxiliary"):
                    auxiliary_logits = self.auxiliary(output, train)
        with jax.named_scope("head"):
            return self.head(output, train), auxiliary_logits

    def _outputs(self, images, train, scales=None, frozen=0):
        """Yields the outputs of the stem's parts and of the cells, in order.

        The first `frozen` of them are constants: they use the running statistics, and stop gradients.
        """

        def compute(number, part, *inputs):
            if number < frozen:
                return jax.lax.stop_gradient(part(*inputs, False))
            return part(*inputs, train)

        with jax.named_scope("stem"):
            s0 = s1 = compute(0, self.stem, images)
        yield s1
        if self.second_stem is not None:
            with jax.named_scope("stem"):
                s1 = compute(1, self.second_stem, s0)
            yield s1
        for position in range(len(self.cells)):
            cell = self.cells[str(position)]
            if scales is not None:
                cell = functools.partial(cell, scales=scales[position])
            with jax.named_scope(f"cell_{position}"):
                s0, s1 = s1, compute(self.num_stems + position, cell, s0, s1)
            yield s1


def _auxiliary_position(genotype: Genotype) -> int:
    """Position of the last reduction cell; if there is none, the one that a search would use."""
    return max(genotype.reductions, default=2 * genotype.num_cells // 3)


def smallest_image(genotype: Genotype, stem: str = "plain") -> int:
    """Pixels per side that the images need for the auxiliary head."""
    needed = POOL + POOL_STRIDE[stem]  # two positions for the 2x2 convolution
    stride = stems.strides(genotype, stem)[_auxiliary_position(genotype)]
    return (needed - 1) * stride + 1  # halving rounds up


@dataclasses.dataclass(frozen=True)
class Network:
    """The network's structure (static and hashable); its arrays are in `Variables`.

    Attributes:
        graph: definition of the modules.
        num_nodes: for each cell, the number of its existing intermediate nodes.
    """

    graph: nnx.GraphDef
    num_nodes: tuple[int, ...]


def build(
    genotype: Genotype,
    *,
    channels: int,
    num_classes: int,
    image_channels: int,
    image_size: int,
    auxiliary: bool = False,
    stem: str = "plain",
    stem_multiplier: int = 3,
    key: jax.Array | None,
) -> tuple[Network, Variables]:
    """Builds the network of a genotype with random weights.

    All existing nodes of a cell are concatenated, as in the authors' network, whatever
    `genotype.concat` says.

    Args:
        genotype: see `build_module`, as for all other arguments.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.

    Returns:
        The structure and its variables, whose fields have the keys stem, second_stem, cells (by
        position), head and auxiliary where these are not empty.

    Raises:
        UserError: see `build_module`.
    """
    module = build_module(
        genotype,
        channels=channels,
        num_classes=num_classes,
        image_channels=image_channels,
        image_size=image_size,
        auxiliary=auxiliary,
        stem=stem,
        stem_multiplier=stem_multiplier,
        rngs=None,
    )
    graph, variables = layers.split(module)
    num_nodes = tuple(len(_nodes(cell)) for cell in genotype.cells)
    if key is not None:
        variables = variables._replace(weights=layers.initialise(key, variables.weights))
    return Network(graph, num_nodes), variables


def build_module(
    genotype: Genotype,
    *,
    channels: int,
    num_classes: int,
    image_size: int,
    image_channels: int = 3,
    auxiliary: bool = False,
    stem: str = "plain",
    stem_multiplier: int = 3,
    rngs: nnx.Rngs | None,
) -> DerivedNetwork:
    """Builds the network of a genotype as a Flax module, for use in a custom training loop.

    The module maps normalised images [B, H, W, C] to logits: `net(images, train=True)`; and
    `net.features(images)` gives the feature maps before the classifier, one for every resolution.

    Args:
        genotype: what the cells compute, and which of them are reduction cells.
        channels: number of channels of the first cells' nodes.
        num_classes: number of logits; 0: no classifier, for feature maps alone.
        image_size: pixels per side.
        image_channels: channels of the input images.
        auxiliary: whether to add the auxiliary head, at the output of the last reduction cell.
        stem: "plain" keeps the images' size. For large images "half" gives the first cell inputs of a
            half and a quarter of that size (the authors, ImageNet), "strided" of a quarter and an
            eighth (DARTS, ImageNet); both have the same weights.
        stem_multiplier: the plain stem has this many times `channels`.
        rngs: the weights are drawn from its `params` stream; None leaves the kernels zero.

    Raises:
        UserError: for a cell without intermediate nodes, an unknown primitive, or images too small
            for the auxiliary head.
    """
    for position, cell in enumerate(genotype.cells):
        if not _nodes(cell):
            raise UserError(
                f"Cell {position} of the genotype has no operation that reads its inputs, so the "
                f"network ends there: lower parse.threshold or use another parse.method."
            )
    if auxiliary:
        smallest = smallest_image(genotype, stem)
        if image_size < smallest:
            raise UserError(
                f"config.train.auxiliary_weight asks for the auxiliary head, which needs images of at "
                f"least {smallest}x{smallest} pixels here, but these have "
                f"{image_size}x{image_size}: set it to 0 or use larger images "
                f"(data.image_size)."
            )
    module = DerivedNetwork(
        genotype,
        channels=channels,
        num_classes=num_classes,
        image_channels=image_channels,
        auxiliary=auxiliary,
        stem=stem,
        stem_multiplier=stem_multiplier,
    )
    if rngs is not None:
        weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        nnx.update(module, jax.tree.map(jnp.asarray, layers.initialise(rngs.params(), weights)))
    return module


def forward(
    network: Network, variables: Variables, images, train: bool, *, drop_path=0.0, key=None
):
    """Runs the network.

    Args:
        network: structure.
        variables: weights and statistics.
        images: [B, H, W, channels], normalised, in the compute dtype.
        train: whether BatchNorm uses the batch, and drop path and the auxiliary head are enabled.
        drop_path: probability, below 1, of zeroing a node; a number or a traced scalar.
        key: random key of drop path; None: no drop path.

    Returns:
        logits [B, num_classes], float32 or better; the auxiliary head's likewise, or None; new
        statistics.
    """
    scales = None
    if train and key is not None:
        scales = drop_path_scales(key, drop_path, network.num_nodes, len(images))
    module = nnx.merge(network.graph, *variables)
    logits, auxiliary_logits = module.run(images, train, scales)
    return logits, auxiliary_logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def features(
    network: Network, variables: Variables, images, train: bool, levels, *, frozen_cells: int = 0
):
    """Computes feature maps of chosen positions, for a detector or another use than classification.

    Nothing behind the last of them runs. There is no drop path, and no ReLU behind a cell: these maps
    are what the next cell, or the classifier, reads.

    Args:
        network: structure.
        variables: weights and statistics.
        images: [B, H, W, channels], normalised, in the compute dtype; H and W may differ.
        train: whether BatchNorm uses the batch and updates its running statistics. Without it, scales
            and biases can be trained all the same.
        levels: positions to read, cells from 0 on, -1 the stem, -2 its second part.
        frozen_cells: the stem and so many cells are constants: no gradient passes their outputs, and
            they use the running statistics always. 0: nothing is.

    Returns:
        A tuple of arrays [B, h, w, c], one a level, in the order of `levels`; new statistics.

    Raises:
        ValueError: the network has no such position.
    """
    module = nnx.merge(network.graph, *variables)
    maps = module.read(images, train, levels, frozen_cells)
    return maps, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def drop_path_scales(key, drop_path, num_nodes, batch):
    """Draws drop path's factors: 0 with probability `drop_path`, else 1 / (1 - drop_path).

    DARTS drops each path into a node independently and never an identity; the authors of D-DARTS drop
    a node, that is, the sum of all its inputs. This follows the latter.

    Args:
        key: random key of the draws.
        drop_path: probability, below 1; a number or a traced scalar.
        num_nodes: intermediate nodes of each cell.
        batch: number of images; each has its own draws.

    Returns:
        float32 [cells, nodes of the largest cell, batch, 1, 1, 1].
    """
    keep = 1 - jnp.asarray(drop_path, jnp.float32)
    shape = (len(num_nodes), max(num_nodes), batch, 1, 1, 1)
    return jax.random.bernoulli(key, keep, shape) / keep

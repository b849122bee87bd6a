"""The discrete network of a genotype, which is trained from scratch and evaluated.

Cells are connected as in DARTS: each reads the outputs of the two cells before it, reduction cells
halve the size and double the channels, BatchNorm is affine. A node without inputs does not exist:
edges from it are dropped, and a cell's output concatenates only the intermediate nodes that exist.

As in the supernet, the modules are built once and split; `forward` is a pure function over pytrees.
"""

import dataclasses
import itertools
import operator

import jax
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import genotype as genotypes
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import layers
from ddarts_jax.models import primitives as prim
from ddarts_jax.models.classification import POOL, POOL_STRIDE, AuxiliaryHead, Head
from ddarts_jax.models.layers import Variables


class Cell(nnx.Module):
    """One cell of the network: the primitives that its genotype chose, with their own weights."""

    def __init__(
        self,
        entries: genotypes.Cell,
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


def _nodes(entries: genotypes.Cell):
    """The existing intermediate nodes in order and their inputs: (node, ((name, source), ...))."""
    exist = genotypes.existing_nodes(entries)
    kept = (entry for entry in entries if entry[2] in exist)
    return tuple(
        (node, tuple((name, source) for name, _, source in group))
        for node, group in itertools.groupby(kept, key=operator.itemgetter(1))
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
        strided = stem == "strided"
        # Channels of the inputs of cell 0.
        widths = [channels if strided else stem_multiplier * channels] * 2
        if strided:
            self.stem = layers.StridedStem(image_channels, channels)
        else:
            self.stem = layers.ConvBN(image_channels, widths[0], 3, affine=True, relu=False)
        self.second_stem = layers.ConvBN(channels, channels, 3, 2, affine=True) if strided else None
        self.cells = nnx.Dict()
        for position, entries in enumerate(genotype.cells):
            reduction = position in genotype.reductions
            channels *= 2 if reduction else 1
            cell = Cell(
                entries,
                widths[-2:],
                channels,
                reduction,
                position - 1 in genotype.reductions or (position == 0 and strided),
            )
            self.cells[str(position)] = cell
            widths.append(len(cell.nodes) * channels)
        self.head = Head(widths[-1], num_classes)
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

    def run(self, images, train, scales=None):
        """Computes logits [B, classes] and, in training, those of the auxiliary head if there is one.

        Args:
            images: [B, H, W, image channels].
            train: whether BatchNorm uses the batch.
            scales: drop path's factors, [cells, nodes, B, 1, 1, 1]; None: 1.
        """
        auxiliary_logits = None
        stems = 1 if self.second_stem is None else 2
        for number, output in enumerate(self._outputs(images, train, scales)):
            if train and self.auxiliary is not None and number == stems + self.auxiliary_position:
                with jax.named_scope("auxiliary"):
                    auxiliary_logits = self.auxiliary(output, train)
        with jax.named_scope("head"):
            return self.head(output, train), auxiliary_logits

    def _outputs(self, images, train, scales=None):
        """Yields the outputs of the stem's parts and of the cells, in order."""
        with jax.named_scope("stem"):
            s0 = s1 = self.stem(images, train)
        yield s1
        if self.second_stem is not None:
            with jax.named_scope("stem"):
                s1 = self.second_stem(s0, train)
            yield s1
        for position in range(len(self.cells)):
            with jax.named_scope(f"cell_{position}"):
                cell_scales = None if scales is None else scales[position]
                s0, s1 = s1, self.cells[str(position)](s0, s1, train, cell_scales)
            yield s1


def _auxiliary_position(genotype: Genotype) -> int:
    """Position of the last reduction cell; if there is none, the one that a search would use."""
    return max(genotype.reductions, default=2 * genotype.num_cells // 3)


def smallest_image(genotype: Genotype, stem: str = "plain") -> int:
    """Pixels per side that the images need for the auxiliary head."""
    halvings = sum(r <= _auxiliary_position(genotype) for r in genotype.reductions)
    halvings += 3 if stem == "strided" else 0
    needed = POOL + POOL_STRIDE[stem]  # two positions for the 2x2 convolution
    return (needed - 1) * 2**halvings + 1  # halving rounds up


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
        The structure and its variables, whose fields have the keys stem, cells (by position), head
        and auxiliary where these are not empty.

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
        num_classes: number of logits.
        image_size: pixels per side.
        image_channels: channels of the input images.
        auxiliary: whether to add the auxiliary head, at the output of the last reduction cell.
        stem: "plain" keeps the images' size; "strided", for large images, gives the first cell inputs
            of a quarter and an eighth of that size (DARTS, ImageNet).
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

"""The supernet: a network of individual cells in which every edge mixes all primitives.

A cell of the supernet has two inputs (the outputs of the two cells before it), S intermediate nodes and
an edge from every earlier node to every later one. The edge's mixed operation is
`sum_o gate_o * o(x)` with `gate = sigmoid(alpha)` (FairDARTS; D-DARTS equation 1) or as another method
has it (models/relaxation.py). Every cell has its own alphas (D-DARTS section 3.1), unless cells share
them. A cell's output concatenates its intermediate nodes.

Modules are built once and split (`nnx.split`); all computation is done by pure functions over pytrees.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces
from ddarts_jax.genotypes.genotype import edges, reduction_positions
from ddarts_jax.models import layers, stems
from ddarts_jax.models.classification import Head, cross_entropy
from ddarts_jax.models.edges import StackedEdges
from ddarts_jax.models.layers import Variables, apply
from ddarts_jax.models.relaxation import Relaxation
from ddarts_jax.ops import backend, pooling

PyTree = Any


class Cell(nnx.Module):
    """One cell of the supernet, with its own weights; its alphas are passed as an argument."""

    def __init__(
        self,
        relaxation,
        num_nodes,
        cin,
        channels,
        reduction,
        reduction_before,
        *,
        kept=None,
        unroll,
        remat,
    ):
        self.preprocess0, self.preprocess1 = layers.preprocess(
            cin, channels, reduction_before, affine=False
        )

        pairs = edges(num_nodes)
        # In a reduction cell the edges from the two inputs are strided, so their shapes differ.
        strided = [e for e, (source, _) in enumerate(pairs) if reduction and source < 2]
        plain = [e for e in range(len(pairs)) if e not in strided]

        def stack(edge_numbers, stride):
            return StackedEdges(
                relaxation.modules,
                [pairs[e] for e in edge_numbers],
                channels,
                stride,
                partial=relaxation.partial_channels,
                dropout=relaxation.skip_dropout > 0,
                kept=None if kept is None else tuple(kept[e] for e in edge_numbers),
                unroll=unroll,
                remat=remat,
            )

        self.num_nodes = num_nodes
        self.strided = stack(strided, 2) if strided else None
        self.plain = stack(plain, 1) if plain else None
        self.strided_edges, self.plain_edges = tuple(strided), tuple(plain)

    def __call__(self, s0, s1, gates, train):
        """Runs the cell.

        Args:
            s0: output of the cell before the last, [B, H0, W0, C0].
            s1: output of the last cell, [B, H, W, C1].
            gates: [E, G], edges in the order of `genotype.edges`.
            train: whether BatchNorm uses the batch.

        Returns:
            The intermediate nodes, concatenated: [B, H', W', num_nodes * channels].
        """
        inputs = self.preprocess0(s0, train), self.preprocess1(s1, train)
        parts = gates[jnp.array(self.strided_edges, int)], gates[jnp.array(self.plain_edges, int)]
        return backend.choose("edges")(self.strided, self.plain, inputs, parts, train)

    def bypass(self, s0, s1, train):
        """Hands the inputs on without any edge: every node is their mean, pooled in a reduction cell.

        Arguments and result are those of `__call__`, without gates.
        """
        node = (self.preprocess0(s0, train) + self.preprocess1(s1, train)) / 2
        if self.strided is not None:
            node = pooling.avg_pool(node, 2)
        return jnp.concatenate([node] * self.num_nodes, -1)


@dataclasses.dataclass(frozen=True)
class Supernet:
    """The supernet's structure (static and hashable); its arrays are in `Variables`.

    Attributes:
        stem, cells, head: graph definitions.
        seq: for each position in the network, the distinct cell whose alphas are used there.
        reductions: positions of the reduction cells.
        relaxation: how alphas become gates; it names the columns of both.
        num_nodes: intermediate nodes of a cell.
        channels: number of channels of the nodes of the cell at each position.
        strided_stem: whether the stem reduces the images to a quarter of their size.
    """

    stem: nnx.GraphDef
    cells: tuple[nnx.GraphDef, ...]
    head: nnx.GraphDef
    seq: tuple[int, ...]
    reductions: tuple[int, ...]
    relaxation: Relaxation
    num_nodes: int
    channels: tuple[int, ...]
    strided_stem: bool

    @property
    def primitives(self) -> tuple[str, ...]:
        """Names of the candidates besides `none`."""
        return self.relaxation.primitives

    @property
    def sharing(self) -> tuple[int, ...] | None:
        """The `seq` of its genotypes: None if all cells are distinct."""
        return None if self.seq == tuple(range(len(self.seq))) else self.seq

    def gates(self, alphas, progress=1.0, key=None, noisy=False):
        """The gates of every edge, [distinct cells, E, G]; see `Relaxation.gates`."""
        return self.relaxation.gates(alphas, progress, key, noisy)

    @property
    def alphas_shape(self) -> tuple[int, int, int]:
        """[distinct cells, edges, columns]."""
        return len(set(self.seq)), len(edges(self.num_nodes)), len(self.relaxation.columns)

    def run_stem(self, variables: Variables, images, train):
        """Maps images [B, H, W, channels in] to features; returns them and the new statistics."""
        with jax.named_scope("stem"):
            return apply(self.stem, _part(variables, "stem"), images, train)

    def run_cell(self, position: int, variables: Variables, s0, s1, gates, train):
        """Runs the cell at `position` with `gates` [E, G]; returns output and new statistics."""
        with jax.named_scope(f"cell/{position}"):
            return apply(
                self.cells[position], _part(variables, "cells", position), s0, s1, gates, train
            )

    def bypass_cell(self, position: int, variables: Variables, s0, s1):
        """What stands for the output of the cell at `position` where it is passed by."""
        with jax.named_scope(f"cell/{position}"):
            part = _part(variables, "cells", position)
            return apply(self.cells[position], part, s0, s1, True, method="bypass")[0]

    def run_head(self, variables: Variables, features):
        """Maps the last cell's output to logits [B, num_classes]."""
        with jax.named_scope("head"):
            return apply(self.head, _part(variables, "head"), features, False)[0]


def _part(variables: Variables, name: str, index: int | None = None) -> Variables:
    return Variables(*(v[name] if index is None else v[name][index] for v in variables))


def build(
    *,
    num_cells: int,
    num_nodes: int,
    channels: int,
    num_classes: int,
    image_channels: int,
    primitives: Sequence[str] = spaces.DARTS_PRIMITIVES,
    stem: str = "plain",
    stem_multiplier: int = 3,
    unroll: int = 1,
    remat: bool = True,
    reductions: Sequence[int] | None = None,
    seq: Sequence[int] | None = None,
    relaxation: str = "sigmoid",
    key: jax.Array | None,
    **mixing,
) -> tuple[Supernet, Variables]:
    """Builds a supernet with random weights.

    Args:
        num_cells: N.
        num_nodes: intermediate nodes of a cell.
        channels: number of channels of the first cells' nodes.
        num_classes: number of logits.
        image_channels: channels of the input images.
        primitives: names of the candidates besides `none`.
        stem: "plain" keeps the images' size; "strided", for large images, reduces it to a quarter.
        stem_multiplier: the plain stem has this many times `channels`.
        unroll: edges per iteration of the scan over edges: more take longer to compile and may run
            faster.
        remat: backward passes recompute the activations inside an edge instead of keeping them.
        reductions: positions of the cells that halve the size and double the channels; None: N // 3
            and 2N // 3.
        seq: for each position the index of its distinct cell; None: all cells are distinct.
        relaxation: see `Relaxation.kind`.
        key: random key of the weights; None leaves the kernels zero, for weights that are loaded.
        **mixing: further fields of `Relaxation`, from `none` on.

    Returns:
        The structure and its variables.

    Raises:
        UserError: `partial_channels` does not divide the channels; or see `Relaxation`.
    """
    rule = Relaxation(relaxation, tuple(primitives), num_nodes=num_nodes, **mixing)
    parts = rule.partial_channels
    if channels % parts:  # strided primitives, which halve them, meet twice as many
        raise UserError(
            f"One of every {parts} channels cannot be mixed if there are {channels}: use a multiple of "
            f"{parts}."
        )
    reductions = reduction_positions(num_cells) if reductions is None else tuple(reductions)
    seq = tuple(range(num_cells) if seq is None else seq)
    width = channels if stem == "strided" else stem_multiplier * channels
    if stem == "strided":
        stem_module = stems.StridedStem(image_channels, width, stems.STRIDES[stem][0])
    else:
        stem_module = layers.ConvBN(image_channels, width, 3, affine=True, relu=False)
    cells, widths, features = _cells(
        rule, seq, num_nodes, width, channels, reductions, unroll=unroll, remat=remat
    )
    head = Head(features, num_classes)

    stem_graph, stem_variables = layers.split(stem_module)
    graphs, cell_variables = zip(*map(layers.split, cells))
    head_graph, head_variables = layers.split(head)
    supernet = Supernet(
        *(stem_graph, graphs, head_graph, seq, reductions),
        *(rule, num_nodes, widths, stem == "strided"),
    )
    weights, statistics = (
        {"stem": stem, "cells": list(own), "head": head}
        for stem, own, head in zip(stem_variables, zip(*cell_variables), head_variables)
    )
    if key is not None:
        weights = layers.initialise(key, weights)
    return supernet, Variables(weights, statistics)


def _cells(relaxation, seq, num_nodes, width, channels, reductions, *, unroll, remat):
    """Builds the cells; `width` is the stem's number of channels.

    Returns:
        The cells, the channels of their nodes, and the channels of the last cell's output.
    """
    cells, widths, cin, reduction_before = [], [], (width, width), False
    kept = relaxation.kept_modules
    for position, distinct in enumerate(seq):
        reduction = position in reductions
        channels *= 2 if reduction else 1
        shape = num_nodes, cin, channels, reduction, reduction_before
        own = None if kept is None else kept[distinct]
        cells.append(Cell(relaxation, *shape, kept=own, unroll=unroll, remat=remat))
        widths.append(channels)
        cin, reduction_before = (cin[1], num_nodes * channels), reduction
    return cells, tuple(widths), cin[1]


def forward(supernet: Supernet, variables: Variables, gates, images, train: bool):
    """Runs the whole supernet.

    Args:
        supernet: structure.
        variables: weights and statistics.
        gates: [distinct cells, E, G]; `supernet.gates(alphas)`.
        images: [B, H, W, channels], normalised, in the compute dtype.
        train: whether BatchNorm uses the batch.

    Returns:
        logits [B, num_classes]; the outputs [stem, cell 0, ..., cell N-1]; new statistics.
    """
    stem, stem_statistics = supernet.run_stem(variables, images, train)
    outputs, statistics = [stem], []
    for position, distinct in enumerate(supernet.seq):
        s0, s1 = outputs[max(position - 1, 0)], outputs[position]
        output, new = supernet.run_cell(position, variables, s0, s1, gates[distinct], train)
        outputs.append(output)
        statistics.append(new)
    logits = supernet.run_head(variables, outputs[-1])
    head = variables.statistics["head"]
    return logits, outputs, {"stem": stem_statistics, "cells": statistics, "head": head}


def weights_loss(
    weights, alphas, supernet: Supernet, statistics, images, labels, progress=1.0, key=None
):
    """The cross-entropy that trains the weights, in the form that `jax.value_and_grad` takes.

    Args:
        weights: those of `Variables`.
        alphas: [distinct cells, E, columns].
        supernet: structure.
        statistics: those of `Variables`.
        images: [B, H, W, channels], normalised, in the compute dtype.
        labels: [B].
        progress: see `Relaxation.gates`.
        key: likewise.

    Returns:
        L_CE, and (new statistics, accuracy as a fraction).
    """
    variables = Variables(weights, statistics)
    gates = supernet.gates(alphas, progress, key, noisy=True)
    logits, _, statistics = forward(supernet, variables, gates, images, True)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
    return cross_entropy(logits, labels), (statistics, accuracy)

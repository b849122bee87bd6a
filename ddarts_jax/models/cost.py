"""The cost of a derived network: parameters and multiply-accumulates (MACs)."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from ddarts_jax.genotypes.genotype import Genotype, edges
from ddarts_jax.models import network as networks
from ddarts_jax.models import primitives
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.ops import backend


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a derived network.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of convolutions and linear layers, per image in evaluation.
        cell_params: trainable parameters of each cell.
        cell_macs: multiply-accumulates of each cell.
    """

    params: int
    macs: int
    cell_params: tuple[int, ...]
    cell_macs: tuple[int, ...]


def cost(
    genotype: Genotype,
    channels: int,
    num_classes: int,
    image_size: int,
    auxiliary: bool = False,
    image_channels: int = 3,
    stem: str = "plain",
    stem_multiplier: int = 3,
) -> Cost:
    """Counts the parameters and MACs of a derived network by tracing it, without running it.

    Args:
        genotype: see `network.build`, as for the other arguments.
        channels: number of channels of the first cells' nodes.
        num_classes: number of logits.
        image_size: pixels per side.
        auxiliary: whether to count the parameters of the auxiliary head; it is not used in
            evaluation, so it never counts towards the MACs.
        image_channels: channels of the input images.
        stem: "plain", "half" or "strided".
        stem_multiplier: the plain stem has `stem_multiplier * channels` channels.

    Raises:
        UserError: see `network.build`.
    """
    network, variables = networks.build(
        genotype,
        channels=channels,
        num_classes=num_classes,
        image_channels=image_channels,
        image_size=image_size,
        auxiliary=auxiliary,
        stem=stem,
        stem_multiplier=stem_multiplier,
        key=None,
    )
    image = jax.ShapeDtypeStruct((1, image_size, image_size, image_channels), jnp.float32)
    counts = macs(functools.partial(networks.forward, network, train=False), variables, image)
    weights = variables.weights
    positions = range(genotype.num_cells)
    return Cost(
        _size(weights),
        counts.total(),
        tuple(_size(weights["cells"][str(position)]) for position in positions),
        tuple(counts[f"cell_{position}"] for position in positions),
    )


def macs(run, *args) -> collections.Counter:
    """Counts the multiply-accumulates of a function by tracing it.

    Args:
        run: function of arrays.
        *args: arrays, or their shapes and dtypes.

    Returns:
        {outermost `jax.named_scope`: multiply-accumulates of convolutions and products in it}.
    """
    counts = collections.Counter()
    for scope, equation in _traced(run, *args):
        counts[scope] += _macs(equation)
    return counts


def activations(run, *args) -> int:
    """Counts the numbers that the convolutions and products of a function put out, by tracing it.

    This is roughly what a gradient keeps of it; bytes follow from the compute dtype.

    Args:
        run: function of arrays.
        *args: arrays, or their shapes and dtypes.
    """
    return sum(
        equation.outvars[0].aval.size
        for _, equation in _traced(run, *args)
        if equation.primitive in (lax.conv_general_dilated_p, lax.dot_general_p)
    )


def cost_table(net: Supernet, image_size: int | None = None) -> np.ndarray:
    """Counts the cost that every candidate on every edge of a supernet has in a derived network.

    Args:
        net: the supernet.
        image_size: pixels per side of the images, to count MACs; None counts parameters.

    Returns:
        float32 [distinct cells, E, O]: millions of parameters, or millions of MACs per image; for a
        cell that occurs several times, the mean over its positions.
    """
    return tabulate(net, image_size, _primitive_cost).astype(np.float32) / 1e6


class Place(NamedTuple):
    """A primitive where it is in a network: what its cost depends on.

    Attributes:
        primitive: its name.
        channels: of its input and output.
        stride: 1 or 2.
        size: pixels per side of its input; None where they do not matter.
    """

    primitive: str
    channels: int
    stride: int
    size: int | None


def places(net: Supernet, image_size: int | None = None) -> list[list[list[Place]]]:
    """Walks through a supernet: the place of every candidate, by position, edge and primitive.

    Args:
        net: the supernet.
        image_size: pixels per side of the images; None leaves the places without sizes.
    """
    size = None
    if image_size is not None:
        size = -(-image_size // 4) if net.strided_stem else image_size
    found = []
    for position, channels in enumerate(net.channels):
        reduction = position in net.reductions
        rows = []
        for source, _ in edges(net.num_nodes):
            stride = 2 if reduction and source < 2 else 1
            here = size if size is None or not reduction or source < 2 else -(-size // 2)
            rows.append([Place(name, channels, stride, here) for name in net.primitives])
        found.append(rows)
        if size is not None and reduction:
            size = -(-size // 2)
    return found


def tabulate(net: Supernet, image_size: int | None, price: Callable) -> np.ndarray:
    """Prices every candidate on every edge of a supernet.

    Args:
        net: the supernet.
        image_size: see `places`.
        price: `(primitive, channels, stride, size) -> float`.

    Returns:
        float64 [distinct cells, E, O]; for a cell that occurs several times, the mean over its
        positions.
    """
    prices = np.array(
        [[[price(*p) for p in row] for row in rows] for rows in places(net, image_size)]
    )
    seq = np.array(net.seq)
    return np.array([prices[seq == cell].mean(0) for cell in range(len(set(net.seq)))])


@functools.cache
def _primitive_cost(name: str, channels: int, stride: int, size: int | None) -> int:
    """Counts the parameters of a primitive or, if the size of its input is given, its MACs."""
    graph, weights, statistics = nnx.split(
        primitives.create(name, channels, stride, affine=True), nnx.Param, nnx.BatchStat
    )
    if size is None:
        return _size(nnx.to_pure_dict(weights))
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)

    def run(image):
        return nnx.merge(graph, weights, statistics)(image, False)

    return macs(run, image).total()


def _traced(run, *args) -> Iterator[tuple[str, JaxprEqn]]:
    """Traces a function; see `_equations`."""
    with backend.compiling_for("counted"):  # uses only convolutions and products
        closed = jax.make_jaxpr(run)(*args)
    return _equations(closed.jaxpr)


def _size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _equations(jaxpr: Jaxpr, scope: str = "") -> Iterator[tuple[str, JaxprEqn]]:
    """All equations, including those of nested calls, each with its outermost `jax.named_scope`."""
    for equation in jaxpr.eqns:
        inner = scope or str(equation.source_info.name_stack).split("/")[0]
        yield inner, equation
        for nested in jaxprs_in_params(equation.params):
            yield from _equations(nested, inner)


def _macs(equation: JaxprEqn) -> int:
    """Multiply-accumulates of one equation: outputs times the number of products summed for each."""
    match equation.primitive:
        case lax.conv_general_dilated_p:
            kernel = equation.invars[1].aval
            out_channels = equation.params["dimension_numbers"].rhs_spec[0]
            terms = kernel.size // kernel.shape[out_channels]
        case lax.dot_general_p:
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        case _:
            return 0
    return equation.outvars[0].aval.size * terms

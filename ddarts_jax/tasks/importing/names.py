"""The names of the authors' tensors, for derived networks and for search supernets.

Children of their `nn.Sequential` are numbered, including ReLUs, which have no tensors.
"""

import collections

from ddarts_jax.genotypes.genotype import Cell, Genotype, edges
from ddarts_jax.models import network, supernet
from ddarts_jax.models.relaxation import AUXILIARY

_DEPTHWISE = {"spatial": "op.1", "pointwise": "op.2", "norm": "op.3"}
_SEPARABLE = {
    "first": _DEPTHWISE,
    "second": {"spatial": "op.5", "pointwise": "op.6", "norm": "op.7"},
}
_CONVOLUTION = {"kernel": "op.1", "norm": "op.2"}
_POOL = {"norm": "1"}
_LAYERS = {
    "stem": {
        "kernel": "stem.0",
        "norm": "stem.1",
        # Of the network for large images.
        "first": {"kernel": "stem0.0", "norm": "stem0.1"},
        "second": {"kernel": "stem0.3", "norm": "stem0.4"},
    },
    "second_stem": {"kernel": "stem1.1", "norm": "stem1.2"},
    "head": {"classifier": "classifier"},
    "auxiliary": {
        "project": "auxiliary_head.features.2",
        "project_norm": "auxiliary_head.features.3",
        "expand": {"kernel": "auxiliary_head.features.5", "norm": "auxiliary_head.features.6"},
        "head": {"classifier": "auxiliary_head.classifier"},
    },
    "max_pool_3x3": _POOL,
    "avg_pool_3x3": _POOL,
    "skip_connect": {"even": "conv_1", "odd": "conv_2", "norm": "bn"},
    "sep_conv_3x3": _SEPARABLE,
    "sep_conv_5x5": _SEPARABLE,
    "dil_conv_3x3": _DEPTHWISE,
    "dil_conv_5x5": _DEPTHWISE,
    "simple_conv_1x1": _CONVOLUTION,
    "simple_conv_3x3": _CONVOLUTION,
    "conv_3x1_1x3": {"row": "op.1", "column": "op.2", "norm": "op.3"},
    "conv_7x1_1x7": {"row": "1", "column": "2", "norm": "3"},
    "bottleneck_1x3x1": {
        "reduce": {"kernel": "op.1", "norm": "op.2"},
        "spatial": {"kernel": "op.3", "norm": "op.4"},
        "expand": {"kernel": "op.5", "norm": "op.6"},
        "project": {"kernel": "op.8", "norm": "op.9"},
    },
}
_LEAVES = {"mean": "running_mean", "var": "running_var", "bias": "bias"}  # others: weight


def torch_names(
    parts: list[str],
    reductions: tuple[int, ...],
    genotype: Genotype | None,
    net: network.Network | supernet.Supernet,
) -> list[str]:
    """Returns the names of the authors' tensors for one array of ours: several if it stacks edges.

    Args:
        parts: the array's path in our tree of weights or of statistics.
        reductions: positions of the reduction cells; -1 among them: the second stem halves the size too.
        genotype: of a derived network.
        net: structure.
    """
    match parts:
        case ["cells", position, "operations", operation, *rest]:
            layer, prefix = _operations(genotype.cells[int(position)])[operation]
            prefixes = [f"cells.{position}.{prefix}"]
        case ["cells", position, stack, "mixed", "candidates", layer, *rest]:
            if layer == AUXILIARY:  # of DARTS-
                place, layer = "auxiliary_op", "skip_connect"
            else:
                place = f"_ops.{net.relaxation.candidates.index(layer)}"
            prefixes = [
                f"cells.{position}._ops.{edge}.{place}."
                for edge, (source, _) in enumerate(edges(net.num_nodes))
                if (stack == "strided") == (int(position) in reductions and source < 2)
            ]
        case ["cells", position, preprocess, *rest]:
            halves = preprocess == "preprocess0" and int(position) - 1 in reductions
            layer = "skip_connect" if halves else "simple_conv_1x1"  # made of the same layers
            prefixes = [f"cells.{position}.{preprocess}."]
        case [layer, *rest]:
            prefixes = [""]
    name = _LAYERS[layer]
    while not isinstance(name, str):
        name, *rest = name[rest[0]], *rest[1:]
    leaf = _LEAVES.get(rest[0], "weight") if rest else "weight"
    return [f"{prefix}{name}.{leaf}" for prefix in prefixes]


def _operations(cell: Cell) -> dict[str, tuple[str, str]]:
    """Maps our key of each operation in a cell to its primitive and to their prefix.

    The authors number the operations between the same two nodes.
    """
    counts = collections.Counter()
    operations = {}
    for name, node, source in cell:
        prefix = f"_ops.{node}.{source}.{counts[node, source]}."
        operations[network.operation_name(name, node, source)] = name, prefix
        counts[node, source] += 1
    return operations

"""The authors' weights as variables of our networks, whose sizes follow from the tensors."""

import logging
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, num_edges
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.models import network, supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.tasks.importing import checkpoints, names

_logger = logging.getLogger(__name__)

_STEM_MULTIPLIER = 3  # in all of the authors' networks for small images
_LARGE = "stem0.0.weight"  # only in their networks for large images
_OTHER_GENOTYPE = "give the genotype that it was trained with"
_NUMBER = "[0-9]{1,4}"


class Imported(NamedTuple):
    """One of the authors' networks, converted to ours.

    Attributes:
        net: structure of a derived network or of a search supernet.
        variables: of `net`; float32, or float64 if the file has that and JAX allows it.
        channels: number per node before the first reduction.
        num_classes: number of logits.
        image_channels: channels of the input images.
        stem: a key of `stems.STRIDES`.
        auxiliary: whether there is an auxiliary head.
        used: names of the tensors that `variables` contains.
        unused: names of all other tensors.
    """

    net: network.Network | supernet.Supernet
    variables: Variables
    channels: int
    num_classes: int
    image_channels: int
    stem: str
    auxiliary: bool
    used: tuple[str, ...]
    unused: tuple[str, ...]


def load_torch(
    path: str | os.PathLike,
    genotype: Genotype | None,
    *,
    primitives: tuple[str, ...] | None = None,
    stem: str = "",
) -> Imported:
    """Loads the authors' weights; the names tell a derived network from a supernet.

    The sizes follow from the tensors, but for the strides of a stem for large images. Every parameter and
    statistic of our network is filled.

    Args:
        path: see `read_tensors`.
        genotype: of a derived network. For a supernet only `reductions` and `seq` count; None: every
            cell is distinct.
        primitives: candidates of a supernet, in order; None: the space (`spaces.SPACES`) with as
            many as the file.
        stem: of a network for large images, "half" or "strided"; empty: the one whose features have the
            7x7 pixels that the authors' network pools, which the log tells.

    Raises:
        UserError: see `read_tensors`; a tensor is missing or has the wrong shape, or the file
            belongs to another genotype or has another stem.
    """
    tensors = checkpoints.read_tensors(path)
    try:
        return _load(tensors, genotype, primitives, stem)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def _load(
    tensors: dict[str, np.ndarray],
    genotype: Genotype | None,
    primitives: tuple[str, ...] | None,
    stem: str,
) -> Imported:
    """Builds the network that the tensors fit and fills it; see `load_torch`."""
    sizes = _sizes(tensors)
    doubled = _doubled(tensors, sizes["channels"])
    num_cells = len(doubled)
    reductions = tuple(position for position in range(num_cells) if doubled[position])
    if genotype and (genotype.num_cells, genotype.reductions) != (num_cells, reductions):
        raise UserError(
            f"it has {num_cells} cells with reductions={list(reductions)}, the genotype "
            f"{genotype.num_cells} cells with reductions={list(genotype.reductions)}; {_OTHER_GENOTYPE}"
        )
    sizes["stem"] = _stem(tensors, reductions, stem)
    num_candidates = max(_numbers(r"cells\.#\._ops\.#\._ops\.(#)\.", tensors), default=-1) + 1
    if num_candidates:
        if sizes["stem"] != "plain":
            raise UserError(
                "it contains a supernet for large images, whose second stem our supernet does not have"
            )
        net, zeros = supernet.build(
            num_cells=num_cells,
            num_nodes=_num_nodes(tensors),
            primitives=primitives or _primitives(num_candidates),
            reductions=reductions,
            seq=genotype.seq if genotype else None,
            key=None,
            **sizes,
        )
        auxiliary = False
    elif genotype is None:
        raise UserError("it contains a derived network, whose genotype must be given too")
    else:
        _check_node_order(tensors)
        auxiliary = any(name.startswith("auxiliary_head.") for name in tensors)
        net, zeros = network.build(
            genotype,
            image_size=network.smallest_image(genotype, sizes["stem"]),
            auxiliary=auxiliary,
            key=None,
            **sizes,
        )

    used = []
    halving = reductions if sizes["stem"] == "plain" else (-1, *reductions)

    def load(keys, zeros):
        parts = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
        theirs = names.torch_names(parts, halving, genotype, net)
        used.extend(theirs)
        if "mixed" not in parts:
            return jnp.asarray(_tensor(tensors, theirs[0], zeros.shape))
        return jnp.asarray(np.stack([_tensor(tensors, name, zeros.shape[1:]) for name in theirs]))

    variables = Variables(*(jax.tree_util.tree_map_with_path(load, tree) for tree in zeros))
    unused = tuple(sorted(set(tensors) - set(used)))
    return Imported(net, variables, **sizes, auxiliary=auxiliary, used=tuple(used), unused=unused)


def _tensor(tensors, name, shape) -> np.ndarray:
    """Returns a tensor in our layout: convolutions HWIO instead of OIHW, matrices IO instead of OI.

    Raises:
        UserError: it is missing or has another shape or dtype.
    """
    if name not in tensors:
        raise UserError(f"it has no tensor {name}, which this network needs; {_OTHER_GENOTYPE}")
    tensor = tensors[name]
    wanted = tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
    if tensor.shape != wanted or tensor.dtype.kind != "f":
        raise UserError(
            f"{name} is {tensor.dtype} of shape {tensor.shape}, this network needs floats of shape "
            f"{wanted}; {_OTHER_GENOTYPE}"
        )
    tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    return tensor.astype(np.float64 if tensor.dtype == np.float64 else np.float32)


def _sizes(tensors) -> dict[str, int]:
    """Returns the sizes that the builders of our networks ask for, by argument."""
    if _LARGE in tensors:
        first, channels = _LARGE, _size(tensors, "stem0.3.weight", 0)
    else:
        first = "stem.0.weight"
        channels, rest = divmod(_size(tensors, first, 0), _STEM_MULTIPLIER)
        if rest:
            raise UserError(
                f"{first} has {tensors[first].shape[0]} channels, which is not {_STEM_MULTIPLIER} times "
                f"the number of the first cell as in the authors' networks"
            )
    return {
        "channels": channels,
        "num_classes": _size(tensors, "classifier.weight", 0),
        "image_channels": _size(tensors, first, 1),
    }


def _stem(tensors, reductions, given) -> str:
    """Returns the name of the stem: as given, or, of a network for large images, the likelier one.

    The authors' network pools 7x7 features at its end. Images of 224 pixels become such features by the
    stem "half" and three reduction cells, or by "strided" and two.
    """
    if _LARGE not in tensors:
        if given:
            raise UserError(
                f"it has the stem for small images, not {given!r}: leave config.stem empty"
            )
        return "plain"
    if given:
        return given
    stem, other = ("half", "strided") if len(reductions) > 2 else ("strided", "half")
    _logger.warning(
        "import: the weights fit the stems 'half' and 'strided' alike. With %d reduction cells %r is the "
        "likelier one: the authors' network ends with features of 7x7 pixels for images of 224. "
        "--config.stem=%s imports the other network.",
        *(len(reductions), stem, other),
    )
    return stem


def _doubled(tensors, channels) -> list[bool]:
    """Returns for each cell whether its channels double those of the cell before: a reduction cell."""
    doubled = []
    for position in range(len(_numbers(r"cells\.(#)\.", tensors))):
        width = _size(tensors, f"cells.{position}.preprocess1.op.1.weight", 0)
        if width not in (channels, 2 * channels):
            raise UserError(
                f"cell {position} has {width} channels, neither as many as there are before it "
                f"({channels}) nor twice as many"
            )
        doubled.append(width != channels)
        channels = width
    return doubled


def _size(tensors, name, axis) -> int:
    if name not in tensors or tensors[name].ndim < 2 or not tensors[name].size:
        raise UserError(
            f"it has no tensor {name}, or an empty one: it is not one of the authors' networks "
            f"(stem.0.weight or stem0.0.weight, cells.0.preprocess1.op.1.weight, ..., "
            f"classifier.weight)"
        )
    return tensors[name].shape[axis]


def _num_nodes(tensors) -> int:
    num_edges_found = len(_numbers(r"cells\.0\._ops\.(#)\.", tensors))
    for num_nodes in range(1, num_edges_found):
        if num_edges(num_nodes) == num_edges_found:
            return num_nodes
    raise UserError(f"its cell 0 has {num_edges_found} edges, which no number of nodes has")


def _primitives(count) -> tuple[str, ...]:
    for primitives in SPACES.values():
        if len(primitives) == count:
            return primitives
    raise UserError(
        f"it contains a supernet of {count} primitives, which are neither "
        f"{' nor '.join(f'{len(names)} ({space})' for space, names in SPACES.items())}; name them"
    )


def _check_node_order(tensors):
    """Checks that nodes ascend: the authors run and concatenate them in the order of their text."""
    matches = (re.match(rf"cells\.({_NUMBER})\._ops\.({_NUMBER})\.", name) for name in tensors)
    orders = {}
    for cell, node in dict.fromkeys(match.groups() for match in matches if match):
        orders.setdefault(cell, []).append(int(node))
    for cell, nodes in orders.items():
        if nodes != sorted(nodes):
            raise UserError(
                f"it runs the nodes of cell {cell} in the order {nodes}: only networks whose nodes "
                f"stand in ascending order can be loaded"
            )


def _numbers(pattern, texts) -> set[int]:
    """Returns the numbers that # stands for in the pattern's group, over all texts."""
    matches = (re.match(pattern.replace("#", _NUMBER), text) for text in texts)
    return {int(match[1]) for match in matches if match}

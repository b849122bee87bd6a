"""Import of the authors' results: their genotype text and their PyTorch weights.

The text is parsed, never evaluated, and checkpoints are read without running what they pickle. The
names of the authors' tensors are translated by one table, `_NAMES`, for derived networks and for
search supernets.
"""

import os
import pickle
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype, edges, num_edges
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.models import network, supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.weights import save_network

_STEM_MULTIPLIER = 3  # of all of the authors' networks


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict, by name.

    Args:
        path: an `.npz`, of which only the names with the prefix `state/` count where there are any;
            or a PyTorch checkpoint, for which torch must be installed: a state dict, or a dict that
            holds one under `state_dict`. The prefix `module.` of DataParallel is removed.

    Raises:
        UserError: when the file is missing, broken or of another kind, or torch is missing.
    """
    path = Path(path)
    # A device or a pipe would block the read for ever.
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path} does not exist or is no regular file")
    try:
        tensors = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    except ImportError as error:
        raise UserError(
            f"checkpoint {path} needs PyTorch to be read: pip install 'ddarts_jax[torch]', or save its "
            f"state dict elsewhere as an .npz of the same names"
        ) from error
    except Exception as error:  # broken files raise one of many
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"checkpoint {path} cannot be read as a state dict, saved by torch.save or as an .npz of "
            f"its arrays: {reason:.200}"
        ) from error
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        state = [name for name in file.files if name.startswith("state/")]
        return {name.removeprefix("state/"): file[name] for name in state or file.files}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:  # without weights_only a checkpoint could run any code
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own message says how to run such code
        raise ValueError(
            "it is broken, or holds more than tensors and plain values (save its state_dict alone)"
        ) from error
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise ValueError("it holds no dict of tensors, nor one under 'state_dict'")
    # NumPy has no bfloat16.
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
        for name, tensor in loaded.items()
    }


class Imported(NamedTuple):
    """A network of the authors' as one of ours.

    Attributes:
        net: structure, of a derived network or of a search supernet.
        variables: of `net`; float32, or float64 where the file has that and JAX is set to it.
        channels: of a cell's nodes before the first reduction.
        num_classes: logits.
        image_channels: channels of the input images.
        auxiliary: whether there is an auxiliary head.
        used: names of the tensors that `variables` hold.
        unused: names of all others.
    """

    net: network.Network | supernet.Supernet
    variables: Variables
    channels: int
    num_classes: int
    image_channels: int
    auxiliary: bool
    used: tuple[str, ...]
    unused: tuple[str, ...]


def load_torch(
    path: str | os.PathLike,
    genotype: Genotype | None,
    *,
    primitives: tuple[str, ...] | None = None,
) -> Imported:
    """Loads the authors' weights; the names tell a derived network from a supernet.

    Sizes are those of the tensors. Every parameter and statistic of our network is filled.

    Args:
        path: see `read_tensors`.
        genotype: of a derived network. Of a supernet only `reductions` and `seq` count; None: every
            cell is distinct.
        primitives: candidates of a supernet, in order; None: the space (`spaces.SPACES`) with as
            many as the file.

    Raises:
        UserError: see `read_tensors`; a tensor is missing or of the wrong shape, or the file is of
            another genotype.
    """
    tensors = read_tensors(path)
    try:
        return _load(tensors, genotype, primitives)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def _load(tensors, genotype, primitives) -> Imported:
    sizes = _sizes(tensors)
    doubled = _doubled(tensors, sizes["channels"])
    num_cells = len(doubled)
    reductions = tuple(position for position in range(num_cells) if doubled[position])
    if genotype and (genotype.num_cells, genotype.reductions) != (num_cells, reductions):
        raise UserError(
            f"it has {num_cells} cells with reductions={list(reductions)}, the genotype "
            f"{genotype.num_cells} cells with reductions={list(genotype.reductions)}; {_OTHER_GENOTYPE}"
        )
    num_candidates = max(_numbers(r"cells\.#\._ops\.#\._ops\.(#)\.", tensors), default=-1) + 1
    if num_candidates:
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
        raise UserError("it holds a derived network, whose genotype must be given too")
    else:
        _check_node_order(tensors)
        auxiliary = any(name.startswith("auxiliary_head.") for name in tensors)
        net, zeros = network.build(
            genotype,
            image_size=network.smallest_image(genotype),
            auxiliary=auxiliary,
            key=None,
            **sizes,
        )

    used = []

    def load(keys, zeros):
        parts = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
        names = _torch_names(parts, reductions, genotype, net)
        used.extend(names)
        if "mixed" not in parts:
            return jnp.asarray(_tensor(tensors, names[0], zeros.shape))
        return jnp.asarray(np.stack([_tensor(tensors, name, zeros.shape[1:]) for name in names]))

    variables = Variables(*(jax.tree_util.tree_map_with_path(load, tree) for tree in zeros))
    unused = tuple(sorted(set(tensors) - set(used)))
    return Imported(net, variables, **sizes, auxiliary=auxiliary, used=tuple(used), unused=unused)


def run(config, workdir: Path) -> dict:
    """Writes the genotype `config.genotype`, and the weights `config.checkpoint` of its network.

    Writes `genotype.json`, `network.npz` (see `weights.save_network`) and `import.json`, and prints
    what they hold and how they are used.

    Args:
        config: `config.import_config()`; an empty checkpoint means none.
        workdir: exists.

    Returns:
        What `import.json` holds.

    Raises:
        UserError: see `find_genotype` and `load_torch`; or the checkpoint is of a supernet.
    """
    genotype = find_genotype(config.genotype)
    summary = {"genotype": config.genotype, "checkpoint": config.checkpoint}
    overrides = {"genotype": workdir / "genotype.json"}
    if config.checkpoint:
        imported = load_torch(config.checkpoint, genotype)
        if isinstance(imported.net, supernet.Supernet):
            raise UserError(
                f"checkpoint {config.checkpoint} is of a search supernet, which no task goes on with: "
                f"give the weights of a derived network"
            )
        weights = imported.variables.weights
        counted = [weights[part] for part in weights if part != "auxiliary"]
        summary |= {
            "channels": imported.channels,
            "num_classes": imported.num_classes,
            "auxiliary": imported.auxiliary,
            "params": sum(leaf.size for leaf in jax.tree.leaves(counted)),
            "used": len(imported.used),
            "unused": list(imported.unused),
        }
        overrides |= {
            "task": "evaluate",
            "weights": workdir / "network.npz",
            "data.name": {10: "cifar10", 100: "cifar100"}.get(imported.num_classes, "NAME"),
            "train.channels": imported.channels,
        }
        if not imported.auxiliary:
            overrides["train.auxiliary_weight"] = 0.0
        save_network(workdir / "network.npz", imported.variables)
    genotype.save(workdir / "genotype.json")
    write_json(workdir / "import.json", summary)

    print(f"genotype of {genotype.num_cells} cells, reductions {list(genotype.reductions)}")
    if config.checkpoint:
        other = [name for name in imported.unused if not name.endswith(".num_batches_tracked")]
        print(
            f"weights: {summary['params']:,} parameters, {imported.channels} channels, "
            f"{imported.num_classes} classes, {'an' if imported.auxiliary else 'no'} auxiliary head\n"
            f"tensors: {len(imported.used)} used, {len(imported.unused)} unused, of which "
            f"{len(imported.unused) - len(other)} are num_batches_tracked"
            + "".join(f"\n  unused: {name}" for name in other)
        )
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    command = ["python", "-m", "ddarts_jax.main", "--config", "configs/cifar10_train.py", *flags]
    print(
        f"to {'evaluate it' if config.checkpoint else 'train its network'}:\n  {shlex.join(command)}"
    )
    return summary


# Names of the authors' tensors. Children of their `nn.Sequential` are numbered; ReLUs count.

_DEPTHWISE = {"spatial": "op.1", "pointwise": "op.2", "norm": "op.3"}
_SEPARABLE = {
    "first": _DEPTHWISE,
    "second": {"spatial": "op.5", "pointwise": "op.6", "norm": "op.7"},
}
_CONVOLUTION = {"kernel": "op.1", "norm": "op.2"}
_POOL = {"norm": "1"}
_LAYERS = {
    "stem": {"kernel": "stem.0", "norm": "stem.1"},
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


def _torch_names(parts, reductions, genotype, net) -> list[str]:
    """Names of the authors' tensors for one array of ours: one, or those of the stacked edges.

    Args:
        parts: the array's path in our tree of weights or of statistics.
        reductions: positions of the reduction cells.
        genotype: of a derived network.
        net: structure.
    """
    match parts:
        case ["cells", position, "operations", operation, *rest]:
            source, _, node, layer = operation.split("_", 3)
            ends = [int(node), int(source)]
            candidates = [name for name, *e in genotype.cells[int(position)] if e == ends]
            prefixes = [f"cells.{position}._ops.{node}.{source}.{candidates.index(layer)}."]
        case ["cells", position, stack, "mixed", "candidates", layer, *rest]:
            prefixes = [
                f"cells.{position}._ops.{edge}._ops.{net.primitives.index(layer)}."
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


_OTHER_GENOTYPE = "give the genotype that it was trained with"


def _tensor(tensors, name, shape) -> np.ndarray:
    """A tensor in our layout: convolutions HWIO in place of OIHW, matrices IO in place of OI."""
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
    """What the builders of our networks ask for."""
    stem = _size(tensors, "stem.0.weight", 0)
    if stem % _STEM_MULTIPLIER:
        raise UserError(
            f"stem.0.weight has {stem} channels, which is not {_STEM_MULTIPLIER} times the number of "
            f"the first cell as in the authors' networks"
        )
    return {
        "channels": stem // _STEM_MULTIPLIER,
        "num_classes": _size(tensors, "classifier.weight", 0),
        "image_channels": _size(tensors, "stem.0.weight", 1),
    }


def _doubled(tensors, channels) -> list[bool]:
    """For each cell whether it has twice as many channels as the one before it: a reduction cell."""
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
            f"it has no tensor {name}, or an empty one: it is of none of the authors' networks for "
            f"small images (stem.0.weight, cells.0.preprocess1.op.1.weight, ..., classifier.weight)"
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
        f"it holds a supernet of {count} primitives, of neither "
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


_NUMBER = "[0-9]{1,4}"


def _numbers(pattern, names) -> set[int]:
    """The numbers in the group of the pattern, in which # is a number, over all names."""
    matches = (re.match(pattern.replace("#", _NUMBER), name) for name in names)
    return {int(match[1]) for match in matches if match}

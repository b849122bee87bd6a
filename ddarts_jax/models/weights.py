"""Files of a network's weights: `.npz` or safetensors, one float32 array per pytree path."""

import os
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from ddarts_jax.errors import UserError, first_line
from ddarts_jax.files import writing
from ddarts_jax.models.layers import Variables

_CLASSIFIER = "weights/head/classifier/"
_AUXILIARY = ("weights/auxiliary/", "statistics/auxiliary/")


def save_network(path: Path, variables: Variables) -> None:
    """Writes a network's weights and statistics as an `.npz`, one float32 array per pytree path."""
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **named(jax.device_get(variables)))


def load_network(path: Path | str, variables: Variables) -> Variables:
    """Reads a file of `save_network` or an export's; an auxiliary head `variables` lacks is left out.

    Args:
        path: the file, `.npz` or `.safetensors`.
        variables: variables of the network that it must fit, for structure and shapes.

    Raises:
        UserError: the file is missing, corrupt, or of another network.
    """
    wanted, found = named(variables), _read(path)
    found = {k: v for k, v in found.items() if k in wanted or not k.startswith(_AUXILIARY)}
    _refuse_differences(path, found, wanted)
    return _filled(variables, found)


def load_part(path: Path | str, variables: Variables) -> tuple[Variables, dict[str, np.ndarray]]:
    """Reads a part of a network, such as a backbone.

    Args:
        path: see `load_network`.
        variables: of the part, for structure and shapes.

    Returns:
        The variables, and all other arrays of the file by name.

    Raises:
        UserError: see `load_network`.
    """
    wanted, found = named(variables), _read(path)
    others = {name: found.pop(name) for name in set(found) - set(wanted)}
    _refuse_differences(path, found, wanted)
    return _filled(variables, found), others


def load_start(path: Path | str, variables: Variables) -> tuple[Variables, list[str]]:
    """Reads the weights with which a training begins, perhaps of a network with other classes.

    Args:
        path: see `load_network`.
        variables: fresh variables of the network to train. Its classifier, and its whole auxiliary head,
            stay fresh where the file has none of the same shape.

    Returns:
        The variables, and the names of the arrays that stay fresh.

    Raises:
        UserError: see `load_network`.
    """
    wanted, found = named(variables), _read(path)
    heads = (_CLASSIFIER, *_AUXILIARY)
    fresh = [
        name
        for name, leaf in wanted.items()
        if name.startswith(heads) and (name not in found or found[name].shape != leaf.shape)
    ]
    auxiliary = [name for name in wanted if name.startswith(_AUXILIARY)]
    if set(fresh) & set(auxiliary):  # half an old head is worth nothing
        fresh = list(dict.fromkeys([*fresh, *auxiliary]))
    found = {k: v for k, v in found.items() if k in wanted or not k.startswith(_AUXILIARY)}
    found |= {name: np.asarray(wanted[name]) for name in fresh}
    _refuse_differences(path, found, wanted)
    return _filled(variables, found), fresh


def _read(path: Path | str) -> dict[str, np.ndarray]:
    """Reads all arrays of a file; UserError if it is missing or corrupt."""
    if not os.path.isfile(path):  # a device or a pipe would block the read for ever
        raise UserError(
            f"There is no trained network {path}: run task 'train' or 'pipeline' first."
        )
    try:
        if Path(path).suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a corrupt file raises one of many
        raise UserError(
            f"Trained network {path} cannot be read as .npz or .safetensors: {first_line(error):.200}."
        ) from error


def _filled(variables: Variables, found: dict[str, np.ndarray]) -> Variables:
    """The arrays of a file, by name, in the structure of a network's variables."""
    leaves = [found[name] for name in named(variables)]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _refuse_differences(path, found: dict, wanted: dict) -> None:
    """Raises UserError unless both have arrays of the same names and shapes."""
    for name in sorted({*wanted, *found}):
        shapes = [tree[name].shape if name in tree else "absent" for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"Trained network {path} is of another genotype or config: {name} is {shapes[0]} "
                f"there and {shapes[1]} here."
            )


def named(tree) -> dict[str, np.ndarray]:
    """The leaves of a network's variables, keyed by the paths that `save_network` writes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

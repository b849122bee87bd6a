"""Files of a network's weights: `.npz`, one float32 array per pytree path."""

import os
from pathlib import Path

import jax
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.models.layers import Variables


def save_network(path: Path, variables: Variables) -> None:
    """Writes a network's weights and statistics as an `.npz`, one float32 array per pytree path."""
    temporary = Path(path).with_suffix(".tmp.npz")
    np.savez(temporary, **named(jax.device_get(variables)))
    os.replace(temporary, path)


def load_network(path: Path | str, variables: Variables) -> Variables:
    """Reads a file of `save_network`; an auxiliary head that `variables` lacks is left out.

    Args:
        path: the file.
        variables: variables of the network that it must fit, for structure and shapes.

    Raises:
        UserError: the file is missing, corrupt, or of another network.
    """
    wanted = named(variables)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(
            f"There is no trained network {path}: run task 'train' or 'pipeline' first."
        ) from error
    except Exception as error:  # a corrupt zip file raises one of many
        raise UserError(f"Trained network {path} cannot be read: {error}.") from error
    auxiliary = ("weights/auxiliary/", "statistics/auxiliary/")
    found = {k: v for k, v in found.items() if k in wanted or not k.startswith(auxiliary)}
    for name in sorted({*wanted, *found}):
        shapes = [tree[name].shape if name in tree else "absent" for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"Trained network {path} is of another genotype or config: {name} is {shapes[0]} "
                f"there and {shapes[1]} here."
            )
    leaves = [found[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def named(tree) -> dict[str, np.ndarray]:
    """The leaves of a network's variables, keyed by the paths that `save_network` writes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

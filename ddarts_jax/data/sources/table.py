"""The table of all sources, and the choice of one by `config.data.name`.

A new source is a module beside this one and a line in `SOURCES`.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from ddarts_jax.data.sources import digits, folder, npz, tfds
from ddarts_jax.data.sources.source import Loaded, Opened, Source
from ddarts_jax.errors import UserError

_T = TypeVar("_T")

# By name, or by prefix if the key ends with a colon. The empty key is for every other name.
SOURCES = {
    "digits": Source(digits.load),
    "folder:": Source(folder.load, folder.open_files),
    "npz:": Source(npz.load),
    "": Source(tfds.load, tfds.open_prepared),
}


def load(data: Any) -> Loaded:
    """Reads all images of the source that `data.name` names.

    Args:
        data: `config.data`, from which it reads name, data_dir and image_size.

    Raises:
        UserError: for an unknown name, for data that are missing, unreadable or not prepared.
    """
    return _apply(_source(data.name).load, data)


def open_encoded(data: Any) -> Opened:
    """Opens the images of the source that `data.name` names, without decoding any.

    Args:
        data: `config.data`, from which it reads name, data_dir and images_per_class.

    Raises:
        UserError: for a source that cannot be streamed; as `load`.
    """
    source = _source(data.name)
    if source.open is None:
        streamable = [_usage(key) for key, other in SOURCES.items() if key and other.open]
        raise UserError(
            f"{data.name!r} is held in memory and cannot be streamed; only "
            f"{', '.join(streamable)} and sets of TensorFlow Datasets can."
        )
    return _apply(source.open, data)


def _source(name: str) -> Source:
    prefix, colon, _ = name.partition(":")
    return SOURCES.get(prefix + colon, SOURCES[""])


def _usage(key: str) -> str:
    """How a user writes a key of `SOURCES`."""
    return f"{key}PATH" if key.endswith(":") else key


def _apply(function: Callable[[Any], _T], data: Any) -> _T:
    """Calls a function of a source; a name that no source knows becomes a UserError."""
    try:
        return function(data)
    except tfds.UnknownName as error:
        raise UserError(_unknown(data.name, error)) from error


def _unknown(name: str, error: tfds.UnknownName) -> str:
    """Returns the message for an unknown name, with the known ones that are close to it."""
    ours, path, meant = [key for key in SOURCES if key], os.path.expanduser(name), []
    if os.path.exists(path):
        meant = [("folder:" if os.path.isdir(path) else "npz:") + name]
    return (
        f"{error.sentence(ours, meant)} Use {', '.join(repr(_usage(key)) for key in ours)} or a name of "
        "TensorFlow Datasets."
    )

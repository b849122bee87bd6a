"""Configs as plain values: flattening, comparison, copies and JSON."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax.files import write_text


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of a nested mapping; a plain mapping in a config is a value."""
    groups = ConfigDict if isinstance(config, ConfigDict) else Mapping | ConfigDict
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, groups)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Returns {dotted key: its last part}; a key whose last part another one shares stays whole."""
    lasts = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(lasts.values())
    return {key: last if counts[last] == 1 else key for key, last in lasts.items()}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Returns 'dotted.key: value in a, value in b' for every key in which two mappings differ.

    A key of a damaged file may hold anything; what would break the line is escaped.
    """
    a, b = flatten(a), flatten(b)
    missing = object()

    def show(value: Any) -> str:
        return "absent" if value is missing else repr(value)

    def plain(key: str) -> str:
        return key if key.isprintable() else repr(key)

    pairs = {key: (a.get(key, missing), b.get(key, missing)) for key in sorted({*a, *b})}
    return [f"{plain(key)}: {show(x)}, {show(y)}" for key, (x, y) in pairs.items() if x != y]


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns a copy with another seed."""
    copy = config.copy_and_resolve_references()
    copy.seed = seed
    return copy


def to_json(config: ConfigDict | dict[str, Any]) -> str:
    """Returns the configuration as indented JSON with sorted keys."""
    whole = config if isinstance(config, dict) else config.to_dict()
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def save(config: ConfigDict | dict[str, Any], path: str | os.PathLike) -> None:
    """Writes the configuration to a JSON file, which is never seen half-written."""
    write_text(Path(path), to_json(config))

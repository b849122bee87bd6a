"""What the benchmarks share: options, the config and data that they stand for, timing, the JSON line.

Nothing here imports JAX before a benchmark reports: `on_gpu.py` must leave the GPU to its steps.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddarts_jax.configuration import default_config
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.genotypes.spaces import SPACES

NUM_CLASSES = 10
SIZES = ("cells", "nodes", "channels", "size")

_OPTIONS = {
    "cells": {"default": 8, "help": "cells of the supernet"},
    "nodes": {"default": 4, "help": "intermediate nodes per cell"},
    "channels": {"default": 16, "help": "channels of the first cell's nodes"},
    "size": {"default": 32, "help": "pixels per side of an image"},
    "batch": {"default": 16, "help": "images per batch"},
    "repeats": {"default": 5, "help": "timed runs"},
    "unroll": {"default": 1, "help": "see config.search.unroll"},
    "microbatch": {"default": 0, "help": "see config.search.ddarts.microbatch"},
    "seed": {"default": 0, "help": "seed of all random numbers"},
    "space": {"default": "darts", "choices": list(SPACES), "help": "search space"},
    "partial": {"default": 1, "help": "see config.search.ddarts.partial_channels"},
    "gradient": {"default": "full", "choices": ["full", "none"], "help": "of the ablation loss"},
    "dtype": {"default": "float32", "choices": ["float32", "bfloat16"], "help": "of the features"},
}
_KEYS = {
    "seed": "seed",
    "batch": "data.batch_size",
    "cells": "search.num_cells",
    "nodes": "search.num_nodes",
    "channels": "search.channels",
    "space": "search.space",
    "unroll": "search.unroll",
    "microbatch": "search.ddarts.microbatch",
    "partial": "search.ddarts.partial_channels",
    "gradient": "search.ddarts.ablation.gradient",
    "ablation_weight": "search.ddarts.ablation.weight",
}
_LOAD_BEFORE = round(os.getloadavg()[0], 1)


# Options, and what they stand for.


def parser(doc: str, *names: str, **defaults: Any) -> argparse.ArgumentParser:
    """Makes a benchmark's parser with those common options that it has.

    Args:
        doc: the benchmark's docstring, whose first line describes it.
        names: keys of `_OPTIONS`.
        defaults: {name: default}, where another than that of `_OPTIONS` is needed.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0], allow_abbrev=False)
    for name in dict.fromkeys((*names, *defaults)):
        option = dict(_OPTIONS[name])
        default = option["default"] = defaults.get(name, option["default"])
        option["help"] += f" (default: {default})"
        made.add_argument(f"--{name}", type=type(default), **option)
    return made


def search_config(options: Mapping[str, Any]) -> ConfigDict:
    """Returns the default config with the values of those options that are config keys.

    Args:
        options: {name: value}; names that are not in `_KEYS` have no effect.
    """
    config = default_config()
    config.update_from_flattened_dict(
        {_KEYS[name]: value for name, value in options.items() if name in _KEYS}
    )
    return config


def blank_dataset(
    image_shape: tuple[int, int, int], num_classes: int = NUM_CLASSES, count: int = 1
) -> Dataset:
    """Makes a data set of black images, for programs of which only the shapes count.

    Args:
        image_shape: (H, H, C).
        num_classes: number of classes.
        count: number of training images.
    """
    channels = image_shape[-1]
    return Dataset(
        name="blank",
        train_images=np.zeros((count, *image_shape), np.uint8),
        train_labels=np.zeros(count, np.int32),
        test_images=np.zeros((0, *image_shape), np.uint8),
        test_labels=np.zeros(0, np.int32),
        class_names=tuple(map(str, range(num_classes))),
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
    )


# Timing.


def compile_timed(lower: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Calls `lower` and compiles its result; returns the program and what both steps took."""
    begun = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    return compiled, {"trace_s": round(traced - begun, 1), "compile_s": round(ended - traced, 1)}


def in_turns(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times programs in turns, so that a slow moment of the machine affects all of them.

    Args:
        programs: {name: function that runs the program once and waits for its end}.
        repeats: runs per program.

    Returns:
        Seconds per run, by name.
    """
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def spread(values: Iterable[float], digits: int = 4) -> list[float]:
    """Returns the smallest and the largest value, rounded."""
    values = list(values)
    return [round(min(values), digits), round(max(values), digits)]


# The JSON line.


def record(*packages: str) -> dict[str, Any]:
    """Returns when, where and with which versions a benchmark ran.

    Args:
        packages: distributions whose versions are recorded besides those of `facts.versions`.
    """
    from ddarts_jax.runs import facts  # imports JAX

    versions = facts.versions() | {name: metadata.version(name) for name in packages}
    return {
        "date": datetime.date.today().isoformat(),
        "device": versions["device"],
        "machine": f"{platform.machine()}, {os.cpu_count()} core(s)",
        "load_before": _LOAD_BEFORE,  # average of the minute before the benchmark began
        "versions": versions,
    }


def report(
    benchmark: str, options: Mapping[str, Any], results: Mapping[str, Any], packages=()
) -> None:
    """Prints the one JSON line of a benchmark.

    Args:
        benchmark: its name.
        options: values of its command line.
        results: what it measured.
        packages: see `record`.
    """
    line = {"benchmark": benchmark, **options, **results, **record(*packages)}
    print(json.dumps(line, default=_plain))


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is not for JSON")

"""The facts about a run that it records: config, data, and versions of packages and devices."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddarts_jax import configuration
from ddarts_jax.distributed import processes
from ddarts_jax.files import write_json
from ddarts_jax.runs import layout


def keep(workdir: Path, config, dataset) -> None:
    """Writes `config.json`, `dataset.json` and `versions.json`.

    Call it only when the workdir is known to belong to this run, or another run's files are replaced.
    """
    configuration.save(config, workdir / layout.CONFIG)
    write_json(workdir / layout.DATASET, of_data(dataset))
    write_json(workdir / layout.VERSIONS, versions())


def of_data(dataset) -> dict[str, Any]:
    """Returns the facts about its training data that a network needs, ready for JSON."""
    return {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "image_shape": [int(size) for size in dataset.image_shape],
        "mean": np.asarray(dataset.mean, np.float64).tolist(),
        "std": np.asarray(dataset.std, np.float64).tolist(),
        "num_train": int(dataset.num_train),
        "num_test": int(dataset.num_test),
    }


def versions() -> dict:
    """The dependencies of a run besides its config: versions of packages, and the devices."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name.partition("-")[0]: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": processes.count(),
    }

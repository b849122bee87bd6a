"""What a run knows about itself: its config, its data, and the versions of all that computed it."""

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

    To be called when the workdir is known to be this run's, so that no other run's files are replaced.
    """
    configuration.save(config, workdir / layout.CONFIG)
    write_json(workdir / layout.DATASET, of_data(dataset))
    write_json(workdir / layout.VERSIONS, versions())


def of_data(dataset) -> dict[str, Any]:
    """Returns what a network must know of the data that it is trained on, as JSON says it."""
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
    """What a run depends on besides its config: versions of packages, and the devices."""
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

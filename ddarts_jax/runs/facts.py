"""The facts about a run that it records: config, data, and versions of packages and devices."""

import dataclasses
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddarts_jax import configuration
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
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


def of_run(workdir: Path) -> dict[str, Any] | None:
    """Returns `of_data` of the data that a run was trained on; None if an older version wrote it."""
    path = workdir / layout.DATASET
    return read_json(path, "Facts of the training data") if path.is_file() else None


def matched(own: dict[str, Any] | None, dataset, workdir: Path):
    """Returns a data set with the mean and deviation that a network was trained with.

    Args:
        own: see `of_run`.
        dataset: images to evaluate the network on.
        workdir: of the network, for the message.

    Raises:
        UserError: its classes or the shape of its images are not those of the network; names both.
    """
    if own is None:
        return dataset
    here = of_data(dataset)
    for key, words in (("class_names", "the classes"), ("image_shape", "images of the shape")):
        if own.get(key) != here[key]:
            raise UserError(
                f"The network in {workdir} was trained with {words} {own.get(key)}, but {dataset.name} "
                f"has {here[key]}: name the data that it was trained on, or data like them."
            )
    mean, std = (np.asarray(own[key], np.float32) for key in ("mean", "std"))
    return dataclasses.replace(dataset, mean=mean, std=std)


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

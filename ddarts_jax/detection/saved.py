"""A detector in its workdir: what its training keeps there, all that is needed to use it."""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.datasets import PLACES, Pixels
from ddarts_jax.detection.detector import Detector, Source
from ddarts_jax.detection.instances import Classes, Instances
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import weights
from ddarts_jax.models.layers import Variables
from ddarts_jax.runs import facts, identity, layout
from ddarts_jax.training import trained


class Saved(NamedTuple):
    """A trained detector.

    Attributes:
        config: the config of its training.
        detector: structure.
        variables: weights and statistics.
        pixels: how images must reach it.
        classes: that it knows.
        data: facts of its training's data, see `keep`.
    """

    config: ConfigDict
    detector: Detector
    variables: Variables
    pixels: Pixels
    classes: Classes
    data: dict[str, Any]


def identity_of(config, source: Source, train: Instances) -> dict[str, Any]:
    """Returns what defines a training, for `Checkpoints`: it is resumed only if that is the same.

    Where the images and the backbone lie does not matter, nor what is only looked at.
    """
    kept = config.to_dict()
    for key in ("evaluate", "test", "profile", "checkpoint", "export"):
        del kept[key]
    for key in PLACES:
        del kept["data"][key]
    for key in ("run", "genotype"):
        del kept["backbone"][key]
    kept["backbone"] |= source.sizes | {
        "cells": source.genotype.to_dict(),
        "weights": zlib.crc32(source.weights.read_bytes()) if source.weights else None,
    }
    return kept | {"task": "detect", "images": train.identity}


def check(workdir: Path, wanted: dict[str, Any], train: Instances, test: Instances) -> None:
    """Refuses a workdir whose training is not to be continued by this config and on these images.

    Args:
        workdir: an existing folder.
        wanted: see `identity_of`.
        train: images of this start.
        test: likewise.

    Raises:
        UserError: the workdir holds the state of another training.
    """
    own = facts.of_run(workdir)
    if own and identity.begun(workdir, "detect"):
        here = {**_of_images(train, test), "class_names": list(train.class_names)}
        for key, value in here.items():
            if own.get(key) != value:
                raise UserError(
                    f"The detector in {workdir} began with other data ({key} {_short(own.get(key))}) "
                    f"than {train.name} and {test.name} are now ({key} {_short(value)}): bring the "
                    "former back, or use another --workdir."
                )
    identity.check_phase(workdir, "detect", wanted)


def _short(value: Any) -> str:
    return f"{value!s:.100}"


def _of_images(train: Instances, test: Instances) -> dict[str, Any]:
    return {"train": train.identity, "test": test.identity}


def keep(workdir: Path, config, source: Source, train: Instances, test: Instances, pixels: Pixels):
    """Writes `config.json`, `dataset.json`, `versions.json`, and genotype and sizes of the backbone.

    Call it only when the workdir is known to belong to this run, or another run's files are replaced.
    """
    configuration.save(config.to_dict(), workdir / layout.CONFIG)
    data = {
        "name": config.data.name,
        "class_names": list(train.class_names),
        "category_ids": train.category_ids.tolist(),
        "image_shape": [None, None, pixels.channels],  # of any size
        "mean": np.asarray(pixels.mean, np.float64).tolist(),
        "std": np.asarray(pixels.std, np.float64).tolist(),
        "white": int(pixels.white),
    }
    write_json(workdir / layout.DATASET, data | _of_images(train, test))
    write_json(workdir / layout.VERSIONS, facts.versions())
    source.genotype.save(workdir / layout.NETWORK_GENOTYPE)
    write_json(workdir / layout.NETWORK_SIZES, source.sizes)


def load(workdir: Path, test: ConfigDict | None = None) -> Saved:
    """Loads the detector of a workdir.

    Args:
        workdir: of a task 'detect' that has ended.
        test: section `test` of a config, which boxes count; None: that of the training.

    Raises:
        UserError: there is none, or its files do not match.
    """
    if not (workdir / layout.DETECTOR).is_file():
        raise UserError(f"There is no detector in {workdir}: run task 'detect' there to its end.")
    config = configuration.load(workdir / layout.CONFIG)
    built = config.copy_and_resolve_references()
    built.test = config.test if test is None else test
    data = facts.of_run(workdir) or {}
    try:
        pixels = Pixels(
            data["image_shape"][2],
            *(np.asarray(data[key], np.float32) for key in ("mean", "std")),
            data["white"],
        )
        ids = np.array(data["category_ids"], np.int64)
        classes = Classes(str(workdir), ids, tuple(data["class_names"]))
        source = Source(
            Genotype.load(workdir / layout.NETWORK_GENOTYPE), trained.sizes_in(workdir), None, {}
        )
        detector, empty = detectors.build(built, source, len(ids), pixels.channels, None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{workdir} does not describe a detector: {error!r}.") from error
    variables = weights.load_network(workdir / layout.DETECTOR, empty)
    return Saved(config, detector, variables, pixels, classes, data)

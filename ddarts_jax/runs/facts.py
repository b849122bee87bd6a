"""The facts about a run that it records: config, data, and versions of packages and devices."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddarts_jax import configuration
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, save_array, write_json
from ddarts_jax.runs import identity, layout, packages

# Facts in which data must agree with those of the training to be given to its network, and what they
# are called.
_KIND = {
    "class_names": "the classes",
    "num_classes": "a number of classes of",
    "image_shape": "images of the shape",
    "crop": "the central part (null: whole images)",
    "white": "16-bit images in which white is (0: 8-bit ones)",
}
# Facts that tell which images they are.
_IMAGES = ("train_checksum", "test_checksum", "images_checksum")
_MANY = 0.01  # share of the test images that were trained on, above which an accuracy says nothing


def keep(workdir: Path, config, dataset, phase: str = "") -> None:
    """Writes `config.json`, `dataset.json`, `training_images.npy` and `versions.json`.

    Call it only when the workdir is known to belong to this run, or another run's files are replaced.

    Args:
        workdir: of the run.
        config: the whole config.
        dataset: images, in memory or streamed.
        phase: that begins; what `config.json` says about the other phase stays if that has begun.
    """
    whole = config.to_dict()
    found = workdir / layout.CONFIG
    for other, sections in (("search", ("search", "parse")), ("train", ("train",))):
        if phase not in ("", other) and found.is_file() and identity.begun(workdir, other):
            known = read_json(found, "Config")
            whole |= {key: known[key] for key in sections if key in known}
    configuration.save(whole, found)
    images, _ = dataset.hashes("train")
    save_array(workdir / layout.TRAINING_IMAGES, np.sort(images))
    write_json(workdir / layout.DATASET, of_data(dataset) | of_images(dataset))
    write_json(workdir / layout.VERSIONS, versions())


def of_data(dataset) -> dict[str, Any]:
    """Returns the facts about its training data that a network needs, ready for JSON."""
    return {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "num_classes": int(dataset.num_classes),
        "image_shape": [int(size) for size in dataset.image_shape],
        "mean": np.asarray(dataset.mean, np.float64).tolist(),
        "std": np.asarray(dataset.std, np.float64).tolist(),
        "crop": dataset.crop,
        "white": int(dataset.white),
        "num_train": int(dataset.num_train),
        "num_test": int(dataset.num_test),
    }


def of_images(dataset) -> dict[str, str]:
    """Returns checksums of the images and labels of each split, and of both together, as JSON.

    The order of the images does not matter. Images in memory count by their pixels, those of a stream
    by their names and sizes, which `hashed` tells.
    """
    parts = [dataset.hashes(part) for part in ("train", "test")]
    both = tuple(np.concatenate(values) for values in zip(*parts))
    checksums = dict(zip(_IMAGES, [_checksum(*part) for part in (*parts, both)]))
    return checksums | {"hashed": "pixels" if dataset.crop is None else "names and sizes"}


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    order = np.lexsort((labels, images))
    digest = hashlib.blake2b(images[order].astype("<u8").tobytes(), digest_size=8)
    digest.update(labels[order].astype("<i4").tobytes())
    return digest.hexdigest()


def of_run(workdir: Path) -> dict[str, Any] | None:
    """Returns the facts of the data that a run was trained on; None if it keeps none.

    Raises:
        UserError: they are corrupt.
    """
    path = workdir / layout.DATASET
    if not path.is_file():
        return None
    return _comparable(_checked(read_json(path, "Facts of the training data"), path))


def _comparable(facts: dict[str, Any]) -> dict[str, Any]:
    """Returns facts without checksums of an older version, which hashed a stream's names alone."""
    if facts.get("crop") is None or facts.get("hashed"):
        return facts
    return {key: value for key, value in facts.items() if key not in _IMAGES}


def _checked(facts: Any, path: Path) -> dict[str, Any]:
    """Returns facts; UserError naming the file unless each is null, missing or of its kind."""
    if not isinstance(facts, dict):
        raise UserError(f"Facts of the training data {path} must be one JSON object.")
    shape = facts.get("image_shape")

    def numbers(value, kinds=(int, float)) -> bool:
        return isinstance(value, list) and all(isinstance(v, kinds) for v in value)

    def moment(value) -> bool:
        return numbers(value) and np.isfinite(value).all() and len(value) == shape[2]

    kinds = {
        "name": lambda value: isinstance(value, str),
        "class_names": lambda value: (
            isinstance(value, list) and value and all(isinstance(name, str) for name in value)
        ),
        "image_shape": lambda value: numbers(value, (int, type(None))) and len(value) == 3,
        "mean": moment,
        "std": lambda value: moment(value) and min(value) > 0,
        "white": lambda value: isinstance(value, int) and 0 <= value <= 65535,
    }
    for key, fits in kinds.items():
        try:
            right = facts.get(key) is None or fits(facts[key])
        except (TypeError, ValueError, OverflowError, IndexError):  # of a shape that is none
            right = False
        if not right:
            raise UserError(
                f"Facts of the training data {path} are corrupt: {key} is {facts[key]!r:.80}."
            )
    return facts


def of_weights(path: Path) -> dict[str, Any] | None:
    """Returns the facts that lie beside a file of weights: in a run's workdir, or in an export.

    Raises:
        UserError: they are corrupt.
    """
    meta = path.parent / layout.EXPORT_META
    if not meta.is_file():
        return of_run(path.parent)
    found = read_json(meta, "Description of an export")
    try:
        if found.get("kind") == "detector":
            raise UserError(
                f"{path.parent} is the export of a detector, not of a network that classifies: name the "
                "workdir or the export of a training."
            )
        given = found["preprocessing"]
        shape = [given["image_size"], given["image_size"], given["channels"]]
        own = {
            "name": found.get("data"),
            "class_names": list(found["class_names"]),
            "image_shape": shape,
            "mean": list(given["mean"]),
            "std": list(given["std"]),
            "crop": given["crop"],
            "white": given.get("white", 0),
            "num_train": found.get("train_images"),
            "num_test": found["test"]["images"],
            "test_checksum": found.get("test_checksum"),
            "hashed": found.get("hashed"),
        }
        return _comparable(_checked(own, meta))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{meta} is not the description of an export: {error!r}.") from error


def settle(data, own: Mapping[str, Any] | None):
    """Returns a `config.data` whose automatic values are those that a network was trained with.

    Args:
        data: section of the config.
        own: see `of_run`.
    """
    data = data.copy_and_resolve_references()
    shape = (own or {}).get("image_shape")
    if shape and shape[0] and not data.image_size:
        data.image_size = int(shape[0])
    if own and own.get("white") and not data.white:
        data.white = int(own["white"])
    return data


def matched(own: Mapping[str, Any] | None, dataset, workdir: Path | str):
    """Returns a data set with the mean and deviation that a network was trained with.

    Args:
        own: see `of_run`.
        dataset: images to evaluate the network on.
        workdir: of the network, for the message.

    Raises:
        UserError: its classes or the kind of its images are not those of the network; or the images are
            those of the network's training, split into other training and test images. The message
            names both sides.
    """
    if own is None:
        return dataset
    here = of_data(dataset)
    for key, words in _KIND.items():
        if own.get(key) is not None and own[key] != here[key] and not _alike(key, own, here):
            raise UserError(
                f"The network in {workdir} was trained with {words} {own[key]}, but {dataset.name} "
                f"has {here[key]}: name the data that it was trained on, or data like them."
            )
    images = of_images(dataset) if own.get("images_checksum") else {}
    same = [own.get(key) == images.get(key) for key in ("images_checksum", "test_checksum")]
    if images and same == [True, False]:
        raise UserError(
            f"The network in {workdir} was trained on {own.get('num_train')} of these images and "
            f"tested on {own.get('num_test')}, but here {here['num_test']} are for the test, some of "
            f"which it was trained on: use the data.test_fraction and data.images_per_class of its "
            f"training."
        )
    moments = {
        key: np.asarray(own[key], np.float32) for key in ("mean", "std") if own.get(key) is not None
    }
    return dataclasses.replace(dataset, **moments)


def _alike(key: str, own: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two values of a fact differ only by what is not known, or does not matter."""
    if key == "white":  # data without 16-bit images have no range
        return 0 in (own[key], here[key])
    if key == "image_shape":
        return all(a in (None, b) for a, b in zip(own[key], here[key]))
    return False


def is_own(own: Mapping[str, Any] | None, dataset) -> bool:
    """Whether the test images of a data set are those of the run with the facts `own`.

    An older run that kept no checksums is taken at its word, the data's name and numbers.
    """
    if own is None or own.get("name") is None:
        return True  # the network has no data of its own yet
    if own.get("test_checksum"):
        return own["test_checksum"] == of_images(dataset)["test_checksum"]
    here = of_data(dataset)
    return all(own.get(key) == here[key] for key in ("name", "num_train", "num_test"))


def trained_on(workdir: Path, dataset) -> float:
    """Returns the share of a data set's test images that the network of a run has learnt.

    0 where the run keeps no hashes of its images, or they are of another kind (pixels or names).
    """
    path = workdir / layout.TRAINING_IMAGES
    if not path.is_file():
        return 0.0
    try:
        learnt = np.load(path, allow_pickle=False)
    except Exception as error:  # a corrupt file raises one of many
        raise UserError(f"{path} cannot be read: {error}; delete it.") from error
    images, _ = dataset.hashes("test")
    return float(np.isin(images, learnt).mean())


def check_unseen(workdir: Path, dataset) -> None:
    """Refuses test images that a network has learnt; call it for data that are not the run's own.

    Raises:
        UserError: more than 1% of them; the message tells the share.
    """
    share = trained_on(workdir, dataset)
    if share > _MANY:
        raise UserError(
            f"The network in {workdir} was trained on {share:.0%} of the test images of "
            f"{dataset.name}: an accuracy on them would say nothing; name other images, or those of its "
            f"training with the same split."
        )


def check_resumed(workdir: Path, dataset, phases) -> None:
    """Refuses to continue a run on other images, or on the same with other labels.

    Args:
        workdir: of the run.
        dataset: images of this start.
        phases: the phases that this start may continue; those without a checkpoint do not count.

    Raises:
        UserError: they are not those that the run began with.
    """
    own = of_run(workdir)
    if not own or not any(identity.begun(workdir, phase) for phase in phases):
        return
    here = of_data(dataset) | of_images(dataset)
    for key in ("train_checksum", "test_checksum", "class_names"):
        if own.get(key) is not None and own[key] != here[key]:
            raise UserError(
                f"The run in {workdir} began with other data: {own.get('num_train')} training and "
                f"{own.get('num_test')} test images of {own.get('name')} ({key} {_short(own[key])}), but "
                f"{dataset.name} now has {here['num_train']} and {here['num_test']} ({key} "
                f"{_short(here[key])}), or other labels: bring the former back, or use another --workdir."
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def versions() -> dict:
    """The dependencies of a run besides its config: versions of packages, and the devices."""
    found = packages.versions(*packages.OF_RESULTS)
    devices = jax.devices()
    return {
        **{name.partition("-")[0]: version for name, version in found.items()},
        "platform": platform.platform(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": processes.count(),
    }

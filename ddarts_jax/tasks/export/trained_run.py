"""The trained network to export: its config, genotype, test images and logits."""

import contextlib
import dataclasses
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.data import dataset as data
from ddarts_jax.data import stream
from ddarts_jax.data.augment import normalize
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.runs import facts, layout

_logger = logging.getLogger(__name__)

_STREAMED = 1000  # test images of a streamed data set on which the files are compared


def read(source: Path) -> tuple[ConfigDict, Genotype]:
    """Reads the config (seed, data, train) and the genotype of a training.

    Raises:
        UserError: `source` is not the workdir of a training that finished.
    """
    if not source.is_dir():
        raise UserError(f"There is no run {source}: name the workdir of a training by config.run.")
    for name in (layout.CONFIG, layout.NETWORK):
        if not (source / name).is_file():
            raise UserError(
                f"There is no trained network in {source}, which has no {name}: run task 'train' or "
                f"'pipeline' to its end first."
            )
    path = source / layout.CONFIG
    try:
        found = configuration.up_to_date(json.loads(path.read_text()))
        settings = configuration.default_config().unlock()
        # Keys that were added after the training keep their defaults.
        own = {key: v for key, v in found.items() if key.partition(".")[0] in ("data", "train")}
        if not own:
            raise ValueError("it has no data and train")
        settings.update_from_flattened_dict(
            {key: tuple(v) if isinstance(v, list) else v for key, v in own.items()}
        )
        settings = ConfigDict({name: settings[name] for name in ("seed", "data", "train")})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the config of a training: {error!r}.") from error
    # That of the network, which may have more cells than the one that was searched.
    names = [source / name for name in (layout.NETWORK_GENOTYPE, layout.GENOTYPE)]
    return settings, Genotype.load(next((path for path in names if path.is_file()), names[0]))


def load_data(settings: ConfigDict, source: Path) -> Dataset:
    """Loads the data of the training, and checks that they are the same.

    A stream gives only `_STREAMED` test images, spread evenly over all of them.

    Args:
        settings: `config.data` of the training, perhaps with another place of the same data.
        source: workdir of the training.

    Raises:
        UserError: the data cannot be loaded, or are not those of the training; names both sides.
    """
    own = facts.of_run(source)
    settings = facts.settle(settings, own)
    dataset = facts.matched(own, (stream if settings.stream else data).load(settings), source)
    if not facts.is_own(own, dataset):
        here = facts.of_data(dataset)
        raise UserError(
            f"The network in {source} was tested on {own['num_test']} images of {own['name']}, but the "
            f"{here['num_test']} test images of {dataset.name} are others, or have other labels: bring "
            "the former back, or name the place where they are now by config.data."
        )
    return _some_of(dataset) if settings.stream else dataset


def _some_of(streamed) -> Dataset:
    """Reads some test images of a stream."""
    some = np.unique(np.linspace(0, streamed.num_test - 1, _STREAMED).astype(int))
    testing = dataclasses.replace(streamed, test=streamed.test.select(some)).testing(100)
    batches = [
        (batch.images[batch.weights > 0], batch.labels[batch.weights > 0])
        for batch in testing.batches()
    ]
    images, labels = (np.concatenate(part) for part in zip(*batches))
    return Dataset(
        name=streamed.name,
        train_images=images[:0],
        train_labels=labels[:0],
        test_images=images,
        test_labels=labels,
        class_names=streamed.class_names,
        mean=streamed.mean,
        std=streamed.std,
        white=streamed.white,
    )


def compute_logits(
    net: Network, variables: Variables, dataset: Dataset, batch_size: int
) -> np.ndarray:
    """Computes the trained network's logits of all test images, float32 [n, classes].

    Raises:
        UserError: some are NaN or infinite.
    """

    @jax.jit
    def forward(images):
        images = normalize(images, dataset.mean, dataset.std, jnp.float32)
        return network.forward(net, variables, images, train=False)[0]

    images = dataset.test_images
    logits = np.zeros((len(images), dataset.num_classes), np.float32)
    size = min(batch_size, len(images))
    for start in range(0, len(images), size):
        start = min(start, len(images) - size)  # every batch is full: one program is compiled
        logits[start : start + size] = forward(images[start : start + size])
    if not np.isfinite(logits).all():
        raise UserError("The trained network gives NaN or infinite logits: its training diverged.")
    return logits


def measure_accuracy(logits: np.ndarray, dataset: Dataset, source: Path) -> float:
    """Returns the accuracy of the logits; warns if the training in `source` measured another one."""
    accuracy = float(np.mean(logits.argmax(axis=1) == dataset.test_labels))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        measured = json.loads((source / layout.SUMMARY).read_text())["test_accuracy"]
        if abs(accuracy - measured) > 0.01:
            _logger.warning(
                "the accuracy is %.2f%%, but %.2f%% in %s: is this the data of the training?",
                *(100 * accuracy, 100 * measured, source / layout.SUMMARY),
            )
    return accuracy

"""The export of a network that classifies: its files, its facts, and their check."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax.data import crops
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.models.weights import load_network, named
from ddarts_jax.predict import FORMATS
from ddarts_jax.runs import facts, layout
from ddarts_jax.runs.workdir import check_apart
from ddarts_jax.tasks.export import card, checks, formats, trained_run
from ddarts_jax.training import train, trained

_logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A trained network and its data.

    Attributes:
        source: workdir of the training.
        settings: its config: seed, data and train.
        genotype: the architecture.
        dataset: whose test images are for the check.
        net: structure.
        variables: weights and statistics, float32.
    """

    source: Path
    settings: ConfigDict
    genotype: Genotype
    dataset: Dataset
    net: Network
    variables: Variables


def load(source: Path, config: ConfigDict, output: Path) -> Trained:
    """Loads the trained network in the workdir `source`.

    Args:
        source: the workdir.
        config: see `configuration.export_config`.
        output: the folder to be written.

    Raises:
        UserError: there is none, its data cannot be loaded, or the output lies inside of them.
    """
    settings, genotype = trained_run.read(source)
    for key, value in (("name", config.data), ("data_dir", config.data_dir)):
        if value:  # the data have moved
            settings.data[key] = value
    check_apart(output, settings.data.name, "config.output")
    dataset = trained_run.load_data(settings.data, source)
    net, variables = train.build(settings, genotype, dataset, "float32", trained=True)
    variables = load_network(source / layout.NETWORK, variables)
    variables = jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), variables)
    return Trained(source, settings, genotype, dataset, net, variables)


def write(network: Trained, folder: Path, scratch: Path) -> dict:
    """Writes and checks all files.

    Args:
        network: what is exported.
        folder: where to.
        scratch: an empty folder for the files exchanged with the fresh processes.

    Returns:
        The content of `meta.json`.

    Raises:
        UserError: a file does not give the network's logits.
    """
    _, settings, genotype, dataset, *built = network
    batch_size = settings.data.batch_size
    # Full float32 products on every device, in the exported program too.
    with jax.default_matmul_precision("highest"):
        expected = trained_run.compute_logits(*built, dataset, batch_size)
        formats.write_models(folder, *built, dataset)
    weights = named(network.variables)
    formats.write_weights(folder, weights)
    accuracy = trained_run.measure_accuracy(expected, dataset, network.source)
    meta = _describe(settings, genotype, dataset, accuracy)
    genotype.save(folder / "genotype.json")
    write_json(folder / "meta.json", meta)
    np.save(scratch / "images.npy", dataset.test_images)
    _logger.info("export: reads every file again in a fresh process")
    meta["checks"] = checks.check(folder, scratch, batch_size, expected, weights)
    write_json(folder / "meta.json", meta)
    (folder / "README.md").write_text(card.model_card(meta, genotype), encoding="utf-8")
    return meta


def headline(meta: dict) -> str:
    """Returns how good the network is, in a few words."""
    return f"test accuracy {100 * meta['test']['accuracy']:.2f}%"


def _describe(settings: ConfigDict, genotype: Genotype, dataset: Dataset, accuracy: float) -> dict:
    """Returns the content of `meta.json`, without the checks."""
    cost = train.cost(settings, genotype, dataset)
    kind, _, path = dataset.name.partition(":")
    return {
        "format": FORMATS["classifier"],
        # Only the last part: the folders above it are private.
        "data": f"{kind}:{Path(path).name}" if path else kind,
        "class_names": list(dataset.class_names),
        "preprocessing": {
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            # The part of the image that is resized: all of it (None), or the central square of this
            # share of its shorter side.
            "crop": crops.CENTRAL if settings.data.stream else None,
            "mean": dataset.mean.tolist(),
            "std": dataset.std.tolist(),
            # Value of white in images of 16 bits; 0: the training had none.
            "white": dataset.white,
            "formula": "x = (image / 255 - mean) / std, float32 [batch, height, width, channels]",
        },
        "network": trained.sizes_of(settings.to_dict()),
        "test": {"accuracy": accuracy, "images": len(dataset.test_labels)},
        **{key: facts.of_images(dataset)[key] for key in ("test_checksum", "hashed")},
        "parameters": cost.params,
        "macs": cost.macs,
    } | card.written()

"""The task itself: writes a temporary folder, checks it, and moves it to its place."""

import datetime
import glob
import importlib.metadata
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from ddarts_jax.data import crops
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.weights import load_network, named
from ddarts_jax.predict import FORMAT
from ddarts_jax.runs import facts, layout
from ddarts_jax.runs.workdir import check_apart
from ddarts_jax.tasks.export import card, checks, formats, trained_run
from ddarts_jax.training import train, trained

_logger = logging.getLogger(__name__)

FILES = (
    "README.md",
    "genotype.json",
    "meta.json",
    "model.onnx",
    "model.stablehlo",
    "weights.safetensors",
)


def run(config: ConfigDict, workdir: Path) -> dict:
    """Writes the folder `config.output` of the trained network in `config.run`.

    An earlier export there is replaced; if anything fails, it stays as it was.

    Args:
        config: see `configuration.export_config`.
        workdir: an existing folder for the files exchanged with the fresh processes, which are
            deleted at the end.

    Returns:
        The content of `meta.json`.

    Raises:
        UserError: there is no trained network, or its data cannot be loaded; the output cannot be
            written, or is something else already; a file does not give the network's logits.
    """
    if not config.run:
        raise UserError(
            "Name the workdir of the training whose network to export: --config.run=DIR."
        )
    if not config.output:
        raise UserError("Name the folder to write the export to: --config.output=DIR.")
    source = Path(os.path.expanduser(config.run))
    output = Path(os.path.expanduser(config.output)).resolve()
    _check_output(output)
    settings, genotype = trained_run.read(source)
    for key, value in (("name", config.data), ("data_dir", config.data_dir)):
        if value:  # the data have moved
            settings.data[key] = value
    check_apart(output, settings.data.name, "config.output")
    dataset = trained_run.load_data(settings.data, source)
    net, variables = train.build(settings, genotype, dataset, "float32", trained=True)
    variables = load_network(source / layout.NETWORK, variables)
    variables = jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), variables)
    weights = named(variables)

    batch_size = settings.data.batch_size
    _tidy(output)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        # Full float32 products on every device, in the exported program too.
        with jax.default_matmul_precision("highest"):
            expected = trained_run.compute_logits(net, variables, dataset, batch_size)
            formats.write_models(temporary, net, variables, dataset)
        (temporary / "weights.safetensors").write_bytes(safetensors.numpy.save(weights))
        accuracy = trained_run.measure_accuracy(expected, dataset, source)
        meta = _describe(settings, genotype, dataset, accuracy)
        genotype.save(temporary / "genotype.json")
        write_json(temporary / "meta.json", meta)
        with tempfile.TemporaryDirectory(dir=workdir) as scratch:
            np.save(Path(scratch, "images.npy"), dataset.test_images)
            _logger.info("export: reads every file again in a fresh process")
            meta["checks"] = checks.check(temporary, Path(scratch), batch_size, expected, weights)
        write_json(temporary / "meta.json", meta)
        (temporary / "README.md").write_text(card.model_card(meta, genotype), encoding="utf-8")
        files = sorted(os.listdir(temporary))
        _replace(output, temporary)
    except OSError as error:
        raise UserError(
            f"The export cannot be written to {output}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"test accuracy {100 * meta['test']['accuracy']:.2f}%")
    print(f"written to {output}: {', '.join(files)}")
    return meta


def _tidy(output: Path) -> None:
    """Removes what an export to `output` that was killed has left beside it.

    If it was killed while the earlier export stood aside, that takes its place again.
    """
    for path in output.parent.glob(f".{glob.escape(output.name)}.*"):
        *_, pid, kind = path.name.split(".")
        if not pid.isdecimal() or kind not in ("tmp", "old") or Path("/proc", pid).exists():
            continue
        if kind == "old" and not output.exists():
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _check_output(output: Path) -> None:
    """Checks that `output` is absent, an empty folder or an earlier export.

    Raises:
        UserError: it is anything else.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"config.output is {output}, which is a file: name a folder.")
    found = set(os.listdir(output))
    strange = sorted(found - set(FILES))
    if strange or (found and "meta.json" not in found):
        raise UserError(
            f"config.output is {output}, which is not an earlier export: it holds "
            f"{(strange or sorted(found))[0]!r}. Name another folder, or empty this one."
        )


def _describe(settings: ConfigDict, genotype: Genotype, dataset: Dataset, accuracy: float) -> dict:
    """Returns the content of `meta.json`, without the checks."""
    cost = train.cost(settings, genotype, dataset)
    kind, _, path = dataset.name.partition(":")
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
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
        "test_checksum": facts.of_images(dataset)["test_checksum"],
        "parameters": cost.params,
        "macs": cost.macs,
        "versions": {name: _version(name) for name in ("ddarts_jax", "jax", "jaxlib", "flax")}
        | {"python": platform.python_version()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # this package, run from its sources


def _replace(output: Path, new: Path) -> None:
    """Moves the folder `new` to `output`, which it replaces."""
    if not output.exists():
        os.rename(new, output)
        return
    old = new.with_suffix(".old")
    os.rename(output, old)
    try:
        os.rename(new, output)
    except BaseException:
        os.rename(old, output)
        raise
    shutil.rmtree(old)

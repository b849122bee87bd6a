"""The task itself: writes genotype and weights as other tasks read them."""

import dataclasses
import logging
import shlex
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_entry, write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.models import supernet
from ddarts_jax.models.weights import save_network
from ddarts_jax.reports import report
from ddarts_jax.runs import layout
from ddarts_jax.tasks.importing.conversion import Imported, load_torch

_logger = logging.getLogger(__name__)

_IMPORT = "import.json"

# What the authors' networks of so many classes learnt.
_DATA = {10: "cifar10", 100: "cifar100", 1000: "imagenet2012"}


def run(config: ConfigDict, workdir: Path) -> dict:
    """Imports the genotype `config.genotype` and the weights `config.checkpoint` of its network.

    Writes `genotype.json` and `import.json`, and with weights what makes the workdir that of a training:
    `network.npz`, `network_genotype.json`, `config.json`, `dataset.json`. Prints what was found and the
    command that goes on.

    Args:
        config: see `configuration.import_config`; an empty checkpoint means none.
        workdir: an existing folder.

    Returns:
        The content of `import.json`.

    Raises:
        UserError: see `find_genotype` and `load_torch`; or the checkpoint contains a supernet, the
            network cannot have `config.reductions`, or the workdir holds another import.
    """
    genotype = _genotype(config)
    summary = {"genotype": config.genotype, "checkpoint": config.checkpoint}
    _check_free(workdir, config.checkpoint)
    if config.checkpoint:
        imported = load_torch(config.checkpoint, genotype, stem=config.stem)
        if isinstance(imported.net, supernet.Supernet):
            raise UserError(
                f"checkpoint {config.checkpoint} contains a search supernet, which no task can "
                f"continue: give the weights of a derived network"
            )
        weights = imported.variables.weights
        counted = [weights[part] for part in weights if part != "auxiliary"]
        summary |= {
            "channels": imported.channels,
            "num_classes": imported.num_classes,
            "stem": imported.stem,
            "auxiliary": imported.auxiliary,
            "params": sum(leaf.size for leaf in jax.tree.leaves(counted)),
            "used": len(imported.used),
            "unused": list(imported.unused),
        }
        _make_run(workdir, imported, genotype)
    genotype.save(workdir / layout.GENOTYPE)
    write_json(workdir / _IMPORT, summary)

    print(f"genotype of {genotype.num_cells} cells, reductions {list(genotype.reductions)}")
    if config.checkpoint:
        other = [name for name in imported.unused if not name.endswith(".num_batches_tracked")]
        print(
            f"weights: {summary['params']:,} parameters, {imported.channels} channels, "
            f"stem {imported.stem!r}, {imported.num_classes} classes, "
            f"{'an' if imported.auxiliary else 'no'} auxiliary head\n"
            f"tensors: {len(imported.used)} used, {len(imported.unused)} unused, of which "
            f"{len(imported.unused) - len(other)} are num_batches_tracked"
            + "".join(f"\n  unused: {name}" for name in other)
        )
    print(_command(config, workdir, summary))
    if config.checkpoint:
        report.Live(workdir).close()
    return summary


def _check_free(workdir: Path, checkpoint: str) -> None:
    """Refuses a workdir with other weights, whose evaluations would stay beside the new network."""
    there = read_entry(workdir / _IMPORT, "checkpoint", "Import")
    if there and there != checkpoint:
        raise UserError(f"{workdir} holds the import of {there}: name another --workdir.")


def _make_run(workdir: Path, imported: Imported, genotype: Genotype) -> None:
    """Writes what makes the workdir that of a trained network: config, facts, genotype, weights.

    The file of weights tells neither the size of the images nor class names, mean and deviation: these
    facts are null until the first evaluation, whose data complete them.
    """
    config = configuration.default_config()
    config.task = "train"
    config.data.name = _DATA.get(imported.num_classes, "")
    config.train.channels = imported.channels
    config.train.stem = imported.stem
    if imported.stem != "plain":
        config.data.image_size, config.data.stream = 224, True
    config.train.auxiliary_weight *= imported.auxiliary
    configuration.save(config, workdir / layout.CONFIG)
    unknown = ("name", "class_names", "mean", "std", "crop", "white", "num_train", "num_test")
    facts = dict.fromkeys(unknown)
    facts |= {
        "num_classes": imported.num_classes,
        "image_shape": [None, None, imported.image_channels],
    }
    write_json(workdir / layout.DATASET, facts)
    genotype.save(workdir / layout.NETWORK_GENOTYPE)
    save_network(workdir / layout.NETWORK, imported.variables)


def _command(config: ConfigDict, workdir: Path, summary: dict) -> str:
    """Returns the lines that say how to go on."""
    if config.checkpoint:
        data = _DATA.get(summary["num_classes"], "NAME")
        aim, file = "evaluate it", workdir / layout.CONFIG
        flags = [f"--workdir={workdir}", "--config.task=evaluate", f"--config.data.name={data}"]
    else:
        aim, file = "train its network", "configs/cifar10_train.py"
        flags = [f"--config.genotype={workdir / layout.GENOTYPE}"]
    command = ["python", "-m", "ddarts_jax.main", "--config", str(file), *flags]
    return f"to {aim}:\n  {shlex.join(command)}"


def _genotype(config: ConfigDict) -> Genotype:
    """Returns the genotype with its reduction cells replaced, or warns of those of the authors' text."""
    genotype = find_genotype(config.genotype)
    if config.reductions:
        try:
            return dataclasses.replace(genotype, reductions=tuple(config.reductions))
        except UserError as error:
            raise UserError(
                f"config.reductions is {config.reductions}, but the genotype has the cells 0 to "
                f"{genotype.num_cells - 1}: {error}"
            ) from error
    # Weights fit the reductions that their network has had, so they are not in doubt.
    in_doubt = Path(config.genotype).suffix != ".json" and not config.checkpoint
    if in_doubt and genotype.num_cells == 8 and genotype.reductions == (2, 6):
        _logger.warning(
            "%s says reductions=[2, 6], as the authors' files of 8 cells do, but their search had its "
            "reduction cells at 2 and 5, with which the parameters are those of their article: "
            "--config.reductions=2,5 imports that network.",
            config.genotype,
        )
    return genotype

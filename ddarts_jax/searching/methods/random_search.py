"""Random search, the baseline that every architecture search must beat, at the cost of a search.

Random probabilities are parsed by the same rule as searched ones. Each of several such networks trains on
the weight split for its share of the search's epochs, and the one with the best accuracy on the
architecture split is the result.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from ddarts_jax.data.dataset import Dataset
from ddarts_jax.data.stream import Streamed
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import save_array
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import Genotype, num_edges, reduction_positions
from ddarts_jax.genotypes.spaces import primitives_of
from ddarts_jax.runs import facts, identity, layout, metrics
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.searching.method import Method
from ddarts_jax.training import train
from ddarts_jax.training.evaluate import evaluate_dataset

_logger = logging.getLogger(__name__)
_DRAWS = 1000


def draw(config, dataset, rng: np.random.Generator) -> tuple[np.ndarray, Genotype]:
    """Draws probabilities [cells, E, O] from 0 to 1 whose genotype is a network.

    Raises:
        UserError: every draw gave a network that is not valid.
    """
    settings = config.search
    primitives = primitives_of(settings.space)
    shape = settings.num_cells, num_edges(settings.num_nodes), len(primitives)
    reductions = reduction_positions(settings.num_cells)
    for _ in range(_DRAWS):
        probabilities = rng.uniform(size=shape)
        genotype = derivation.by_rule(config.parse, probabilities, primitives, reductions)
        try:
            train.cost(config, genotype, dataset)
        except UserError:
            continue  # a cell without primitives
        return probabilities, genotype
    raise UserError(
        f"None of {_DRAWS} random architectures is a valid network at "
        f"config.parse.threshold={config.parse.threshold}: lower it."
    )


def between_halves(dataset, seed: int):
    """The data set that trains on the weight split and is tested on the architecture split."""
    weights, alphas = dataset.halves(seed)
    if isinstance(dataset, Streamed):
        return dataclasses.replace(dataset, train=weights, test=alphas)
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[weights],
        train_labels=dataset.train_labels[weights],
        test_images=dataset.train_images[alphas],
        test_labels=dataset.train_labels[alphas],
    )


def _identity(config, dataset) -> dict:
    """The settings that identify the candidates: how they are drawn, and how each is trained."""
    whole = config.to_dict()
    # These apply to the resulting network, which is trained afterwards.
    del whole["train"]["epochs"], whole["train"]["num_cells"]
    parts = {part: whole[part] for part in ("parse", "train")}
    return identity.defining(config, "search", dataset.num_train) | parts


def run(config, dataset: Dataset, workdir: Path, writer: MetricsWriter, dtype) -> Genotype:
    """Searches at random; continues an interrupted search in the same workdir.

    Writes `config.json`, `genotype.json`, `alphas.npy` (the logits of its probabilities, float32
    [cells, E, O]), and the files of `train.run` for each candidate in `candidates/<number>`.

    Args:
        config: the whole config; `search.random.candidates` is the number of candidates, which share
            `search.epochs`.
        dataset: images.
        workdir: an existing folder.
        writer: writer of the metrics, one row per candidate.
        dtype: compute dtype.

    Returns:
        The genotype of the best candidate.

    Raises:
        UserError: see `draw`; there are too few epochs for the candidates; or the workdir contains
            candidates of another config.
    """
    count = config.search.random.candidates
    shortened = config.copy_and_resolve_references()
    shortened.train.epochs = config.search.epochs // count
    if not shortened.train.epochs:
        raise UserError(
            f"config.search.random.candidates={count} candidates cannot share "
            f"config.search.epochs={config.search.epochs}: use fewer candidates, or more epochs."
        )
    if shortened.train.warmup_epochs >= shortened.train.epochs:
        raise UserError(
            f"config.search.epochs={config.search.epochs} give each of "
            f"config.search.random.candidates={count} candidates {shortened.train.epochs}, no more than "
            f"config.train.warmup_epochs={config.train.warmup_epochs}: use more epochs, or a shorter "
            f"warm-up."
        )
    owner = workdir / "candidates" / layout.CONFIG
    processes.from_main(
        lambda: identity.claim(
            *(owner, _identity(config, dataset), "candidates"),
            empty=not identity.begun(workdir, "search"),
        )
    )
    facts.keep(workdir, config, dataset, "search")
    rng = np.random.default_rng(config.seed)
    halves = between_halves(dataset, config.seed)
    writer.rewind("random", 1)
    best = None
    for number in range(1, count + 1):
        probabilities, genotype = draw(config, dataset, rng)
        directory = workdir / "candidates" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        own = MetricsWriter(directory)
        try:
            net, variables = train.run(shortened, genotype, halves, directory, own, dtype)
        finally:
            own.close()
        tested = evaluate_dataset(net, variables, halves, config.data.batch_size, dtype)
        epochs = metrics.read(directory / layout.METRICS)  # of all starts of this candidate
        record = {
            "accuracy": tested["accuracy"],
            "loss": tested["loss"],
            "seconds": sum(row["seconds"] for row in epochs),
        }
        writer.write("random", number, record)
        _logger.info("search: candidate %d of %d: %.4f", number, count, tested["accuracy"])
        if best is None or tested["accuracy"] > best[0]:
            best = tested["accuracy"], probabilities, genotype
    _, probabilities, genotype = best
    logits = np.log(probabilities / (1 - probabilities)).astype(np.float32)
    save_array(workdir / layout.ALPHAS, logits)
    genotype.save(workdir / layout.GENOTYPE)
    return genotype


METHOD = Method(None, run=run)

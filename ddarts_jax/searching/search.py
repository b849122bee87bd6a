"""The search: a supernet, bilevel steps, and the genotype that its alphas settle on.

A search may start from a handcrafted network instead of random alphas (DARTOpti): its genotype, encoded
as alphas, is fixed in the first epochs while the weights settle; the search ends early when its
distance to the start no longer changes.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.configuration import default_config, options_of
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.data.stream import Streamed
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, save_array, write_json
from ddarts_jax.genotypes import derivation, distance
from ddarts_jax.genotypes.genotype import Genotype, existing_nodes
from ddarts_jax.genotypes.spaces import primitives_of
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.runs import layout, metrics
from ddarts_jax.searching import (
    budget,
    discretisation,
    early_stop,
    methods,
    outline,
    perturbation,
    stages,
)
from ddarts_jax.training import optim, phase, schedule

_logger = logging.getLogger(__name__)

# Options of any method that say how alphas become gates.
_OF_RELAXATION = (
    *("none", "auxiliary_skip", "partial_channels"),
    *("temperature", "final_temperature", "first_noise", "noise"),
)
_FEW_STEPS = 100  # fewer than any search that has been seen to decide


def search_step(
    net: Supernet,
    settings,
    total_steps: int,
    fixed_steps: int = 0,
    alpha_loss: Callable | None = None,
    epochs: int = 1,
    budgets: tuple = (),
):
    """Builds the step of the method named in `settings`; see `bilevel.make_step`."""
    method = methods.find(settings.method)
    return method.make_step(
        *(method, net, settings, total_steps, fixed_steps, alpha_loss),
        epochs=epochs,
        budgets=budgets,
    )


def build(
    config,
    dataset: Dataset | Streamed,
    dtype,
    start: Genotype | None = None,
    stage: stages.Stage | None = None,
) -> tuple[Supernet, Variables, jax.Array]:
    """Builds the supernet that the config asks for, with random weights.

    Args:
        config: the whole config.
        dataset: images.
        dtype: compute dtype.
        start: the network that defines the supernet's cells, their sequence and the alphas; None:
            random alphas near 0.
        stage: of a search in stages; None: the last one, with all candidates.

    Returns:
        The structure, its variables and the alphas.
    """
    settings = config.search
    stage = stage or stages.Stage(settings.num_cells)
    extra = 0 if start is None else settings.start.epochs  # before those of the search
    weights_key, alphas_key = jax.random.split(jax.random.key(config.seed))
    net, variables = supernet.build(
        **outline.structure(settings, stage.num_cells, start),
        channels=settings.channels,
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        primitives=primitives_of(settings.space),
        stem=settings.stem,
        stem_multiplier=settings.stem_multiplier,
        unroll=settings.unroll,
        remat=settings.remat,
        relaxation=stage.relaxation or methods.find(settings.method).relaxation,
        **mixing(settings, stage.topology),
        kept=stage.kept,
        skip_dropout=stage.skip_dropout,
        epochs=(extra + settings.warmup_epochs, extra + settings.epochs),
        key=weights_key,
    )
    if start is None:
        alphas = net.relaxation.initial(alphas_key, net.alphas_shape)
    else:
        alphas = net.relaxation.encode(start, settings.start.strength)
    return net, *optim.at_least_float32((variables, alphas), dtype)


def mixing(settings, topology: str = "") -> dict:
    """What the options of the chosen method say of how alphas become gates; see `Relaxation`.

    Args:
        settings: section `search` of the config.
        topology: that of a stage; empty: that of the options.
    """
    options = options_of(settings)
    found = {name: options[name] for name in _OF_RELAXATION if name in options}
    edges = "edges" if options.get("edge_strengths") else "all"
    return found | {"topology": topology or ("pairs" if options.get("pairs") else edges)}


def derive(alphas, net: Supernet, settings) -> Genotype:
    """Parses alphas [cells, E, columns] by the config's `parse` section."""
    rule = net.relaxation
    strengths = rule.strengths(jnp.asarray(alphas)) if rule.topology == "edges" else None
    betas = np.concatenate(rule.betas(np.asarray(alphas)), -1) if rule.topology == "pairs" else None
    return derivation.by_rule(
        *(settings, _probabilities(alphas, net), rule.primitives, net.reductions, net.sharing),
        strengths=jax.device_get(strengths),
        betas=betas,
    )


def _probabilities(alphas, net: Supernet) -> np.ndarray:
    """The shares of the primitives, [distinct cells, E, O], `derivation.DROPPED` where one is gone."""
    shares = np.asarray(net.relaxation.probabilities(jnp.asarray(alphas)))
    kept = net.relaxation.kept_primitives
    return shares if kept is None else np.where(kept, shares, derivation.DROPPED)


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        genotype: the architecture.
        alphas: float32 [distinct cells, E, columns].
        supernet: its structure; None after a search without one.
        variables: its weights and statistics; None likewise.
    """

    genotype: Genotype
    alphas: np.ndarray
    supernet: Supernet | None = None
    variables: Variables | None = None


def run(
    config,
    dataset: Dataset | Streamed,
    workdir: Path,
    writer: metrics.MetricsWriter,
    dtype,
    start: Genotype | None = None,
    *,
    alpha_loss: Callable | None = None,
) -> Found:
    """Searches by `config.search.method`; continues an interrupted search in the same workdir.

    Writes `config.json`, `alphas.npy` (float32 [cells, E, columns]), `genotype.json`, both for every
    epoch in `alphas/` and `genotypes/`, checkpoints in `checkpoints/search/`; with a start also
    `start_genotype.json`, the starting alphas parsed like the result, to which distances refer; with a
    selection by perturbation `removals.npy`. In a search in stages these are the last one's; the same
    files of the others are in `stages/<number>`.

    Args:
        config: the whole config.
        dataset: images.
        workdir: an existing folder.
        writer: writer of the metrics.
        dtype: compute dtype.
        start: see `build`.
        alpha_loss: see `bilevel.make_step`.

    Raises:
        UserError: the settings do not fit the data, the method or each other; or see `loop.run`.
        Stopped: a signal ended the run; the state is saved.
    """
    settings = config.search
    method = methods.find(settings.method)
    phase.check("search", config, dataset, workdir)
    if method.run is not None:
        if alpha_loss is not None:
            raise UserError(f"Search method {settings.method!r} has no alphas, so no alpha_loss.")
        genotype = method.run(config, dataset, workdir, writer, dtype)
        return Found(genotype, np.load(workdir / layout.ALPHAS))

    def run_stage(stage, workdir, writer):
        own = stage.of(config)
        return _run(own, dataset, workdir, writer, dtype, start, alpha_loss, stage)

    plan = method.stages(settings)
    last = stages.run_earlier(plan, outline.shared(settings), workdir, run_stage)
    return run_stage(last, workdir, writer)


def _run(
    config,
    dataset: Dataset | Streamed,
    workdir: Path,
    writer,
    dtype,
    start,
    alpha_loss,
    stage: stages.Stage,
) -> Found:
    """Runs one stage of a search, in most searches the only one; see `run`."""
    settings = config.search
    splits = (dataset.train,) if stage.one_level else dataset.halves(config.seed)
    extra_epochs = 0 if start is None else settings.start.epochs
    fixed_epochs = extra_epochs + settings.warmup_epochs
    epochs = extra_epochs + settings.epochs
    plan = schedule.schedule(
        min(map(len, splits)), config.data.batch_size, epochs, config.chunk_steps
    )
    net, variables, alphas = build(config, dataset, dtype, start, stage)
    _tell_sizes(settings, net, variables, alphas, plan, splits, fixed_epochs)
    budgets = budget.of(config, net, dataset)
    init, step = search_step(
        *(net, settings, plan.total, fixed_epochs * plan.epoch, alpha_loss, epochs, budgets)
    )
    identity, origin = {}, None
    if stage.kept is not None:  # the candidates that earlier stages have left
        identity["kept"] = stage.kept
    if budgets:  # which follow from the network that is trained, too
        identity["budget"] = budget.identity(budgets)
    if start is not None:
        # The distances, and so the early stop, depend on both.
        identity |= {"start": start.to_dict(), "parse": config.parse.to_dict()}
        origin = _origin(alphas, net, config)
    count = settings.gap_images
    measure_gap = count and discretisation.make_measure(
        net, dataset, splits[-1], count, plan.batch_size, dtype
    )
    state = phase.run_phase(
        *("search", config, dataset, splits, plan),
        *(init(variables, alphas), step, dtype, workdir, writer),
        make_end_epoch(net, config, workdir, origin, measure_gap),
        identity=identity,
        stop=lambda epoch: (
            origin and early_stop.reason(workdir, epoch, fixed_epochs, settings.stop)
        ),
    )
    alphas = np.asarray(state.alphas, np.float32)
    processes.from_main(lambda: _tell_other_parsing(workdir, config.parse))
    save_array(workdir / layout.ALPHAS, alphas)
    if origin is not None:
        origin.save(workdir / layout.START_GENOTYPE)
    added = _removals(net, state, config, dataset, splits[-1], plan, dtype, workdir)
    genotype = _result(alphas, net, config.parse, budgets, added)
    genotype.save(workdir / layout.GENOTYPE)
    return Found(genotype, alphas, net, state.variables)


def _tell_sizes(
    settings, net, variables, alphas, plan: schedule.Schedule, splits, fixed_epochs: int
) -> None:
    """Logs what is searched, and warns where small data fill too few batches."""
    _logger.info(
        "search: %s, %d cells (%d distinct) of %d nodes, %d channels, %d weights, %d alphas, batch %d, "
        "%s images, %d epochs of %d steps",
        *(settings.method, len(net.seq), len(alphas), net.num_nodes, settings.channels),
        sum(leaf.size for leaf in jax.tree.leaves(variables.weights)),
        *(alphas.size, plan.batch_size, " + ".join(str(len(split)) for split in splits)),
        *(plan.epochs, plan.epoch),
    )
    if fixed_epochs:
        _logger.info("search: alphas fixed in the first %d epochs", fixed_epochs)
    if plan.total < _FEW_STEPS and processes.is_main():
        _logger.warning(
            "search: only %d steps in all, in which the alphas can hardly decide: set more "
            "search.epochs or a smaller data.batch_size, or raise search.alphas.learning_rate",
            plan.total,
        )


def _removals(net, state, config, dataset, split, plan, dtype, workdir: Path) -> np.ndarray | None:
    """Measures and writes what each removal adds to the loss, if the selection depends on it."""
    if config.search.selection != "perturbation":
        return None
    _logger.info("search: measures what the removal of each primitive adds to the loss")
    count = config.search.gap_images
    losses = perturbation.make_losses(net, dataset, split, count, plan.batch_size, dtype)
    added = perturbation.removals(net, state.variables, state.alphas, losses)
    save_array(workdir / layout.REMOVALS, added)
    return added


def _result(
    alphas: np.ndarray,
    net: Supernet,
    settings,
    budgets: tuple = (),
    added: np.ndarray | None = None,
) -> Genotype:
    """Parses the last alphas, or what removals add, within the budgets.

    Args:
        alphas: float32 [cells, E, columns].
        net: the supernet.
        settings: section `parse` of the config.
        budgets: from `budget.of`.
        added: from `perturbation.removals`; None: the alphas decide.
    """
    most = settings.max_skips
    if added is not None:
        genotype = perturbation.select(net, added, most)
        # Not every removal adds to the loss, so scores may be negative, and all primitives may be kept.
        return budget.within(budgets, genotype, added[..., :-1], net.primitives, -np.inf, most)
    parsed = derive(alphas, net, settings)
    genotype = never_empty(parsed, alphas, net, settings)
    if filled := [cell for cell, kept in enumerate(parsed.genes) if genotype.genes[cell] != kept]:
        _logger.warning(
            "search: no primitive of cell %s reaches parse.threshold=%g, so each of its nodes keeps its "
            "two best ones, as by parse.method=darts; with more steps the alphas decide more",
            *(", ".join(map(str, filled)), settings.threshold),
        )
    threshold = settings.threshold if settings.method == "sparse" else 0.0
    return budget.within(
        *(budgets, genotype, _probabilities(alphas, net), net.primitives, threshold, most)
    )


def never_empty(genotype: Genotype, alphas, net: Supernet, settings) -> Genotype:
    """Gives cells that would keep nothing, and so be no cells, their best; arguments as for `derive`."""
    empty = [cell for cell, kept in enumerate(genotype.genes) if existing_nodes(kept) <= {0, 1}]
    if not empty:
        return genotype
    settings = settings.copy_and_resolve_references()
    settings.method = "darts"
    best = derive(alphas, net, settings).genes
    genes = [best[cell] if cell in empty else kept for cell, kept in enumerate(genotype.genes)]
    return dataclasses.replace(genotype, genes=genes)


def _origin(alphas, net: Supernet, config) -> Genotype:
    """Parses the starting alphas like the result.

    Raises:
        UserError: the parsing keeps none of the start's primitives.
    """
    origin = derive(alphas, net, config.parse)
    if not any(origin.genes):
        raise UserError(
            f"config.search.start.strength={config.search.start.strength} gives the primitives of the "
            f"start a probability below config.parse.threshold={config.parse.threshold}, so none "
            f"would be kept: raise the strength or lower the threshold."
        )
    return origin


def make_end_epoch(
    net: Supernet, config, workdir: Path, origin: Genotype | None, measure_gap: Callable | None
) -> Callable:
    """Builds the function that writes every epoch's architecture and returns its metrics.

    Args:
        net: the supernet.
        config: the whole config.
        workdir: an existing folder.
        origin: the genotype to which distances are measured; None: there is no start.
        measure_gap: see `discretisation.make_measure`; None: no gap is measured.

    Returns:
        `(epoch, state, means) -> metrics`, see `loop.run`.
    """
    for folder in ("genotypes", "alphas"):
        (workdir / folder).mkdir(exist_ok=True)

    def end_epoch(epoch, state, means):
        if epoch == 1:
            _describe(net, workdir, config)
        genotype = derive(state.alphas, net, config.parse)
        genotype.save(_genotype_file(workdir, epoch))
        alphas = np.asarray(state.alphas, np.float32)
        save_array(workdir / "alphas" / f"epoch_{epoch:04d}.npy", alphas)
        probabilities = _probabilities(state.alphas, net)
        left = probabilities[probabilities != derivation.DROPPED]
        record = means | {
            "learning_rate_weights": optim.weights_learning_rate(state.weights_optimizer),
            "learning_rate_alphas": optim.alphas_learning_rates(state.alphas_optimizer),
            "decided": np.mean((left > 0.9) | (left < 0.1)),
        }
        if measure_gap:
            whole = never_empty(genotype, state.alphas, net, config.parse)
            record |= measure_gap(state.variables, state.alphas, whole)
        before = _genotype_file(workdir, epoch - 1)
        if before.exists():
            last = Genotype.load(before)
            record["distance_to_last"] = distance.architecture_distance(genotype, last)
        if origin is not None:
            record["distance_to_start"] = distance.architecture_distance(genotype, origin)
            record["positional_distance_to_start"] = distance.positional_distance(genotype, origin)
        return record

    return end_epoch


def _describe(net: Supernet, workdir: Path, config) -> None:
    """Writes `supernet.json`: the axes of the alphas, their relaxation, the parsing of each epoch's."""
    names = ("primitives", "seq", "reductions", "num_nodes", "channels")
    found = {name: getattr(net, name) for name in names} | {
        "relaxation": net.relaxation.kind,
        "columns": net.relaxation.columns,
        "kept": net.relaxation.kept,
        "parse": config.parse.to_dict(),
    }
    write_json(workdir / layout.SUPERNET, found)


def _tell_other_parsing(workdir: Path, parse) -> None:
    """Warns if the epochs were parsed by another rule than the result, as `report` does too."""
    path = workdir / layout.SUPERNET
    found = read_json(path, "Description of the supernet") if path.is_file() else {}
    before = default_config().parse.to_dict() | found.get("parse", parse.to_dict())
    if before != parse.to_dict():
        _logger.warning(
            "search: only the result is parsed by %s; genotypes and discretisation gaps of the epochs "
            "that were searched before remain those of %s",
            *(parse.to_dict(), before),
        )


def _genotype_file(workdir: Path, epoch: int) -> Path:
    return workdir / "genotypes" / f"epoch_{epoch:04d}.json"

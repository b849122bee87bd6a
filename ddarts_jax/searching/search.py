"""The search: bilevel steps on a supernet, and the genotype that its alphas settle on.

One step moves the alphas on a batch of the architecture split, then the weights on a batch of the
weight split (first-order bilevel optimisation, DARTS section 2.3; D-DARTS section 3.2).

A search may start from a handcrafted network instead of from nothing (DARTOpti): its genotype, encoded
as alphas, stands still in the first epochs while the weights settle; the search ends early when its
distance to the start no longer changes.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.genotype import Genotype, encode, parse, reduction_positions
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.runs import metrics
from ddarts_jax.searching import accumulated, architect, discretisation
from ddarts_jax.training import loop, optim

_logger = logging.getLogger(__name__)


class SearchState(NamedTuple):
    """The whole state of a search.

    Attributes:
        step: int32 scalar, steps done.
        variables: the supernet's weights and BatchNorm statistics.
        alphas: float32 [distinct cells, E, O].
        weights_optimizer: SGD's state.
        alphas_optimizer: every cell's Adam, the cells on the leading axis of each leaf.
        leftover: see `accumulated`; else empty.
    """

    step: jax.Array
    variables: Variables
    alphas: jax.Array
    weights_optimizer: optax.OptState
    alphas_optimizer: optax.OptState
    leftover: jax.Array | tuple = ()


def search_step(net: Supernet, settings, total_steps: int, fixed_steps: int = 0):
    """Builds the bilevel step.

    Args:
        net: the supernet.
        settings: the config's `search` section.
        total_steps: over which the learning rates fall, those of the alphas from `fixed_steps` on.
        fixed_steps: at the beginning, in which the alphas and their optimizer stand still.

    Returns:
        `init(variables, alphas) -> SearchState`, and
        `step(state, key, weight_batch, architecture_batch) -> (state, metrics)`, where a batch is
        (images [B, H, W, C], labels [B]) and metrics are scalars or [cells].
    """
    weights_optimizer = optim.weights_optimizer(settings.weights, total_steps)
    alphas_optimizer = optim.alphas_optimizer(settings.alphas, total_steps - fixed_steps)

    def init(variables, alphas):
        return SearchState(
            jnp.zeros((), jnp.int32),
            variables,
            alphas,
            weights_optimizer.init(variables.weights),
            alphas_optimizer.init(alphas),
            jnp.zeros_like(alphas) if settings.accumulated_gradients else (),
        )

    if settings.accumulated_gradients:
        accumulating = accumulated.make_step(
            net, settings, weights_optimizer, alphas_optimizer, fixed_steps
        )
        return init, jax.jit(accumulating)

    def step(state: SearchState, key, weight_batch, architecture_batch):
        with jax.named_scope("architecture_step"):
            gradient, measured = architect.architecture_gradient(
                net, state.variables, state.alphas, *architecture_batch, settings, key
            )
            updates, alphas_state = alphas_optimizer.update(
                gradient, state.alphas_optimizer, state.alphas
            )
            alphas = optax.apply_updates(state.alphas, updates)
            alphas, alphas_state = optim.held(
                state.step,
                fixed_steps,
                (state.alphas, state.alphas_optimizer),
                (alphas, alphas_state),
            )

        with jax.named_scope("weight_step"):
            differentiate = jax.value_and_grad(supernet.weights_loss, has_aux=True)
            (loss, (statistics, accuracy)), gradient = differentiate(
                state.variables.weights, alphas, net, state.variables.statistics, *weight_batch
            )
            updates, weights_state = weights_optimizer.update(
                gradient, state.weights_optimizer, state.variables.weights
            )
            weights = optax.apply_updates(state.variables.weights, updates)

        measured |= {
            "weights_loss": loss,
            "weights_accuracy": accuracy,
            "gradient_norm_weights": optax.global_norm(gradient),
            "update_norm_weights": optax.global_norm(updates),
        }
        variables = Variables(weights, statistics)
        return SearchState(state.step + 1, variables, alphas, weights_state, alphas_state), measured

    # Jitted, so that it is traced once for its metrics' shapes and for the chunk.
    return init, jax.jit(step)


def build(
    config, dataset: Dataset, dtype, start: Genotype | None = None
) -> tuple[Supernet, Variables, jax.Array]:
    """Builds the supernet that the config asks for, with random weights.

    Args:
        config: the whole config.
        dataset: images.
        dtype: of the computation.
        start: None: random alphas near 0. Else the network that the supernet's cells, their sequence
            and the alphas are those of.

    Returns:
        The structure, its variables and the alphas.
    """
    settings = config.search
    weights_key, alphas_key = jax.random.split(jax.random.key(config.seed))
    if start is None:
        structure = {"num_cells": settings.num_cells, "num_nodes": settings.num_nodes}
        if settings.share_cells:
            reductions = reduction_positions(settings.num_cells)
            structure["seq"] = [int(p in reductions) for p in range(settings.num_cells)]
    else:
        structure = {
            "num_cells": start.num_cells,
            "num_nodes": start.num_nodes,
            "reductions": start.reductions,
            "seq": start.seq,
        }
    net, variables = supernet.build(
        **structure,
        channels=settings.channels,
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        primitives=SPACES[settings.space],
        stem=settings.stem,
        stem_multiplier=settings.stem_multiplier,
        unroll=settings.unroll,
        remat=settings.remat,
        relaxation=settings.relaxation,
        key=weights_key,
    )
    if start is None:
        alphas = 1e-3 * jax.random.normal(alphas_key, net.alphas_shape)
    else:
        alphas = encode(start, net.primitives, settings.start.strength)
    return net, *optim.at_least_float32((variables, alphas), dtype)


def derive(alphas, net: Supernet, settings) -> Genotype:
    """Parses alphas [cells, E, O] by the config's `parse` section."""
    seq = None if net.seq == tuple(range(len(net.seq))) else net.seq
    probabilities = jax.device_get(net.gates(jnp.asarray(alphas)))
    return parse(
        probabilities, net.primitives, settings.method, settings.threshold, net.reductions, seq
    )


def is_stable(distances, settings) -> bool:
    """Whether the distance to the start has settled (DARTOpti: the search can end).

    Args:
        distances: after each epoch in which alphas moved.
        settings: the config's `search.stop` section: the last `patience` changes are within
            `tolerance`, where the distance after epoch `from_epoch` is the first that counts.
    """
    changes = np.abs(np.diff(distances[settings.from_epoch - 1 :]))[-settings.patience :]
    enough = len(changes) == settings.patience > 0
    # Distances are sums of rounded quotients: a change of just the tolerance may come out above it.
    return enough and bool((changes <= settings.tolerance + 1e-9).all())


def _genotype_file(workdir: Path, epoch: int) -> Path:
    return workdir / "genotypes" / f"epoch_{epoch:04d}.json"


def run(
    config,
    dataset: Dataset,
    workdir: Path,
    writer: metrics.MetricsWriter,
    dtype,
    start: Genotype | None = None,
) -> Genotype:
    """Searches; continues an interrupted search in the same workdir.

    Writes `config.json`, `alphas.npy` (float32 [cells, E, O]), `genotype.json`, both for every epoch in
    `alphas/` and `genotypes/`, checkpoints in `checkpoints/search/`; with a start also
    `start_genotype.json`, the starting alphas parsed as the result is. Distances are to that.

    Args:
        config: the whole config.
        dataset: images.
        workdir: exists.
        writer: of the metrics.
        dtype: of the computation.
        start: see `build`.

    Returns:
        The genotype.
    """
    settings = config.search
    splits = dataset.halves(config.seed)
    fixed_epochs = 0 if start is None else settings.start.epochs
    plan = loop.schedule(
        min(map(len, splits)),
        config.data.batch_size,
        fixed_epochs + settings.epochs,
        config.chunk_steps,
    )
    net, variables, alphas = build(config, dataset, dtype, start)
    _logger.info(
        "search: %d cells (%d distinct) of %d nodes, %d channels, %d weights, %d alphas, batch %d, "
        "%d + %d images, %d epochs of %d steps",
        *(len(net.seq), len(alphas), net.num_nodes, settings.channels),
        sum(leaf.size for leaf in jax.tree.leaves(variables.weights)),
        *(alphas.size, plan.batch_size, *map(len, splits), plan.epochs, plan.epoch),
    )
    if len(alphas) == 1 and settings.ablation.weight:
        _logger.info("search: a single distinct cell contributes the mean: its ablation loss is 0")
    init, step = search_step(net, settings, plan.total, fixed_epochs * plan.epoch)

    identity = {}
    if start is not None:
        _logger.info("search: alphas fixed in the first %d epochs", fixed_epochs)
        identity["start"] = start.to_dict()
        # The distances, so the early stop, depend on it.
        identity["parse"] = config.parse.to_dict()
        origin = derive(alphas, net, config.parse)
        if not any(origin.genes):
            raise UserError(
                f"config.search.start.strength={settings.start.strength} gives the primitives of the "
                f"start a probability below config.parse.threshold={config.parse.threshold}, so none "
                f"would be kept: raise the strength or lower the threshold."
            )
    for folder in ("genotypes", "alphas"):
        (workdir / folder).mkdir(exist_ok=True)
    measure_gap = None
    if settings.gap_images:
        measure_gap = discretisation.make_measure(
            net, dataset, splits[1], settings.gap_images, plan.batch_size, dtype
        )

    def end_epoch(epoch, state, means):
        genotype = derive(state.alphas, net, config.parse)
        genotype.save(_genotype_file(workdir, epoch))
        np.save(workdir / "alphas" / f"epoch_{epoch:04d}.npy", np.asarray(state.alphas, np.float32))
        probabilities = net.gates(state.alphas)
        record = means | {
            "learning_rate_weights": optim.weights_learning_rate(state.weights_optimizer),
            "learning_rate_alphas": optim.alphas_learning_rates(state.alphas_optimizer),
            "decided": jnp.mean((probabilities > 0.9) | (probabilities < 0.1)),
        }
        if measure_gap:
            record |= measure_gap(state.variables, state.alphas, genotype)
        before = _genotype_file(workdir, epoch - 1)
        if before.exists():
            last = Genotype.load(before)
            record["distance_to_last"] = distance.architecture_distance(genotype, last)
        if start is not None:
            record["distance_to_start"] = distance.architecture_distance(genotype, origin)
            record["positional_distance_to_start"] = distance.positional_distance(genotype, origin)
        return record

    def stop(epoch):
        if start is None:
            return None
        rows = metrics.read(workdir / "metrics.jsonl")
        distances = [
            row["distance_to_start"]
            for row in rows
            if row["phase"] == "search"
            and fixed_epochs < row["epoch"] <= epoch
            and "distance_to_start" in row
        ]
        if is_stable(distances, settings.stop):
            return (
                f"stops early after epoch {epoch}: the distance to the start, {distances[-1]:.4f}, "
                f"has been stable for {settings.stop.patience} epochs"
            )
        return None

    state = loop.run_phase(
        *("search", config, dataset, splits, plan),
        *(init(variables, alphas), step, dtype, workdir, writer, end_epoch),
        identity=identity,
        stop=stop,
    )
    alphas = np.asarray(state.alphas, np.float32)
    np.save(workdir / "alphas.npy", alphas)
    if start is not None:
        origin.save(workdir / "start_genotype.json")
    genotype = derive(alphas, net, config.parse)
    genotype.save(workdir / "genotype.json")
    return genotype

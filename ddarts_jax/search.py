"""The search: bilevel steps on a supernet, and the genotype that its alphas settle on.

One step moves the alphas on a batch of the architecture split, then the weights on a batch of the
weight split (first-order bilevel optimisation, DARTS section 2.3; D-DARTS section 3.2).
"""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddarts_jax import architect, loop, optim, sharding, supernet
from ddarts_jax import config as configuration
from ddarts_jax.checkpoint import Checkpoints
from ddarts_jax.data import Dataset, stratified_halves
from ddarts_jax.genotype import Genotype, parse
from ddarts_jax.losses import cross_entropy
from ddarts_jax.metrics import MetricsWriter
from ddarts_jax.supernet import Supernet, Variables

_logger = logging.getLogger(__name__)


class SearchState(NamedTuple):
    """The whole state of a search.

    Attributes:
        step: int32 scalar, steps done.
        variables: the supernet's weights and BatchNorm statistics.
        alphas: float32 [distinct cells, E, O].
        weights_optimizer: SGD's state.
        alphas_optimizer: every cell's Adam, the cells on the leading axis of each leaf.
    """

    step: jax.Array
    variables: Variables
    alphas: jax.Array
    weights_optimizer: optax.OptState
    alphas_optimizer: optax.OptState


def search_step(net: Supernet, settings, total_steps: int):
    """Builds the bilevel step.

    Args:
        net: the supernet.
        settings: the config's `search` section.
        total_steps: over which the learning rates fall.

    Returns:
        `init(variables, alphas) -> SearchState`, and
        `step(state, key, weight_batch, architecture_batch) -> (state, metrics)`, where a batch is
        (images [B, H, W, C], labels [B]) and metrics are scalars or [cells].
    """
    weights_optimizer = optim.weights_optimizer(settings.weights, total_steps)
    alphas_optimizer = optim.alphas_optimizer(settings.alphas, total_steps)

    def init(variables, alphas):
        return SearchState(
            jnp.zeros((), jnp.int32),
            variables,
            alphas,
            weights_optimizer.init(variables.weights),
            alphas_optimizer.init(alphas),
        )

    def step(state: SearchState, key, weight_batch, architecture_batch):
        with jax.named_scope("architecture_step"):
            gradient, measured = architect.architecture_gradient(
                net, state.variables, state.alphas, *architecture_batch, settings, key
            )
            updates, alphas_state = alphas_optimizer.update(
                gradient, state.alphas_optimizer, state.alphas
            )
            alphas = optax.apply_updates(state.alphas, updates)

        with jax.named_scope("weight_step"):
            images, labels = weight_batch

            def loss_of(weights):
                variables = Variables(weights, state.variables.statistics)
                gates = jax.nn.sigmoid(alphas)
                logits, _, statistics = supernet.forward(net, variables, gates, images, True)
                accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
                return cross_entropy(logits, labels), (statistics, accuracy)

            (loss, (statistics, accuracy)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                state.variables.weights
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


def build(config, dataset: Dataset, dtype) -> tuple[Supernet, Variables, jax.Array]:
    """Builds the supernet that the config asks for, with random weights and alphas near 0."""
    settings = config.search
    weights_key, alphas_key = jax.random.split(jax.random.key(config.seed))
    net, variables = supernet.build(
        num_cells=settings.num_cells,
        num_nodes=settings.num_nodes,
        channels=settings.channels,
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        stem_multiplier=settings.stem_multiplier,
        unroll=settings.unroll,
        key=weights_key,
    )
    alphas = 1e-3 * jax.random.normal(alphas_key, net.alphas_shape)
    return net, *optim.at_least_float32((variables, alphas), dtype)


def derive(alphas, net: Supernet, settings) -> Genotype:
    """Parses alphas [cells, E, O] by the config's `parse` section."""
    seq = None if net.seq == tuple(range(len(net.seq))) else net.seq
    probabilities = jax.device_get(jax.nn.sigmoid(jnp.asarray(alphas)))
    return parse(
        probabilities, net.primitives, settings.method, settings.threshold, net.reductions, seq
    )


def run(config, dataset: Dataset, workdir: Path, writer: MetricsWriter, dtype) -> Genotype:
    """Searches; continues an interrupted search in the same workdir.

    Writes `config.json`, `alphas.npy` (float32 [cells, E, O]), `genotype.json`, a genotype for every
    epoch in `genotypes/`, checkpoints in `checkpoints/search/`.

    Args:
        config: the whole config.
        dataset: images.
        workdir: exists.
        writer: of the metrics.
        dtype: of the computation.

    Returns:
        The genotype.
    """
    settings = config.search
    weight_split, architecture_split = stratified_halves(dataset.train_labels, config.seed)
    plan = loop.schedule(
        min(len(weight_split), len(architecture_split)),
        config.data.batch_size,
        settings.epochs,
        config.chunk_steps,
    )
    mesh = sharding.data_mesh(config.data.batch_size)
    data = loop.on_device(dataset, (weight_split, architecture_split), mesh)

    net, variables, alphas = build(config, dataset, dtype)
    _logger.info(
        "search: %d cells of %d nodes, %d channels, %d weights, %d alphas, batch %d, "
        "%d + %d images, %d epochs of %d steps",
        *(settings.num_cells, settings.num_nodes, settings.channels),
        sum(leaf.size for leaf in jax.tree.leaves(variables.weights)),
        *(alphas.size, plan.batch_size, len(weight_split), len(architecture_split)),
        *(plan.epochs, plan.epoch),
    )
    init, step = search_step(net, settings, plan.total)
    running = loop.start(init(variables, alphas), step, data, plan, dtype, mesh)
    chunk = loop.make_chunk(step, plan, config.seed, settings.augment, dtype, mesh)

    genotypes = workdir / "genotypes"
    genotypes.mkdir(exist_ok=True)

    def end_epoch(epoch, state, means):
        derive(state.alphas, net, config.parse).save(genotypes / f"epoch_{epoch:04d}.json")
        probabilities = jax.nn.sigmoid(state.alphas)
        return means | {
            "learning_rate_weights": optim.weights_learning_rate(state.weights_optimizer),
            "learning_rate_alphas": optim.alphas_learning_rates(state.alphas_optimizer),
            "decided": jnp.mean((probabilities > 0.9) | (probabilities < 0.1)),
        }

    identity = configuration.defining(config, "search", len(dataset.train_labels))
    with Checkpoints(
        workdir / "checkpoints" / "search", identity, config.checkpoint.keep_last
    ) as kept:
        configuration.save(config, workdir / "config.json")  # unless the workdir is another run's
        state = loop.run(
            "search",
            running,
            chunk,
            data,
            plan,
            kept,
            writer,
            config.checkpoint.every_minutes,
            end_epoch,
        )
    alphas = np.asarray(state.alphas, np.float32)
    np.save(workdir / "alphas.npy", alphas)
    genotype = derive(alphas, net, config.parse)
    genotype.save(workdir / "genotype.json")
    return genotype

"""Training of a derived network from scratch, with the recipe of DARTS (section 3.1.2)."""

import logging
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ddarts_jax.data import augment
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.data.stream import Streamed
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import cost as costs
from ddarts_jax.models import network
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.cost import Cost
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.models.weights import load_start, save_network
from ddarts_jax.runs import layout
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.training import evaluate, optim, phase, schedule

_logger = logging.getLogger(__name__)


class TrainState(NamedTuple):
    """The whole state of a training.

    Attributes:
        step: int32 scalar, steps done.
        variables: the network's weights and BatchNorm statistics.
        optimizer: SGD's state.
        average: moving average of `variables`; empty without `train.average`.
    """

    step: jax.Array
    variables: Variables
    optimizer: optax.OptState
    average: Variables | tuple[()]

    @property
    def evaluated(self) -> Variables:
        """The variables that are evaluated and kept as the result."""
        return self.average or self.variables


def drop_path_at(step, settings, plan: schedule.Schedule):
    """Probability of drop path at a step: rises from 0 in the first epoch by equal amounts per epoch."""
    return settings.drop_path * (step // plan.epoch) / plan.epochs


def train_step(net: Network, settings, plan: schedule.Schedule):
    """Builds the training step.

    Args:
        net: the derived network.
        settings: the config's `train` section.
        plan: steps and epochs, over which the learning rate falls and drop path rises.

    Returns:
        `init(variables) -> TrainState` and `step(state, key, batch) -> (state, metrics)`, where a
        batch is (images [B, H, W, C], labels [B]) and metrics are scalars.
    """
    warmup_steps = settings.warmup_epochs * plan.epoch
    optimizer = optim.weights_optimizer(settings, plan.total, warmup_steps)
    parts = settings.accumulate

    def init(variables):
        # Copied, as the state is donated, and a buffer can be donated only once.
        average = jax.tree.map(jnp.copy, variables) if settings.average else ()
        optimizer_state = optimizer.init(variables.weights)
        return TrainState(jnp.zeros((), jnp.int32), variables, optimizer_state, average)

    def loss_of(weights, statistics, key, images, labels, drop_path):
        logits, auxiliary, statistics = network.forward(
            net,
            Variables(weights, statistics),
            images,
            True,
            drop_path=drop_path,
            key=key if settings.drop_path else None,
        )
        loss = cross_entropy(logits, labels, settings.label_smoothing)
        if auxiliary is not None:
            loss += settings.auxiliary_weight * cross_entropy(
                auxiliary, labels, settings.label_smoothing
            )
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
        return loss, (statistics, accuracy)

    def step(state: TrainState, key, batch):
        key = sharding.own_key(key)  # drop path is drawn for every image
        drop_path = drop_path_at(state.step, settings, plan)
        weights = state.variables.weights

        def add_part(statistics, part):
            (loss, (statistics, accuracy)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                weights, statistics, *part, drop_path
            )
            return statistics, (loss, accuracy, gradient)

        if parts == 1:
            statistics, results = add_part(state.variables.statistics, (key, *batch))
        else:
            # Part p has the images p, p + parts, ..., so that each device keeps its own images.
            split = jax.tree.map(
                lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch
            )
            statistics, results = lax.scan(
                add_part, state.variables.statistics, (jax.random.split(key, parts), *split)
            )
            results = jax.tree.map(lambda x: x.mean(0), results)
        statistics, (loss, accuracy, gradient) = sharding.mean((statistics, results))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, weights)
        variables = Variables(optax.apply_updates(weights, updates), statistics)
        average = state.average
        if settings.average:
            average = optax.incremental_update(variables, average, 1 - settings.average)
        measured = {
            "loss": loss,
            "train_accuracy": accuracy,
            "gradient_norm": optax.global_norm(gradient),
            "update_norm": optax.global_norm(updates),
        }
        return TrainState(state.step + 1, variables, optimizer_state, average), measured

    # Jitted, so that the shapes of its metrics and the chunk share one trace.
    return init, jax.jit(step)


def build(
    config, genotype: Genotype, dataset: Dataset | Streamed, dtype, *, trained: bool = False
) -> tuple[Network, Variables]:
    """Builds the network of `genotype` that the config asks for.

    The weights are random; with `trained` they are zero, for weights that are loaded, and there is no
    auxiliary head.
    """
    net, variables = network.build(
        genotype,
        channels=config.train.channels,
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        image_size=dataset.image_size,
        auxiliary=config.train.auxiliary_weight > 0 and not trained,
        stem=config.train.stem,
        stem_multiplier=config.train.stem_multiplier,
        key=None if trained else jax.random.key(config.seed),
    )
    return net, optim.at_least_float32(variables, dtype)


def cost(
    config, genotype: Genotype, dataset: Dataset | Streamed, *, auxiliary: bool = False
) -> Cost:
    """Counts the cost of the network that `build` builds; see `models.cost.cost`."""
    return costs.cost(
        genotype,
        config.train.channels,
        dataset.num_classes,
        dataset.image_size,
        image_channels=dataset.channels,
        auxiliary=auxiliary,
        stem=config.train.stem,
        stem_multiplier=config.train.stem_multiplier,
    )


def check(config, dataset: Dataset | Streamed) -> None:
    """Refuses a recipe that these images or devices do not allow.

    Before a search whose result it is to train, too: else the refusal would come hours later.

    Raises:
        UserError: the message names the key.
    """
    settings = config.train
    size = schedule.schedule(dataset.num_train, config.data.batch_size, 1, 1).batch_size
    if size % settings.accumulate:
        raise UserError(
            f"data.batch_size={size} cannot be split into train.accumulate={settings.accumulate} equal "
            f"parts: choose a divisor."
        )
    if size // settings.accumulate % jax.device_count():
        raise UserError(
            f"data.batch_size={size} in train.accumulate={settings.accumulate} parts leaves "
            f"{size // settings.accumulate} images for {jax.device_count()} devices, which cannot share "
            f"them evenly: choose a smaller train.accumulate or a larger batch."
        )
    augment.check_channels(dataset.channels, settings.augment)


def run(
    config,
    genotype: Genotype,
    dataset: Dataset | Streamed,
    workdir: Path,
    writer: MetricsWriter,
    dtype,
) -> tuple[Network, Variables]:
    """Trains the network of `genotype`; continues an interrupted training in the same workdir.

    Writes `config.json`, `network.npz` (see `save_network`), checkpoints in `checkpoints/train/`.

    Args:
        config: the whole config; `config.weights`: a file of `save_network`, or of an export, with
            initial weights; see `load_start`.
        genotype: genotype of the network, already expanded if necessary.
        dataset: images; those of the test split are evaluated after every epoch.
        workdir: an existing folder.
        writer: writer of the metrics.
        dtype: compute dtype.

    Returns:
        The trained network.
    """
    settings = config.train
    check(config, dataset)
    phase.check("train", config, dataset, workdir)
    plan = schedule.schedule(
        dataset.num_train, config.data.batch_size, settings.epochs, config.chunk_steps
    )
    net, variables = build(config, genotype, dataset, dtype)
    identity = {"genotype": genotype.to_dict()}
    if config.weights:
        variables, fresh = load_start(config.weights, variables)
        if fresh:
            _logger.info(
                "train: begins with %s, but with new random values of %s, which are of another shape "
                "there or absent",
                *(config.weights, ", ".join(fresh)),
            )
        identity["weights"] = zlib.crc32(Path(config.weights).read_bytes())
    _logger.info(
        "train: %d cells, %d channels, %d parameters, batch %d, %d images, %d epochs of %d steps",
        *(genotype.num_cells, settings.channels),
        sum(leaf.size for leaf in jax.tree.leaves(variables.weights)),
        *(plan.batch_size, dataset.num_train, plan.epochs, plan.epoch),
    )
    init, step = train_step(net, settings, plan)

    def end_epoch(epoch, state, means):
        tested = evaluate.evaluate_dataset(
            net, state.evaluated, dataset, config.data.batch_size, dtype
        )
        return means | {
            "accuracy": tested["accuracy"],
            "test_loss": tested["loss"],
            "learning_rate": optim.weights_learning_rate(state.optimizer),
        }

    state = phase.run_phase(
        *("train", config, dataset, (dataset.train,), plan),
        *(init(variables), step, dtype, workdir, writer, end_epoch),
        identity=identity,
    )
    save_network(workdir / layout.NETWORK, state.evaluated)
    return net, state.evaluated

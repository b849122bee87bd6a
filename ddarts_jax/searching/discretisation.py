"""The discretisation gap: the accuracy lost by removing every primitive outside the genotype.

A search optimises the supernet, but a genotype keeps only a few of its primitives. The gap is the
accuracy of the supernet with all its gates minus its accuracy with the gates of the parsed genotype
alone, both on the same images and by the same compiled function. A gap near 0 means that the alphas have
decided.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddarts_jax.data.augment import normalize
from ddarts_jax.distributed import sharding
from ddarts_jax.genotypes.genotype import Genotype, encode
from ddarts_jax.models.supernet import Supernet, forward
from ddarts_jax.training import feeds


def masked(gates, genotype: Genotype, primitives: tuple[str, ...]):
    """The gates [cells, E, G] of the genotype's primitives; those of all others are 0.

    Channels pass by where the genotype keeps the edge.
    """
    kept = encode(genotype, primitives, 1.0) > 0
    passed = np.repeat(kept.any(-1, keepdims=True), gates.shape[-1] - kept.shape[-1], -1)
    return jnp.where(np.concatenate([kept, passed], -1), gates, 0)


def make_logits(net: Supernet, mean, std, dtype, mesh: Mesh) -> Callable[..., jax.Array]:
    """Builds the function that runs the supernet under any gates; arguments as for `make_accuracy`.

    Returns:
        `(variables, gates, images uint8 [B, H, W, C]) -> logits`; BatchNorm uses the batch.
    """
    mean, std = (np.asarray(moment, np.float32) for moment in (mean, std))

    def logits(variables, gates, images):
        images = sharding.split_batch(normalize(images, mean, std, dtype), mesh)
        return forward(net, variables, gates, images, True)[0]

    return logits


def make_accuracy(net: Supernet, mean, std, dtype, mesh: Mesh) -> Callable[..., jax.Array]:
    """Builds the jitted function that measures the supernet's accuracy under any gates.

    Args:
        net: the supernet.
        mean, std: [C], statistics of the pixels in [0, 1].
        dtype: compute dtype.
        mesh: devices over which batches are split.

    Returns:
        `(variables, gates, images uint8 [B, H, W, C], labels [B]) -> accuracy`, a fraction.
    """
    logits = make_logits(net, mean, std, dtype, mesh)

    @jax.jit
    def accuracy(variables, gates, images, labels):
        return jnp.mean(jnp.argmax(logits(variables, gates, images), -1) == labels)

    return accuracy


def make_measure(
    net: Supernet, dataset, split, count: int, batch_size: int, dtype
) -> Callable[..., dict]:
    """Builds the function that measures both accuracies.

    BatchNorm uses the batch, as in the steps of the search: the running statistics are those of the
    supernet with all its gates, which would be unfair to the masked one.

    Args:
        net: the supernet.
        dataset: images, in memory or streamed.
        split: split of the alphas: indices of the training images, or `records.Records`.
        count: images to use, rounded down to whole batches, at least one.
        batch_size: images per batch.
        dtype: compute dtype.

    Returns:
        `(variables, alphas, genotype) -> {"supernet_accuracy", "discrete_accuracy"}`, fractions.
    """
    mesh = sharding.data_mesh(batch_size)
    data = feeds.some_batches(dataset, split, count, batch_size, mesh)
    accuracy = make_accuracy(net, dataset.mean, dataset.std, dtype, mesh)

    def measure(variables, alphas, genotype: Genotype) -> dict:
        gates = net.gates(alphas)
        kept = masked(gates, genotype, net.primitives)
        return {
            name: float(np.mean([accuracy(variables, used, *batch) for batch in data]))
            for name, used in (("supernet_accuracy", gates), ("discrete_accuracy", kept))
        }

    return measure

"""Evaluation of a derived network: accuracy, loss and speed."""

import contextlib
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ddarts_jax.data.augment import normalize
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.data.stream import Streamed, prefetch
from ddarts_jax.distributed import sharding
from ddarts_jax.models import network as networks
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network


def evaluate(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    batch_size: int,
    dtype: DTypeLike,
) -> dict:
    """Measures a trained network on images, each of which counts exactly once.

    Compiles once for a network, a number of images and a batch size. Except for rounding in the loss,
    the result does not depend on the batch size or on the number of devices, over which batches are
    split.

    Args:
        network: structure.
        variables: weights and statistics.
        images: uint8 [n, H, W, channels], n at least 1.
        labels: integers [n].
        mean: mean of the training data, [channels], in units of [0, 1].
        std: standard deviation, likewise.
        batch_size: images per batch.
        dtype: compute dtype.

    Returns:
        accuracy and top5_accuracy (fractions), loss (mean cross-entropy), count (number of images) and
        confusion, int32 [classes, classes]: images of each class (row) by answer (column).
    """
    batch_size = sharding.divisible(min(batch_size, len(labels)))
    mesh = sharding.data_mesh(batch_size)
    arguments = sharding.replicate((variables, images, np.asarray(labels), mean, std), mesh)
    return _measured(_sums(network, *arguments, batch_size=batch_size, dtype=dtype, mesh=mesh))


def evaluate_dataset(
    network: Network, variables: Variables, dataset: Dataset | Streamed, batch_size: int, dtype
) -> dict:
    """Measures a trained network on the test images of a dataset; returns the same as `evaluate`."""
    moments = dataset.mean, dataset.std
    if isinstance(dataset, Dataset):
        images, labels = dataset.test_images, dataset.test_labels
        return evaluate(
            *(network, variables, images, labels, *moments), batch_size=batch_size, dtype=dtype
        )
    batch_size = sharding.divisible(batch_size)
    mesh = sharding.data_mesh(batch_size)
    variables, moments = sharding.replicate((variables, moments), mesh)
    sums = None
    batches = prefetch(dataset.testing(batch_size).batches(), sharding.batch_sharding(mesh))
    with contextlib.closing(batches):
        for batch in batches:
            new = _batch_sums(network, variables, *batch, *moments, dtype=dtype, mesh=mesh)
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
    return _measured(sums)


def _measured(sums) -> dict:
    confusion, in_top5, loss = jax.device_get(sums)
    count = confusion.sum()
    return {
        "accuracy": float(np.trace(confusion) / count),
        "top5_accuracy": float(in_top5 / count),
        "loss": float(loss / count),
        "count": int(count),
        "confusion": confusion,
    }


def details(tested: dict, class_names) -> dict:
    """The result of `evaluate` by class, ready for JSON; the accuracy of an absent class is null."""
    confusion = tested["confusion"]
    counts, right = confusion.sum(1), np.diagonal(confusion)
    return {
        "accuracy": tested["accuracy"],
        "top5_accuracy": tested["top5_accuracy"],
        "loss": tested["loss"],
        "classes": {
            name: {"images": int(n), "accuracy": float(k / n) if n else None}
            for name, n, k in zip(class_names, counts, right)
        },
        "confusion": confusion.tolist(),
    }


@functools.partial(jax.jit, static_argnames=("network", "batch_size", "dtype", "mesh"))
def _sums(network, variables, images, labels, mean, std, *, batch_size, dtype, mesh):
    """`_batch_sums` of all images."""
    count = len(labels)
    # Pad the last batch by repeating the last image with weight 0.
    indices = jnp.arange(-(-count // batch_size) * batch_size).reshape(-1, batch_size)

    def add_batch(sums, indices):
        taken = jnp.minimum(indices, count - 1)
        batch = images[taken], labels[taken], indices < count
        new = _batch_sums(network, variables, *batch, mean, std, dtype=dtype, mesh=mesh)
        return jax.tree.map(jnp.add, sums, new), None

    classes = variables.weights["head"]["classifier"]["bias"].shape[0]
    zeros = jnp.zeros((classes, classes), jnp.int32), jnp.int32(0), jnp.float32(0)
    sums, _ = lax.scan(add_batch, zeros, indices)
    return sums


@functools.partial(jax.jit, static_argnames=("network", "dtype", "mesh"))
def _batch_sums(network, variables, images, labels, real, mean, std, *, dtype, mesh):
    """Sums over the real images: confusion [classes, classes], top-5 hits, loss."""
    images, labels, real = sharding.split_batch((images, labels, real), mesh)
    batch, real = normalize(images, mean, std, dtype), jnp.asarray(real, bool)
    logits, _, _ = networks.forward(network, variables, batch, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    own = jnp.take_along_axis(logits, labels[:, None], -1)
    # Ties, for example if all logits are NaN, count against the network.
    in_top5 = jnp.sum(~(logits < own), -1) <= 5
    confusion = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
    sums = (
        confusion.at[labels, jnp.argmax(logits, -1)].add(real.astype(jnp.int32)),
        jnp.sum(in_top5 & real, dtype=jnp.int32),
        jnp.sum(losses, dtype=jnp.float32, where=real),
    )
    return lax.with_sharding_constraint(sums, sharding.replicated(mesh))


def speed(
    network: Network, variables: Variables, image_shape, batch_sizes, dtype, repeats: int = 20
) -> list[dict]:
    """Measures how fast a network runs on the present device, with the images already there.

    Args:
        network: structure.
        variables: weights and statistics.
        image_shape: (H, W, channels).
        batch_sizes: the batch sizes to measure.
        dtype: compute dtype.
        repeats: number of runs, after one warm-up; their median is reported.

    Returns:
        For each batch size: batch_size, milliseconds (per batch) and images_per_second.
    """
    run = jax.jit(lambda variables, x: networks.forward(network, variables, x, train=False)[0])
    measured = []
    for batch_size in batch_sizes:
        images = jnp.zeros((batch_size, *image_shape), dtype)
        run(variables, images).block_until_ready()
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run(variables, images).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        median = statistics.median(seconds)
        measured.append(
            {
                "batch_size": batch_size,
                "milliseconds": 1e3 * median,
                "images_per_second": batch_size / median,
            }
        )
    return measured

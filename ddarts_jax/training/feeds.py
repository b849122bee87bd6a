"""Feeds, which supply steps with batches: from images on the device, or from streams.

Small datasets are kept on the device as uint8; a *chunk* is then one compiled `lax.scan` over steps that
draws its batches, augments them and steps. For large datasets the batches come from streams, one per
step. All randomness follows from the seed and the step, the order of an epoch from the seed and the
epoch; so a resumed run only needs to know the step.
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from ddarts_jax.data.augment import augment
from ddarts_jax.data.stream import Streamed, prefetch
from ddarts_jax.distributed import sharding
from ddarts_jax.training.compilation import lower
from ddarts_jax.training.schedule import Schedule


class Images(NamedTuple):
    """Training images on the device.

    Attributes:
        images: uint8 [n, H, W, C].
        labels: int32 [n].
        splits: one array of indices for each batch that a step takes.
        mean, std: float32 [C], statistics of the pixels in [0, 1].
    """

    images: jax.Array
    labels: jax.Array
    splits: tuple[jax.Array, ...]
    mean: jax.Array
    std: jax.Array


class Running(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        state: state of the phase; has a `step`, int32 scalar, the number of steps done.
        totals: metrics summed over the steps of the present epoch, so that an epoch that was
            interrupted reports the same as an unbroken one.
    """

    state: Any
    totals: Any


def on_device(dataset, splits, mesh: Mesh) -> Images:
    """Puts the training images of a `dataset.Dataset` on every device of the mesh."""
    return sharding.replicate(
        Images(
            dataset.train_images,
            np.asarray(dataset.train_labels, np.int32),
            tuple(np.asarray(split, np.int32) for split in splits),
            np.asarray(dataset.mean, np.float32),
            np.asarray(dataset.std, np.float32),
        ),
        mesh,
    )


def make_chunk(step: Callable, plan: Schedule, settings, dtype, mesh: Mesh) -> Callable:
    """Builds the function that runs one chunk of steps.

    The seed is an argument of it, so that runs that differ only in the seed share a compiled program.

    Args:
        step: `(state, key, *batches) -> (state, metrics)`; a batch is (images [B, H, W, C] normalised
            and augmented, labels [B]), one for each split of the data.
        plan: the schedule.
        settings: `augment` section of the config, arguments of `augment.augment`.
        dtype: dtype of the images.
        mesh: devices over which batches are split.

    Returns:
        `(running, data: Images, seed) -> (running, finite)`, jitted, `running` donated; `seed`, a
        uint32 scalar, is the root of all randomness; `finite` contains [chunk] booleans for every
        metric. All results are replicated on every device.
    """
    prepare = functools.partial(augment, **settings, dtype=dtype)

    def draw(key, data: Images, indices):
        indices = sharding.split_batch(indices, mesh)
        images = prepare(key, data.images[indices], data.mean, data.std)
        return sharding.split_batch((images, data.labels[indices]), mesh)

    def chunk(running: Running, data: Images, seed):
        order_key, step_key = _roots(seed)
        epoch_key = jax.random.fold_in(order_key, running.state.step // plan.epoch)
        orders = [
            jax.random.permutation(jax.random.fold_in(epoch_key, k), split)
            for k, split in enumerate(data.splits)
        ]

        def body(running: Running, _):
            state, totals = running
            position = state.step % plan.epoch
            key, *batch_keys = jax.random.split(
                jax.random.fold_in(step_key, state.step), 1 + len(orders)
            )
            batches = [
                draw(
                    k,
                    data,
                    lax.dynamic_slice_in_dim(o, position * plan.batch_size, plan.batch_size),
                )
                for k, o in zip(batch_keys, orders)
            ]
            with sharding.over(mesh):
                state, measured = step(state, key, *batches)
            return account(state, totals, measured, position)

        return lax.scan(body, running, length=plan.chunk)

    return jax.jit(chunk, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def _roots(seed):
    """Keys of the order and of the steps; initialisation folds in small numbers, far from these."""
    return [jax.random.fold_in(jax.random.key(seed), 2**32 - k) for k in (1, 2)]


def account(state, totals, measured, position):
    """Adds a step's metrics to the totals of its epoch, and returns which of them are finite."""
    totals = jax.tree.map(
        lambda total, new: jnp.where(position == 0, 0, total) + new.astype(total.dtype),
        totals,
        measured,
    )
    finite = jax.tree.map(lambda new: jnp.isfinite(new).all(), measured)
    return Running(state, totals), finite


def make_streamed_step(
    step: Callable, plan: Schedule, settings, mean, std, dtype, mesh: Mesh
) -> Callable:
    """Builds the function that runs one step on batches that come from streams.

    Args:
        step: see `make_chunk`, as for the other arguments.
        plan: the schedule.
        settings: `augment` section of the config.
        mean, std: float32 [C], statistics of the pixels in [0, 1].
        dtype: dtype of the images.
        mesh: devices over which batches are split.

    Returns:
        `(running, batches, seed) -> (running, finite)`, jitted, `running` donated; a batch is (images
        uint8 [B, H, W, C], labels [B]), one for each stream; `seed` is the root of the randomness on
        the device.
    """

    def streamed_step(running: Running, batches, seed):
        state, totals = running
        _, step_key = _roots(seed)
        key, *batch_keys = jax.random.split(
            jax.random.fold_in(step_key, state.step), 1 + len(batches)
        )
        prepared = [
            sharding.split_batch(
                (augment(k, images, mean, std, **settings, dtype=dtype), labels), mesh
            )
            for k, (images, labels) in zip(batch_keys, batches)
        ]
        position = state.step % plan.epoch
        with sharding.over(mesh):
            state, measured = step(state, key, *prepared)
        return account(state, totals, measured, position)

    return jax.jit(streamed_step, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def start(
    state, step: Callable, num_batches: int, image_shape, plan: Schedule, dtype, mesh: Mesh
) -> Running:
    """Puts a fresh state on the mesh, with empty totals of the step's metrics.

    Args:
        state: a fresh state.
        step: see `make_chunk`.
        num_batches: number of batches that a step takes.
        image_shape: (H, W, C).
        plan: the schedule.
        dtype: dtype of the images.
        mesh: devices over which batches are split.
    """
    shape = (plan.batch_size, *image_shape)
    batch = jnp.zeros(shape, dtype), jnp.zeros(shape[:1], jnp.int32)
    # All on the mesh, as in the chunk, so that JAX reuses the trace of a jitted step there.
    state, key, batch = sharding.replicate((state, jax.random.key(0), batch), mesh)
    with sharding.over(mesh):
        _, measured = jax.eval_shape(step, state, key, *[batch] * num_batches)
    return begun(state, measured, mesh)


def begun(state, measured, mesh: Mesh) -> Running:
    """Puts a fresh state on the mesh, with empty totals of metrics of these shapes."""
    totals = jax.tree.map(lambda m: np.zeros(m.shape, np.float32), measured)
    return sharding.replicate(Running(state, totals), mesh)


def repeated(one_step: Callable, running: Running, count: int):
    """Runs `one_step`, `running -> (running, finite)`, so many times.

    Returns:
        The last `running`, and for every metric [count] booleans, on the host.
    """
    flags = []
    for _ in range(count):
        running, finite = one_step(running)
        flags.append(finite)
    return running, jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(flags))


class Program(NamedTuple):
    """A compiled phase.

    Attributes:
        advance: `(running, step) -> (running, finite)` runs the chunk of steps after `step`.
        compiled: the program that it calls.
    """

    advance: Callable
    compiled: jax.stages.Compiled


def resident(chunk: Callable, data: Images, seed: np.uint32, running: Running) -> Program:
    """Compiles a chunk of `make_chunk`."""
    compiled = lower(chunk, running, data, seed).compile()
    return Program(lambda running, step: compiled(running, data, seed), compiled)


class Resident:
    """Batches of images that are on the device.

    Attributes:
        identity: which images these are; with the config it determines every batch, as JSON.
    """

    def __init__(self, dataset, splits, plan: Schedule, config, settings, dtype, mesh: Mesh):
        """Puts the images on the device; see `make` for the arguments."""
        self._plan, self._settings, self._dtype, self._mesh = plan, settings, dtype, mesh
        self._images = on_device(dataset, splits, mesh)
        self._seed = np.uint32(config.seed)
        self.identity = {"images": checksum(dataset)}

    def compile(self, step: Callable, running: Running) -> Program:
        """Compiles a chunk of `step`; see `make_chunk`."""
        chunk = make_chunk(step, self._plan, self._settings, self._dtype, self._mesh)
        return resident(chunk, self._images, self._seed, running)

    def close(self) -> None:
        """Does nothing: there are no processes to end."""


def checksum(dataset) -> str:
    """Returns a checksum of the training images of a `dataset.Dataset` and their labels."""
    labels = np.ascontiguousarray(dataset.train_labels, np.int32)
    images = np.ascontiguousarray(dataset.train_images)
    return f"{zlib.crc32(labels, zlib.crc32(images)):08x}"


class Streaming:
    """Batches from streams, which other processes read, decode and crop.

    Attributes:
        identity: see `Resident`.
    """

    def __init__(self, dataset, splits, plan: Schedule, config, settings, dtype, mesh: Mesh):
        """Opens a stream for every split; see `make` for the arguments."""
        self._plan, self._dtype, self._mesh = plan, dtype, mesh
        self._settings = dict(settings) | {"resized_crop": 0.0}  # done by the streams
        self._moments = dataset.mean, dataset.std
        self._seed = np.uint32(config.seed)
        self._streams = dataset.training(splits, config, settings)
        self._open: list = []
        self.identity = {"images": [records.identity for records in splits]}

    def compile(self, step: Callable, running: Running) -> Program:
        """Compiles a step; see `make_streamed_step`."""
        plan, split = self._plan, sharding.batch_sharding(self._mesh)
        one_step = make_streamed_step(
            *(step, plan, self._settings, *self._moments, self._dtype, self._mesh)
        )

        def shapes(stream):
            images = (plan.batch_size, stream.image_size, stream.image_size, 3)
            return (
                jax.ShapeDtypeStruct(images, jnp.uint8, sharding=split),
                jax.ShapeDtypeStruct(images[:1], jnp.int32, sharding=split),
            )

        batch_shapes = [shapes(stream) for stream in self._streams]
        compiled = lower(one_step, running, batch_shapes, self._seed).compile()

        def advance(running, step):
            if not self._open:  # the step at which to begin is only known now
                self._open = [prefetch(stream.batches(step), split) for stream in self._streams]
            return repeated(one_more, running, plan.chunk)

        def one_more(running):
            batches = [(batch.images, batch.labels) for batch in map(next, self._open)]
            return compiled(running, batches, self._seed)

        return Program(advance, compiled)

    def close(self) -> None:
        """Ends the processes that decode."""
        for batches in self._open:
            batches.close()


def make(
    dataset, splits, plan: Schedule, config, settings, dtype, mesh: Mesh
) -> Resident | Streaming:
    """Makes the feed of a phase.

    Args:
        dataset: images, in memory (`dataset.Dataset`) or streamed (`stream.Streamed`).
        splits: one for each batch that a step takes: indices of the training images, or for a
            streamed data set their `records.Records`.
        plan: the schedule.
        config: the whole config.
        settings: `augment` section of the phase.
        dtype: dtype of the images.
        mesh: devices over which batches are split.
    """
    kind = Streaming if isinstance(dataset, Streamed) else Resident
    return kind(dataset, splits, plan, config, settings, dtype, mesh)


def some_batches(dataset, split, count: int, batch_size: int, mesh: Mesh) -> list[tuple]:
    """Returns batches of random images of a split of the training images, on the mesh.

    Which images they are follows from their number alone. Not the first ones: most data lie class by
    class, and BatchNorm, which uses the batch, would see batches of one class.

    Args:
        dataset: images, in memory or streamed.
        split: indices of the training images, or their `records.Records`.
        count: images to use, rounded down to whole batches, at least one.
        batch_size: images per batch.
        mesh: devices over which batches are split.

    Returns:
        (images uint8 [B, H, W, C], labels int32 [B]) for each batch.
    """
    batches = max(1, min(count, len(split)) // batch_size)
    # RandomState: the stream of numbers is frozen for all versions of NumPy.
    order = np.random.RandomState(0).permutation(len(split))[: batches * batch_size]
    placed = sharding.batch_sharding(mesh)
    if isinstance(dataset, Streamed):
        some = dataclasses.replace(dataset, test=split.select(order))
        with contextlib.closing(prefetch(some.testing(batch_size).batches(), placed)) as feed:
            return [next(feed)[:2] for _ in range(batches)]
    chosen = np.reshape(split[order], (batches, batch_size))
    labels = np.asarray(dataset.train_labels, np.int32)
    return [jax.device_put((dataset.train_images[some], labels[some]), placed) for some in chosen]

"""The training loop that search and training share: steps in chunks, chunks in epochs.

Small data live on the device as uint8; then a *chunk* is one compiled `lax.scan` over steps that draws
its batches, augments them and steps. Of large data the batches come from streams, step by step.
Everything random follows from the seed and the step, the order of an epoch from the seed and the
epoch; so the step is all that a resumed run needs to know.
"""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from ddarts_jax.data.augment import augment
from ddarts_jax.data.stream import Streamed, prefetch
from ddarts_jax.distributed import processes, sharding
from ddarts_jax.errors import UserError
from ddarts_jax.runs import facts, metrics
from ddarts_jax.runs import identity as identities
from ddarts_jax.training import memory, profiling
from ddarts_jax.training.checkpoint import Checkpoints
from ddarts_jax.training.compilation import lower
from ddarts_jax.training.signals import Signals, Stopped

_logger = logging.getLogger(__name__)


class Images(NamedTuple):
    """Training images on the device.

    Attributes:
        images: uint8 [n, H, W, C].
        labels: int32 [n].
        splits: one array of indices for each batch that a step takes.
        mean, std: float32 [C], of the pixels in [0, 1].
    """

    images: jax.Array
    labels: jax.Array
    splits: tuple[jax.Array, ...]
    mean: jax.Array
    std: jax.Array


class Running(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: of the phase; has a `step`, int32 scalar, the number of steps done.
        totals: metrics summed over the steps of the present epoch, so that an epoch that was
            interrupted reports what an unbroken one does.
    """

    state: Any
    totals: Any


class Schedule(NamedTuple):
    """How many steps there are.

    Attributes:
        epochs: passes over the data.
        chunks: chunks in an epoch.
        chunk: steps in a chunk.
        batch_size: images in each batch of a step.
    """

    epochs: int
    chunks: int
    chunk: int
    batch_size: int

    @property
    def epoch(self) -> int:
        """Steps in an epoch."""
        return self.chunks * self.chunk

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.epoch


def schedule(num_images: int, batch_size: int, epochs: int, chunk_steps: int) -> Schedule:
    """Divides an epoch into chunks of one length, so that one compiled program serves them all.

    Images that fill no batch, and steps that fill no chunk (fewer than there are chunks), are left
    out; they are others in every epoch.

    Args:
        num_images: of the smallest split.
        batch_size: images a step.
        epochs: passes over the data.
        chunk_steps: most steps in a chunk.

    Raises:
        UserError: the images do not fill one batch.
    """
    steps = num_images // batch_size
    if not steps:
        raise UserError(
            f"data.batch_size={batch_size} is larger than the {num_images} images that a step "
            f"draws from: use at most {num_images}"
        )
    chunks = math.ceil(steps / chunk_steps)
    return Schedule(epochs, chunks, steps // chunks, batch_size)


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

    The seed is an argument of it: runs that differ in the seed alone share one compiled program.

    Args:
        step: `(state, key, *batches) -> (state, metrics)`; a batch is (images [B, H, W, C] normalised
            and augmented, labels [B]), one for each split of the data.
        plan: the schedule.
        settings: `augment` section of the config, arguments of `augment.augment`.
        dtype: of the images.
        mesh: over which batches are split.

    Returns:
        `(running, data: Images, seed) -> (running, finite)`, jitted, `running` donated; `seed`, a
        uint32 scalar, is the root of all randomness; `finite` holds for every metric [chunk]
        booleans. All results lie whole on every device.
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
            return _account(state, totals, measured, position)

        return lax.scan(body, running, length=plan.chunk)

    return jax.jit(chunk, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def _roots(seed):
    """Keys of the order and of the steps, far from the small numbers that initialisation folds in."""
    return [jax.random.fold_in(jax.random.key(seed), 2**32 - k) for k in (1, 2)]


def _account(state, totals, measured, position):
    """Adds a step's metrics to the totals of its epoch, and says which of them are finite."""
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
        mean, std: float32 [C], of the pixels in [0, 1].
        dtype: of the images.
        mesh: over which batches are split.

    Returns:
        `(running, batches, seed) -> (running, finite)`, jitted, `running` donated; a batch is (images
        uint8 [B, H, W, C], labels [B]), one for each stream; `seed` is that of the randomness on the
        device.
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
        return _account(state, totals, measured, position)

    return jax.jit(streamed_step, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def start(
    state, step: Callable, num_batches: int, image_shape, plan: Schedule, dtype, mesh: Mesh
) -> Running:
    """Puts a fresh state on the mesh, with empty totals of the step's metrics.

    Args:
        state: a fresh one.
        step: see `make_chunk`.
        num_batches: that a step takes.
        image_shape: (H, W, C).
        plan: the schedule.
        dtype: of the images.
        mesh: over which batches are split.
    """
    shape = (plan.batch_size, *image_shape)
    batch = jnp.zeros(shape, dtype), jnp.zeros(shape[:1], jnp.int32)
    # All on the mesh, as in the chunk: JAX then finds the trace of a jitted step again there.
    state, key, batch = sharding.replicate((state, jax.random.key(0), batch), mesh)
    with sharding.over(mesh):
        _, measured = jax.eval_shape(step, state, key, *[batch] * num_batches)
    totals = jax.tree.map(lambda m: np.zeros(m.shape, np.float32), measured)
    return sharding.replicate(Running(state, totals), mesh)


def run_phase(
    phase: str,
    config,
    dataset,
    splits,
    plan: Schedule,
    state,
    step: Callable,
    dtype,
    workdir: Path,
    writer: metrics.MetricsWriter,
    end_epoch: Callable,
    *,
    identity=None,
    stop: Callable = lambda epoch: None,
):
    """Runs a phase of a run in `workdir`, from where its newest checkpoint stands.

    Writes `config.json`, `dataset.json`, `versions.json`, checkpoints in `checkpoints/<phase>/` and
    metrics.

    Args:
        phase: "search" or "train", also the name of its section of the config.
        config: the whole config.
        dataset: images, in memory (`dataset.Dataset`) or streamed (`stream.Streamed`).
        splits: one for each batch that a step takes: indices of the training images, or, of a
            streamed data set, their `records.Records`.
        plan: from `schedule`.
        state: a fresh one; has a `step`.
        step: see `make_chunk`.
        dtype: of the computation.
        workdir: exists.
        writer: of the metrics.
        end_epoch: see `run`.
        identity: what the phase depends on besides the config; JSON can say it.
        stop: see `run`.

    Returns:
        The final state.
    """
    mesh = sharding.data_mesh(plan.batch_size)
    settings = config[phase].augment
    running = start(state, step, len(splits), dataset.image_shape, plan, dtype, mesh)
    identity, seed = dict(identity or {}), np.uint32(config.seed)
    if isinstance(dataset, Streamed):
        identity["images"] = [records.identity for records in splits]
        streams = dataset.training(splits, config, settings)
        on_device_part = dict(settings) | {"resized_crop": 0.0}  # the streams do that
        one_step = make_streamed_step(
            *(step, plan, on_device_part, dataset.mean, dataset.std, dtype, mesh)
        )
        compile_ = functools.partial(_streamed, one_step, streams, seed, plan, mesh)
    else:
        chunk = make_chunk(step, plan, settings, dtype, mesh)
        compile_ = functools.partial(resident, chunk, on_device(dataset, splits, mesh), seed)
    defining = identities.defining(config, phase, dataset.num_train) | identity
    directory = workdir / "checkpoints" / phase
    with Checkpoints(directory, defining, config.checkpoint.keep_last) as checkpoints:
        facts.keep(workdir, config, dataset)  # unless the workdir is another run's
        every_minutes = config.checkpoint.every_minutes
        return run(
            *(phase, running, compile_, len(splits), plan),
            *(checkpoints, writer, every_minutes, end_epoch, stop),
            profile=workdir / "profile" / phase if config.profile else None,
        )


class Program(NamedTuple):
    """A compiled phase.

    Attributes:
        advance: `(running, step) -> (running, finite)` runs the chunk of steps after `step`.
        compiled: what it calls.
    """

    advance: Callable
    compiled: jax.stages.Compiled


def resident(chunk: Callable, data: Images, seed: np.uint32, running: Running) -> Program:
    """Compiles a chunk of `make_chunk`."""
    compiled = lower(chunk, running, data, seed).compile()
    return Program(lambda running, step: compiled(running, data, seed), compiled)


def _streamed(
    one_step: Callable, streams, seed: np.uint32, plan: Schedule, mesh: Mesh, running: Running
) -> Program:
    """Compiles a step of `make_streamed_step`."""
    split = sharding.batch_sharding(mesh)

    def shapes(stream):
        images = (plan.batch_size, stream.image_size, stream.image_size, 3)
        return (
            jax.ShapeDtypeStruct(images, jnp.uint8, sharding=split),
            jax.ShapeDtypeStruct(images[:1], jnp.int32, sharding=split),
        )

    batch_shapes = [shapes(stream) for stream in streams]
    compiled = lower(one_step, running, batch_shapes, seed).compile()
    feeds = []

    def advance(running, step):
        if not feeds:  # where the run stands is known only now
            feeds.extend(prefetch(stream.batches(step), split) for stream in streams)
        all_finite = []
        for _ in range(plan.chunk):
            batches = [(batch.images, batch.labels) for batch in map(next, feeds)]
            running, finite = compiled(running, batches, seed)
            all_finite.append(finite)
        return running, jax.tree.map(lambda *flags: np.stack(flags), *jax.device_get(all_finite))

    return Program(advance, compiled)


def run(
    phase: str,
    running: Running,
    compile_: Callable,
    num_batches: int,
    plan: Schedule,
    checkpoints: Checkpoints,
    writer: metrics.MetricsWriter,
    every_minutes: float,
    end_epoch: Callable,
    stop: Callable = lambda epoch: None,
    profile: Path | None = None,
):
    """Runs all epochs from where the newest checkpoint stands.

    Args:
        phase: "search" or "train"; names metrics and messages.
        running: a fresh start; donated.
        compile_: `(running) -> Program`.
        num_batches: that a step takes.
        plan: the schedule.
        checkpoints: of this phase; saved after every epoch, and within one every `every_minutes`.
        writer: gets a line an epoch.
        every_minutes: see `checkpoints`.
        end_epoch: `(epoch, state, means) -> metrics` after each epoch; `means` are the step's metrics
            averaged over the epoch. `metrics["accuracy"]` chooses the best checkpoint.
        stop: `(epoch) -> reason` to end the run after an epoch, a sentence, or None; it reads what
            the epochs have left in the workdir.
        profile: directory of a trace of the second chunk (of the first, if it is the only one), whose
            most expensive scopes are printed; or None.

    Returns:
        The final state.

    Raises:
        UserError: a loss is not finite; names the step and the parts.
        Stopped: by a signal; the state is saved.
    """

    def stopped(epoch) -> bool:
        reason = processes.from_main(lambda: stop(epoch))  # what it reads only that one has written
        if reason:
            _logger.info("%s: %s", phase, reason)
        return bool(reason)

    restored = checkpoints.restore(running)
    spent = 0.0  # seconds of the present epoch in earlier starts
    if restored:
        running = restored[1]
        spent = processes.from_main(lambda: checkpoints.seconds(restored[0]))
        _logger.info("%s: continues after step %d of %d", phase, restored[0], plan.total)
    step = int(running.state.step)
    writer.rewind(phase, step // plan.epoch + 1)
    if step == plan.total or (step and step % plan.epoch == 0 and stopped(step // plan.epoch)):
        return running.state

    _logger.info("%s: compiling the step (once; minutes for a large network on a CPU)", phase)
    begun = time.monotonic()
    program = compile_(running)
    _logger.info("%s: compiled in %.1f s", phase, time.monotonic() - begun)
    _tell_memory(phase, program.compiled)
    # The second chunk, or the first where there is no other.
    traced_step = min(step + plan.chunk, plan.total - plan.chunk)
    kind = "warm" if traced_step > step else "first"
    saved_at = time.monotonic()
    images_a_step = plan.batch_size * num_batches
    with Signals() as signals:
        while step < plan.total:
            epoch, first, earlier = step // plan.epoch + 1, step, spent
            begun, spent = time.monotonic() - earlier, 0.0
            with metrics.progress(
                f"{phase} {epoch}/{plan.epochs}", plan.epoch * images_a_step
            ) as bar:
                bar.update(step % plan.epoch * images_a_step)
                while step < epoch * plan.epoch:
                    # A signal need not reach all processes, nor in the same chunk.
                    if received := processes.highest(signals.received):
                        checkpoints.save(step, running, seconds=time.monotonic() - begun)
                        checkpoints.wait()
                        raise Stopped(f"in {phase}, saved at step {step}", received)
                    traced = profile if step == traced_step and processes.is_main() else None
                    with profiling.trace(traced) if traced else contextlib.nullcontext():
                        running, finite = program.advance(running, step)
                        finite = jax.device_get(finite)
                    if traced:
                        seconds = profiling.by_scope(traced, program.compiled.as_text())
                        print(f"{phase}: {plan.chunk} {kind} steps, traced in {traced}")
                        print(profiling.table(seconds, plan.chunk))
                    _check_finite(phase, step, plan, finite, checkpoints)
                    step += plan.chunk
                    bar.update(plan.chunk * images_a_step)
                    due = time.monotonic() - saved_at > every_minutes * 60
                    if step % plan.epoch and processes.highest(due):
                        checkpoints.save(step, running, seconds=time.monotonic() - begun)
                        saved_at = time.monotonic()
            seconds = time.monotonic() - begun
            means = jax.tree.map(lambda t: np.asarray(t) / plan.epoch, running.totals)
            record = end_epoch(epoch, running.state, means)
            record |= {
                "seconds": seconds,
                "images_per_second": (step - first) * images_a_step / (seconds - earlier),
            }
            writer.write(phase, epoch, record)
            checkpoints.save(step, running, record["accuracy"])
            saved_at = time.monotonic()
            _logger.info("%s", _line(phase, epoch, plan, record))
            if stopped(epoch):
                break
        checkpoints.wait()
    # Asked after the handlers are gone: a signal in the last chunk, in its evaluation or while its
    # checkpoint is written must not let the run begin its next phase.
    if received := processes.highest(signals.received):
        raise Stopped(f"in {phase}, saved at step {step}", received)
    return running.state


def _tell_memory(phase: str, compiled: jax.stages.Compiled) -> None:
    """Says how much memory a compiled program will take at most, and warns where that is too much."""
    sizes = compiled.memory_analysis()
    if sizes is None:  # not every backend knows
        return
    # Of one device; donated arguments hold outputs.
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    needed += sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    device = jax.local_devices()[0]
    if device.platform == "cpu":  # CPU devices share the machine's
        there = memory.available() / jax.local_device_count()
    else:
        there = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    _logger.info(
        "%s: needs %s of memory on each device, which has %s",
        *(phase, _in_gigabytes(needed), _in_gigabytes(there)),
    )
    if needed > there:
        mend = {
            "search": "set search.remat=True, a small search.ddarts.microbatch",
            "train": "set train.accumulate",
        }
        _logger.warning(
            "%s: that is more than there is; where it fails, %s or lower data.batch_size",
            *(phase, mend[phase]),
        )


def _in_gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if math.isfinite(size) else "an amount that it does not tell"


def _check_finite(phase, step, plan, finite, checkpoints):
    bad = {name: np.flatnonzero(~ok) for name, ok in finite.items() if not ok.all()}
    if bad:
        first = min(positions[0] for positions in bad.values())
        parts = ", ".join(name for name, positions in bad.items() if positions[0] == first)
        checkpoints.wait()
        kept = processes.from_main(checkpoints.latest_step)
        kept = f"the checkpoint of step {kept} is kept" if kept else "there was no checkpoint yet"
        raise UserError(
            f"{phase} diverged at step {step + first + 1} (epoch {step // plan.epoch + 1}): "
            f"{parts} is NaN or infinite; {kept}. Lower the learning rates or check the data, and "
            f"use another --workdir."
        )


def _line(phase, epoch, plan, record):
    names = [name for name in ("loss", "accuracy", "distance_to_start") if name in record]
    shown = [f"{name} {record[name]:.4f}" for name in names]
    speed = f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s"
    return f"{phase} {epoch}/{plan.epochs}: {', '.join(shown)} ({speed})"

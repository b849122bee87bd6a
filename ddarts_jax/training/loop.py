"""The training loop that search and training share: steps in chunks, chunks in epochs."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.runs import metrics
from ddarts_jax.training import memory, profiling
from ddarts_jax.training.checkpoint import Checkpoints
from ddarts_jax.training.feeds import Running
from ddarts_jax.training.schedule import Schedule
from ddarts_jax.training.signals import Signals, Stopped

_logger = logging.getLogger(__name__)


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

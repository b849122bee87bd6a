"""The training loop that search and training share: steps in chunks, chunks in epochs."""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ddarts_jax.distributed import memory, processes
from ddarts_jax.errors import UserError
from ddarts_jax.runs import metrics
from ddarts_jax.training import compilation, profiling
from ddarts_jax.training.checkpoint import Checkpoints
from ddarts_jax.training.feeds import Program, Running
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
    """Runs all epochs, starting from the newest checkpoint.

    Args:
        phase: "search", "train" or "detect"; names metrics and messages.
        running: the initial state; donated.
        compile_: `(running) -> Program`.
        num_batches: number of batches that a step takes.
        plan: the schedule.
        checkpoints: checkpoints of this phase; saved after every epoch, and within one every
            `every_minutes`.
        writer: writer of the metrics; gets a line per epoch.
        every_minutes: see `checkpoints`.
        end_epoch: `(epoch, state, means) -> metrics` after each epoch; `means` are the step's metrics
            averaged over the epoch.
        stop: `(epoch) -> reason`, a sentence if the run should end after this epoch, else None; it
            reads the files that the epochs have written to the workdir.
        profile: directory for a trace of the second chunk (of the first, if it is the only one), whose
            most expensive scopes are printed; or None.

    Returns:
        The final state.

    Raises:
        UserError: a loss is not finite; the message names the step and the parts.
        Stopped: a signal ended the run; the state is saved.
    """
    loop = _Loop(
        phase, plan, checkpoints, writer, every_minutes, num_batches, end_epoch, stop, profile
    )
    return loop.run(running, compile_)


class _Loop:
    """A running phase; arguments as for `run`.

    Attributes:
        step: steps done.
        spent: seconds of the present epoch in earlier starts.
        saved_at: when the last checkpoint was begun.
    """

    def __init__(
        self, phase, plan, checkpoints, writer, every_minutes, num_batches, end_epoch, stop, profile
    ):
        self.phase, self.plan, self.checkpoints, self.writer = phase, plan, checkpoints, writer
        self.every_seconds = every_minutes * 60
        self.images_per_step = plan.batch_size * num_batches
        self.end_epoch, self.stop, self.profile = end_epoch, stop, profile
        self.step, self.spent, self.saved_at = 0, 0.0, time.monotonic()

    def run(self, running: Running, compile_: Callable):
        """Runs all epochs and returns the final state."""
        plan = self.plan
        running = self._restored(running)
        self.writer.rewind(self.phase, self.step // plan.epoch + 1)
        at_epoch_end = self.step and self.step % plan.epoch == 0
        if self.step == plan.total or (at_epoch_end and self._stopped(self.step // plan.epoch)):
            return running.state
        program = self._compiled(running, compile_)
        # The second chunk is traced, or the first if it is the only one.
        self.traced_step = min(self.step + plan.chunk, plan.total - plan.chunk)
        self.traced_kind = "warm" if self.traced_step > self.step else "first"
        self.saved_at = time.monotonic()
        with Signals() as signals:
            while self.step < plan.total:
                epoch = self.step // plan.epoch + 1
                running = self._run_epoch(epoch, program, running, signals)
                if self._stopped(epoch):
                    break
            self.checkpoints.wait()
        # Checked after the handlers are removed: after a signal in the last chunk, in its evaluation or
        # while its checkpoint is written, the run must not begin its next phase.
        self._raise_if(processes.highest(signals.received))
        return running.state

    def _restored(self, running: Running) -> Running:
        restored = self.checkpoints.restore(running)
        if restored:
            running = restored[1]
            self.spent = processes.from_main(lambda: self.checkpoints.seconds(restored[0]))
            _logger.info(
                "%s: continues after step %d of %d", self.phase, restored[0], self.plan.total
            )
        self.step = int(running.state.step)
        return running

    def _compiled(self, running: Running, compile_: Callable) -> Program:
        with compilation.timed(self.phase, running):
            program = compile_(running)
        _tell_memory(self.phase, program.compiled)
        return program

    def _run_epoch(self, epoch: int, program: Program, running: Running, signals) -> Running:
        """Runs an epoch, or the rest of it, evaluates, reports and saves."""
        plan, first, earlier = self.plan, self.step, self.spent
        begun, self.spent = time.monotonic() - earlier, 0.0
        title, images = f"{self.phase} {epoch}/{plan.epochs}", self.images_per_step
        with metrics.progress(title, plan.epoch * images) as bar:
            bar.update(self.step % plan.epoch * images)
            while self.step < epoch * plan.epoch:
                # A signal may not reach all processes, or not in the same chunk.
                if received := processes.highest(signals.received):
                    self._save(running, begun)
                    self.checkpoints.wait()
                    self._raise_if(received)
                running = self._run_chunk(program, running)
                bar.update(plan.chunk * images)
                due = time.monotonic() - self.saved_at > self.every_seconds
                if self.step % plan.epoch and processes.highest(due):
                    self._save(running, begun)
        seconds = time.monotonic() - begun
        means = jax.tree.map(lambda t: np.asarray(t) / plan.epoch, running.totals)
        record = self.end_epoch(epoch, running.state, means)
        record |= {
            "seconds": seconds,
            "images_per_second": (self.step - first) * images / (seconds - earlier),
        }
        self.writer.write(self.phase, epoch, record)
        self.checkpoints.save(self.step, running, record.get("accuracy"))
        self.saved_at = time.monotonic()
        _logger.info("%s", _line(self.phase, epoch, plan, record))
        return running

    def _run_chunk(self, program: Program, running: Running) -> Running:
        """Runs a chunk of steps, with a profiler trace if it is the chunk to trace."""
        traced = None
        if self.step == self.traced_step and processes.is_main():
            traced = self.profile
        with profiling.trace(traced) if traced else contextlib.nullcontext():
            running, finite = program.advance(running, self.step)
            finite = jax.device_get(finite)
        if traced:
            seconds = profiling.by_scope(traced, program.compiled.as_text())
            print(f"{self.phase}: {self.plan.chunk} {self.traced_kind} steps, traced in {traced}")
            print(profiling.table(seconds, self.plan.chunk))
        _check_finite(self.phase, self.step, self.plan, finite, self.checkpoints)
        self.step += self.plan.chunk
        done = (self.step - 1) % self.plan.epoch + 1
        self.writer.steps(self.phase, self.step, running.totals, done)
        return running

    def _save(self, running: Running, begun: float) -> None:
        """Saves a checkpoint within an epoch, given the time at which the epoch began."""
        self.checkpoints.save(self.step, running, seconds=time.monotonic() - begun)
        self.saved_at = time.monotonic()

    def _stopped(self, epoch: int) -> bool:
        # Only the main process has written the files that `stop` reads.
        reason = processes.from_main(lambda: self.stop(epoch))
        if reason:
            _logger.info("%s: %s", self.phase, reason)
        return bool(reason)

    def _raise_if(self, received: int) -> None:
        if received:
            raise Stopped(f"in {self.phase}, saved at step {self.step}", received)


def _tell_memory(phase: str, compiled: jax.stages.Compiled) -> None:
    """Logs how much memory a compiled program will need at most, and warns if that is too much."""
    sizes = compiled.memory_analysis()
    if sizes is None:  # not every backend provides it
        return
    # Per device; donated arguments are reused for outputs.
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    needed += sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    there = memory.of_device()
    _logger.info(
        "%s: needs %s of memory on each device, which has %s",
        *(phase, memory.in_gigabytes(needed), memory.in_gigabytes(there)),
    )
    if needed > there:
        mend = {
            "search": "set search.remat=True, a small search.ddarts.microbatch or lower data.batch_size",
            "train": "set train.accumulate or lower data.batch_size",
            "detect": "set smaller data.canvases or lower train.batch_images",
        }
        _logger.warning(
            "%s: this exceeds the available memory; if it runs out, %s",
            *(phase, mend[phase]),
        )


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
    names = ("loss", "accuracy", "box_ap", "mask_ap", "distance_to_start")
    shown = [f"{name} {record[name]:.4f}" for name in names if name in record]
    speed = f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s"
    return f"{phase} {epoch}/{plan.epochs}: {', '.join(shown)} ({speed})"

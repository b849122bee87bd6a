"""Launchers of runs: processes on this machine's devices, or jobs of SLURM through submitit.

Each run has its own process instead of being part of a batch in one program: a run that fails or is
stopped does not affect the others, each is resumed like any run, and runs that differ only in the seed
share their compiled programs through the persistent cache.
"""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ddarts_jax.errors import UserError, first_line
from ddarts_jax.files import write_text
from ddarts_jax.runs import layout
from ddarts_jax.training.signals import Stopped

_logger = logging.getLogger(__name__)

_ASK_DEVICES = """
import jax
from ddarts_jax.ops import backend
print(backend.name(), jax.local_device_count())
"""
_CLUSTER = "slurm"  # to submitit, which has others for tests
_JOB = "slurm_job"  # file in the workdir of a run: the number of its newest job
_POLL_SECONDS = 1.0  # between two looks at the jobs
_TIMEOUTS = 100  # times that a run may need another job: it ends, but a limit may be an hour


class Planned(NamedTuple):
    """A run to start.

    Attributes:
        name: in messages, "seed 1".
        workdir: created when it starts; its output goes to `log.txt` there.
        command: the program and its arguments.
    """

    name: str
    workdir: Path
    command: tuple[str, ...]

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.workdir / "log.txt"


def run(waiting: list[Planned], config, workdir: Path) -> dict[str, str]:
    """Starts runs, and returns when all have ended.

    Args:
        waiting: the runs, which start in this order.
        config: see `configuration.sweep_config`.
        workdir: of the sweep.

    Returns:
        {name: reason} of those that failed.

    Raises:
        UserError: they cannot be started.
        Stopped: a signal ended the wait. Processes received it too; SLURM's jobs go on, and the next
            call waits for them.
    """
    if not waiting:
        return {}
    if config.launcher == "slurm":
        return _as_jobs(waiting, config, workdir)
    return _as_processes(waiting, config.parallel)


class _Progress:
    """Tells which runs have ended, how many are left and for how long, and keeps why runs failed."""

    def __init__(self, total: int):
        self._total, self._ended, self._begun = total, 0, time.monotonic()
        self.failed: dict[str, str] = {}

    def ended(self, run: Planned, reason: str) -> None:
        """Notes a run that has ended; without a summary it has failed for this reason."""
        self._ended += 1
        if not (run.workdir / layout.SUMMARY).is_file():
            self.failed[run.name] = reason
            _logger.warning("%s: failed: %s", run.name, reason)
            return
        left = (time.monotonic() - self._begun) / self._ended * (self._total - self._ended)
        _logger.info(
            "%s: ended (%d/%d, about %.0f min left)",
            *(run.name, self._ended, self._total, left / 60),
        )


class _Process(NamedTuple):
    """A run in progress, and the index of its place."""

    run: Planned
    process: subprocess.Popen
    place: int


def _as_processes(waiting: list[Planned], parallel: int) -> dict[str, str]:
    """Runs as many at a time as there are places."""
    environments = _places(parallel)
    progress = _Progress(len(waiting))
    waiting, free, running = list(waiting), list(range(len(environments))), []
    passed_on = 0
    with _received() as received:
        while running or (waiting and not received):
            while waiting and free and not received:
                run, place = waiting.pop(0), free.pop()
                _logger.info("%s: runs, its output goes to %s", run.name, run.log)
                running.append(_Process(run, _start(run, environments[place]), place))
            time.sleep(0.2)
            for number in received[passed_on:]:  # not in the handler: a run may be starting then
                passed_on += 1
                for each in running:
                    each.process.send_signal(number)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                free.append(each.place)
                if not received:
                    progress.ended(each.run, _last_line(each.run.log) or "it printed nothing")
    if received:
        raise Stopped("with the state of the runs saved", received[0])
    return progress.failed


def _places(parallel: int) -> list[dict[str, str]]:
    """For each run at a time, the variables of its environment; 0: as many as there are devices."""
    devices = _devices()
    count = parallel or len(devices)
    places = [dict(devices[k % len(devices)]) for k in range(count)]
    if count > len(devices):
        for place in places:  # else the first on a device would take all its memory
            place["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return places


def _devices() -> list[dict[str, str]]:
    """For each place, the environment variables that restrict a process to its device.

    A CPU has two places without variables: a run keeps two cores busy for only part of its time, least
    of all while it compiles, and two runs at a time take 1 / 1.4 of the time of one after the other
    (benchmarks/RESULTS.md). Another process counts the GPUs, because counting them takes their memory.
    """
    asked = subprocess.run([sys.executable, "-c", _ASK_DEVICES], capture_output=True, text=True)
    backend, _, count = asked.stdout.strip().partition(" ")
    if backend != "gpu":
        return [{}] * min(2, os.cpu_count() or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(k) for k in range(int(count))]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names]


def _start(run: Planned, variables: dict[str, str]) -> subprocess.Popen:
    run.workdir.mkdir(parents=True, exist_ok=True)
    with open(run.log, "a") as output:
        return subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            start_new_session=True,  # otherwise a terminal's Ctrl-C would reach it twice
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Makes this process end with its parent (on Linux); called before the program starts."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _received() -> Iterator[list[int]]:
    """Yields a list to which every SIGINT and SIGTERM is appended."""
    received = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    try:
        yield received
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _last_line(log: Path) -> str:
    """Returns the last line with a text; empty if there is none."""
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "")


class _Work:
    """What a job does: a run, which is saved before the job's time is over, then continued.

    submitit pickles it, and calls `checkpoint` when SLURM warns the job.
    """

    def __init__(self, run: Planned):
        self._run = run

    def __call__(self) -> int:
        self._process = _start(self._run, {})
        return self._process.wait()

    def checkpoint(self):
        """Stops the run, whose state is saved; returns the work of the job's next start."""
        from submitit.helpers import DelayedSubmission

        self._process.send_signal(signal.SIGTERM)
        # Not `wait`: this interrupts the one above, which holds the lock of the process.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(_Work(self._run))


def _as_jobs(waiting: list[Planned], config, workdir: Path) -> dict[str, str]:
    """Submits a job for each run, except where the job of an earlier call goes on."""
    folder = workdir / "submitit"  # what it writes; like the runs, for all machines to see
    executor = _executor(config, folder)
    with (
        _received() as received
    ):  # from here on, so that no job is submitted without its number kept
        jobs = {run: job for run in waiting if (job := _going_on(run, folder))}
        new = [run for run in waiting if run not in jobs]
        for run, job in zip(new, _submit(executor, new), strict=True):
            run.workdir.mkdir(parents=True, exist_ok=True)
            write_text(run.workdir / _JOB, job.job_id)
            _logger.info("%s: SLURM job %s, its output goes to %s", run.name, job.job_id, run.log)
            jobs[run] = job
        progress = _Progress(len(jobs))
        while jobs and not received:
            time.sleep(_POLL_SECONDS)
            for run in [run for run, job in jobs.items() if job.done()]:
                job = jobs.pop(run)
                said = _last_line(run.log) or _last_line(job.paths.stderr)
                progress.ended(run, said or f"SLURM job {job.job_id} printed nothing")
    if received:
        raise Stopped("while its SLURM jobs go on", received[0])
    return progress.failed


def _executor(config, folder: Path):
    """Returns submitit's executor; UserError if it is missing, or knows no such cluster or parameter."""
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "config.launcher=slurm needs submitit: pip install 'ddarts_jax[slurm]', or use "
            "config.launcher=local."
        ) from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=_CLUSTER, slurm_max_num_timeout=_TIMEOUTS)
    except RuntimeError as error:
        raise UserError(
            "There is no SLURM on this machine (no command srun): start the sweep where jobs are "
            "submitted, or use config.launcher=local."
        ) from error
    try:
        executor.update_parameters(
            name="ddarts_jax",
            timeout_min=config.slurm.timeout_min,
            gpus_per_node=config.slurm.gpus_per_node or None,
            slurm_partition=config.slurm.partition or None,
            slurm_array_parallelism=config.parallel or None,
            **config.slurm.parameters,
        )
    except (NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"submitit does not take config.slurm.parameters={config.slurm.parameters}: "
            f"{first_line(error)}"
        ) from error
    return executor


def _going_on(run: Planned, folder: Path):
    """Returns the job of a run that an earlier call submitted, None if there is none or it is over."""
    path = run.workdir / _JOB
    if not path.is_file():
        return None
    import submitit

    job = submitit.SlurmJob(folder, path.read_text())
    if job.done(force_check=True):
        return None
    _logger.info("%s: SLURM job %s goes on; if not, delete %s", run.name, job.job_id, path)
    return job


def _submit(executor, runs: list[Planned]) -> list:
    """Submits runs as one array of jobs, of which `parallel` limits those at a time."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.submit_array([_Work(run) for run in runs]) if runs else []
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise UserError(f"SLURM does not take the jobs: {first_line(error)}") from error

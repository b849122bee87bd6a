"""Several processes that run one program together, on one machine or on many.

Every process sees all devices and takes every step; batches are split over all of them. Process 0 is
the one that reports: it alone logs, and writes and reads the workdir; what it has read the others get
from it, so only the data must be readable everywhere.

A process that dies leaves the others waiting for it in the middle of a step. So each of them shows
every few seconds in the coordinator's key-value store that it is alive, and ends with a message when
another one no longer does.
"""

import argparse
import contextlib
import ctypes
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 30.0  # after which a process counts as dead
_PIECE = 2**30  # bytes sent to the others at a time: JAX's numbers are int32, a state may be larger
_LOST = 3  # exit status of a process that ends because another one did

# What a launcher sets in every process that JAX can find its way with, and how many there are.
_LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
}


class Flags(NamedTuple):
    """Which process of how many this is.

    Attributes:
        coordinator: host:port of process 0.
        num_processes: in all.
        process_id: of this one, from 0.
    """

    coordinator: str
    num_processes: int
    process_id: int


def parse_flags(argv: list[str]) -> tuple[Flags | None, list[str]]:
    """Takes `--coordinator`, `--num_processes` and `--process_id` out of a command line.

    Returns:
        Them, None where there is none of them, and the other arguments.

    Raises:
        UserError: some are missing or have values that cannot be.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in Flags._fields:
        parser.add_argument(f"--{name}")
    found, others = parser.parse_known_args(argv)
    values = vars(found)
    missing = [f"--{name}" for name, value in values.items() if value is None]
    if len(missing) == len(values):
        return None, others
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: several processes need --coordinator=HOST:PORT (of "
            "process 0) and --num_processes=N, the same in all, and --process_id=I, from 0 to N - 1."
        )
    if not re.fullmatch(r".+:\d+", found.coordinator):
        raise UserError(
            f"--coordinator={found.coordinator} is no address; it must be HOST:PORT, the host of "
            "process 0 and a port that is free there."
        )
    try:
        count, index = int(found.num_processes), int(found.process_id)
    except ValueError:
        count = index = 0
    if not 0 <= index < count:
        raise UserError(
            f"--num_processes={found.num_processes} and --process_id={found.process_id} do not go "
            "together: the latter counts from 0 to one less than the former."
        )
    return Flags(found.coordinator, count, index), others


def start(flags: Flags | None) -> None:
    """Joins the other processes, before any device is used.

    Args:
        flags: None: from the variables that a launcher (SLURM, Open MPI) has set; without these
            there is one process, and nothing happens.

    Raises:
        UserError: the other processes do not come, or a launcher's variables are incomplete.
    """
    import jax

    if flags is None:
        counts = {
            name: (marker in os.environ, int(os.environ.get(size, "1")))
            for name, (marker, size) in _LAUNCHERS.items()
        }
        launched = any(present and count > 1 for present, count in counts.values())
        if counts["Open MPI"][1] > 1 and not launched:
            raise UserError(
                "This Open MPI does not say where process 0 is: give --coordinator=HOST:PORT, "
                "--num_processes=$OMPI_COMM_WORLD_SIZE and --process_id=$OMPI_COMM_WORLD_RANK."
            )
        if not launched:
            return
    arguments = tuple(flags) if flags else ()
    # It would take SIGTERM for itself; `loop` answers it in all processes alike.
    jax.config.update("jax_enable_preemption_service", False)
    # The watch is quicker than these; JAX's default lets the dead rest for 100 s.
    try:
        jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=60)
    except (RuntimeError, ValueError) as error:
        where = f"{flags.coordinator} of {flags.num_processes}" if flags else "the launcher names"
        raise UserError(
            f"The processes did not find each other (coordinator {where}): start all of them within "
            f"5 minutes, with the same address, whose port must be free ({_first_line(error)})."
        ) from error
    _watch.begin()


def index() -> int:
    """Which process this is, from 0."""
    return _watch.index


def count() -> int:
    """How many processes there are."""
    return _watch.count


def is_main() -> bool:
    """Whether this is the process that reports."""
    return index() == 0


def from_main(function: Callable[[], Any]) -> Any:
    """Calls `function` in process 0, and returns in every process what it returned there.

    All processes must call this together. What the function returns is pickled, as is a `UserError`,
    which is raised everywhere.
    """
    if count() == 1:
        return function()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    content = b""
    if is_main():
        try:
            answer = function(), None
        except UserError as error:
            answer = None, error
        content = pickle.dumps(answer)
    whole_and_rest = np.array(divmod(len(content), _PIECE), np.int32)
    whole, rest = map(int, broadcast_one_to_all(whole_and_rest))
    received = bytearray()
    for size in [_PIECE] * whole + [rest] * (rest > 0):
        piece = content[len(received) : len(received) + size] or bytes(size)
        received += broadcast_one_to_all(np.frombuffer(piece, np.uint8)).tobytes()
    result, error = pickle.loads(received)
    if error:
        raise error
    return result


def highest(number: int) -> int:
    """The highest of the numbers that the processes call this with, all of them together."""
    if count() == 1:
        return number
    from jax.experimental.multihost_utils import process_allgather

    return int(process_allgather(np.int32(number)).max())


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Creates a folder for the context, removed too if the death of another process ends this one."""
    with tempfile.TemporaryDirectory() as folder:
        _watch.scratch = folder
        yield folder
    _watch.scratch = None


def leave(status: int = 0, failure: str = "") -> None:
    """Ends this process's part in a run of several; does nothing in a run of one.

    Args:
        status: with which this process exits at once if it fails.
        failure: one line for the others, which may wait for this process; empty: all end together.
    """
    if not _watch.running:
        return
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if failure:
        _watch.end(status)
        _watch.tell(failure)
        # Until the others have heard; in a normal exit JAX would wait for them to come along.
        time.sleep(2 * _BEAT_SECONDS)
        os._exit(status)
    _watch.end()
    jax.distributed.shutdown()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def wait_for_verdict() -> None:
    """After an error that another process's death may have caused: waits to be told so, and ended."""
    if _watch.running:
        time.sleep(_SILENCE_SECONDS + 3 * _BEAT_SECONDS)


class _Watch:
    """A thread that shows that this process is alive, and ends it when another one is not."""

    def __init__(self):
        self.running = False
        self.index, self.count = 0, 1
        self.scratch: str | None = None
        self._ended = threading.Event()

    def begin(self) -> None:
        import jax

        # JAX shows no public way to the key-value store of its coordinator.
        from jax._src.distributed import global_state

        self.running = True
        self._status = _LOST
        self._client = global_state.client
        self.index, self.count = jax.process_index(), jax.process_count()
        self._beats = 0
        self._seen = {number: ("", time.monotonic()) for number in range(self.count)}
        # When process 0 dies JAX aborts the others at once, with a page of C++ that names nobody.
        # Python's own handlers run too late for that.
        self._coordinator = global_state.coordinator_address
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(int(signal.SIGABRT), self._handler)
        self._beat()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self, status: int = _LOST) -> None:
        """Watches no longer; where process 0 goes before this one does, it exits with `status`."""
        self._status = status
        self._ended.set()
        self._thread.join()
        self.running = False

    def tell(self, reason: str) -> None:
        """Lets the others know that this process ends."""
        try:
            self._client.key_value_set(f"ddarts/ended/{self.index}", reason)
        except Exception:  # the coordinator is gone too
            _logger.warning("the other processes could not be told of this")

    def _run(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            try:
                self._beat()
                ended = self._client.key_value_dir_get("ddarts/ended")
                alive = self._client.key_value_dir_get("ddarts/alive")
            except Exception as error:
                if not self._ended.is_set():
                    self._lost(0, f"has died or cannot be reached ({_first_line(error)})")
                return
            for key, reason in ended:
                self._lost(int(key.rpartition("/")[2]), f"has ended: {reason}")
            texts = {int(key.rpartition("/")[2]): text for key, text in alive}
            for number, (seen, since) in self._seen.items():
                text = texts.get(number, "")
                if text != seen:
                    self._seen[number] = text, time.monotonic()
                elif time.monotonic() - since > _SILENCE_SECONDS:
                    who = text.partition(" ")[2]
                    self._lost(number, f"({who}) has been silent for {_SILENCE_SECONDS:.0f} s")

    def _beat(self) -> None:
        self._beats += 1
        self._client.key_value_set(
            f"ddarts/alive/{self.index}",
            f"{self._beats} host {socket.gethostname()}, pid {os.getpid()}",
            allow_overwrite=True,
        )

    def _aborted(self, number: int) -> None:
        if self._ended.is_set():
            os._exit(self._status)
        host, _, port = self._coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError:
            self._lost(0, "has died or cannot be reached")

    def _lost(self, number: int, what: str) -> None:
        message = (
            f"error: process {number} of {self.count} {what}; process {self.index} ends with it. "
            "The same commands with the same --workdir continue from the last checkpoint.\n"
        )
        os.write(2, message.encode())
        if self.scratch:  # no context manager ends after this
            shutil.rmtree(self.scratch, ignore_errors=True)
        os._exit(_LOST)


_watch = _Watch()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Several processes that run one program together, on one machine or on many.

Every process sees all devices and takes every step; batches are split over all of them. Process 0
reports: only it logs, and only it reads and writes the workdir; it sends what it has read to the
others, so that only the data must be readable everywhere.

If one process dies, the others would wait for it forever in the middle of a step. JAX's coordination
service notices that its heartbeats have stopped and aborts the others, with a page of C++ that names
the dead one; `_on_abort` adds what the user can do.
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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.errors import UserError, first_line

_SILENCE_SECONDS = 30  # without a heartbeat, after which JAX counts a process as dead
_GRACE_SECONDS = 3.0  # for other processes to come to the same failure
_PIECE = 2**30  # bytes sent to the others at a time: JAX's numbers are int32, a state may be larger
_LOST = 3  # exit status of a process that ends because another one did

# Variables that a launcher sets in every process: one with which JAX finds the others, and their number.
_LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
}


class Flags(NamedTuple):
    """Place of this process among several.

    Attributes:
        coordinator: host:port of process 0.
        num_processes: number of all processes.
        process_id: number of this one, from 0.
    """

    coordinator: str
    num_processes: int
    process_id: int


def parse_flags(argv: list[str]) -> tuple[Flags | None, list[str]]:
    """Takes `--coordinator`, `--num_processes` and `--process_id` out of a command line.

    Returns:
        The flags, or None if none of them is given; the other arguments.

    Raises:
        UserError: some are missing or have impossible values.
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
            f"--coordinator={found.coordinator} is not an address; it must be HOST:PORT, the host of "
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


class _Group:
    """The run of several processes that this process is part of.

    Attributes:
        index: of this process, from 0.
        count: number of processes.
        scratch: folder to remove when this process is aborted.
        handler: C function that handles SIGABRT, kept because C does not; None in a run of one process.
    """

    index = 0
    count = 1
    scratch: str | None = None
    handler: Any = None


_group = _Group()


def start(flags: Flags | None) -> None:
    """Joins the other processes, before any device is used.

    Args:
        flags: None: use the variables that a launcher (SLURM, Open MPI) has set; without these
            there is one process, and nothing happens.

    Raises:
        UserError: the other processes do not come, or a launcher's variables are incomplete.
    """
    if flags is None and not _is_launched():
        return
    import jax

    arguments = tuple(flags) if flags else ()
    # It would take SIGTERM for itself; `training.signals` answers it in all processes alike.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=_SILENCE_SECONDS)
    except (RuntimeError, ValueError) as error:
        where = f"{flags.coordinator} of {flags.num_processes}" if flags else "the launcher names"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The processes did not find each other (coordinator {where}): start all of them within "
            f"5 minutes, with the same address, whose port must be free ({reason})."
        ) from error
    _group.index, _group.count = jax.process_index(), jax.process_count()
    _catch_aborts()


def _is_launched() -> bool:
    """Returns whether a launcher has started several processes that JAX can connect.

    Raises:
        UserError: it has, but JAX cannot.
    """
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
    return launched


def _catch_aborts() -> None:
    """Has `_on_abort` called when JAX aborts this process."""
    # A handler set by Python's `signal` runs too late: abort() ends the process before it.
    _group.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _group.handler)


def _on_abort(signal_number: int) -> None:
    """Ends this process cleanly where JAX would abort it."""
    message = (
        f"error: process {_group.index} of {_group.count} was aborted. Most often another process "
        "has died or failed: the lines above name it, and its own output says why. The same commands "
        "with the same --workdir continue from the last checkpoint.\n"
    )
    os.write(2, message.encode())
    if _group.scratch:  # no context manager ends after this
        shutil.rmtree(_group.scratch, ignore_errors=True)
    os._exit(_LOST)


def index() -> int:
    """Returns the number of this process, from 0."""
    return _group.index


def count() -> int:
    """Returns the number of processes."""
    return _group.count


def is_main() -> bool:
    """Returns whether this is the process that reports."""
    return index() == 0


def devices() -> list:
    """Returns the devices of all processes.

    Raises:
        UserError: JAX finds none, as where JAX_PLATFORMS names a kind that it is not installed for.
    """
    import jax

    log = logging.getLogger("jax._src.xla_bridge")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it would print a traceback besides
    try:
        return jax.devices()
    except Exception as error:  # JAX raises RuntimeError, and AssertionError for a missing plugin
        asked = os.environ.get("JAX_PLATFORMS")
        reason = first_line(error)
        raise UserError(
            f"JAX finds no device{f' with JAX_PLATFORMS={asked}' if asked else ''} ({reason:.200}): set "
            "JAX_PLATFORMS=cpu, or install JAX for the device, as by pip install 'ddarts_jax[cuda12]'."
        ) from error
    finally:
        log.setLevel(level)


def from_main(function: Callable[[], Any]) -> Any:
    """Calls `function` in process 0 and returns its result in every process.

    All processes must call this together. The result is pickled.

    Raises:
        UserError: `function` raised it in process 0; it is raised in every process.
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
    pieces_and_rest = np.array(divmod(len(content), _PIECE), np.int32)
    pieces, rest = map(int, broadcast_one_to_all(pieces_and_rest))
    received = bytearray()
    for size in [_PIECE] * pieces + [rest] * (rest > 0):
        piece = content[len(received) : len(received) + size] or bytes(size)
        received += broadcast_one_to_all(np.frombuffer(piece, np.uint8)).tobytes()
    result, error = pickle.loads(received)
    if error:
        raise error
    return result


def highest(number: int) -> int:
    """Returns the highest `number` of all processes, which must call this together."""
    if count() == 1:
        return number
    from jax.experimental.multihost_utils import process_allgather

    return int(process_allgather(np.int32(number)).max())


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Creates a folder for the context; it is removed even if this process is aborted."""
    with tempfile.TemporaryDirectory() as folder:
        _group.scratch = folder
        yield folder
    _group.scratch = None


def leave(status: int = 0, failed: bool = False) -> None:
    """Ends this process's part in a run of several; does nothing in a run of one.

    Args:
        status: of the exit, which is immediate if this process failed.
        failed: whether this process ends before the others, which JAX then aborts; otherwise all
            processes end together.
    """
    if not _group.handler:
        return
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if failed:
        # JAX aborts the others as soon as process 0 is gone, also those that are about to report the
        # same mistake. A normal exit would wait until all of them have come along.
        if is_main():
            time.sleep(_GRACE_SECONDS)
        os._exit(status)
    jax.distributed.shutdown()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def wait_for_verdict() -> None:
    """Waits, after an error that another process's death may have caused, to be aborted by JAX."""
    if _group.handler:
        time.sleep(_SILENCE_SECONDS + _GRACE_SECONDS)

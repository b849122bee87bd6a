"""The workdir of a run: which process uses it, and the run's time over all of its starts."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.runs import layout

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir; two in it would delete each other's checkpoints.

    The lock is the system's, which releases it however the process ends, so none outlives its holder.
    The file `.lock` names the process that has it.

    Args:
        workdir: exists.

    Raises:
        UserError: another process has the lock; names that process and its host.
    """
    with open(workdir / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{workdir} is in use by {holder}: wait until it has ended, or use another --workdir."
            ) from error
        except OSError as error:  # some network file systems have no locks
            _logger.warning("%s cannot be locked (%s): start no second run in it", workdir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


class Clock:
    """Counts the seconds of a run over all of its starts, which `seconds.json` keeps.

    A start that is killed loses the seconds since it last called `keep`.

    Attributes:
        before: seconds of the earlier starts.
    """

    def __init__(self, workdir: Path, *, counts: bool = True):
        """Starts to count.

        Args:
            workdir: of the run.
            counts: whether this start is part of the run. An evaluation is not, and leaves the time of
                the run that it evaluates as it is.
        """
        self._counts = counts
        self._path = workdir / layout.SECONDS
        self._begun = time.monotonic()
        self.before = 0.0
        # The summary of a run that an older version began has those of one start at least.
        for path in (self._path, workdir / layout.SUMMARY):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                self.before = float(json.loads(path.read_bytes())["seconds"])
                break

    def total(self) -> float:
        """Returns the seconds of all starts, this one's so far."""
        if self.before and not self._counts:
            return self.before
        return self.before + time.monotonic() - self._begun

    def keep(self) -> None:
        """Writes the seconds so far, if this start counts."""
        if self._counts:
            write_json(self._path, {"seconds": round(self.total(), 1)})

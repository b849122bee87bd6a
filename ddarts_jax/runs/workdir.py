"""The workdir of a run: the lock against other processes, and the run's time over all its starts."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddarts_jax.errors import UserError
from ddarts_jax.files import read_entry, write_json
from ddarts_jax.runs import layout

_logger = logging.getLogger(__name__)

PHASES = ("pipeline", "search", "train", "evaluate")  # tasks whose workdir is that of a run
DETECTION = ("detect", "detect_evaluate")  # likewise, of a detector


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir; two in it would delete each other's checkpoints.

    The operating system releases the lock however the process ends, so it never outlives its holder.
    The file `.lock` names the process that holds it.

    Args:
        workdir: an existing folder.

    Raises:
        UserError: another process holds the lock; the message names that process and its host.
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
        except OSError as error:  # some network file systems do not support locks
            _logger.warning("%s cannot be locked (%s): start only one run in it", workdir, error)
        else:
            _remove_unfinished(workdir)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _remove_unfinished(workdir: Path) -> None:
    """Removes what a killed process was writing, see `files.writing` and `Genotype.save`."""
    for folder in (".", "genotypes", "alphas", "candidates/*"):
        for path in workdir.glob(f"{folder}/*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)


def check_apart(folder: str | os.PathLike, data: str, what: str = "--workdir") -> None:
    """Refuses a folder for results inside a folder of images, where it would be taken for a class.

    Args:
        folder: that is to be written to; it need not exist.
        data: `config.data.name`.
        what: the flag or key that names the folder, for the message.

    Raises:
        UserError: it lies inside; nothing has been created yet.
    """
    kind, _, path = data.partition(":")
    if kind != "folder" or not path:
        return
    images = Path(os.path.expanduser(path)).resolve()
    if Path(os.path.expanduser(folder)).resolve().is_relative_to(images):
        raise UserError(
            f"The folder for the results, {folder}, lies inside the images of data.name={data}, whose "
            f"folders are classes: name one elsewhere, {what}=DIR."
        )


def task_of(workdir: Path) -> Any:
    """Returns the task of the run in a folder; None if there is none.

    Raises:
        UserError: its config is corrupt.
    """
    return read_entry(workdir / layout.CONFIG, "task", "Config")


def check_kind(task: str, workdir: Path) -> None:
    """Refuses a detector in the workdir of another run, and any other run in that of a detector.

    Raises:
        UserError: the workdir holds a run of the other kind; nothing has been written.
    """
    found = task_of(workdir)
    if found in PHASES + DETECTION and (found in DETECTION) != (task in DETECTION):
        raise UserError(
            f"{workdir} holds a run of task {found!r}, with which task {task!r} has nothing to do: name "
            "another --workdir."
        )


def create(workdir: str | os.PathLike) -> Path:
    """Creates a workdir, unless it exists.

    Raises:
        UserError: it cannot be created.
    """
    path = Path(os.path.expanduser(workdir))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The workdir {path} cannot be created ({error.strerror or error}): name another, "
            "--workdir=DIR."
        ) from error
    return path


class Clock:
    """Counts the seconds of a run over all its starts and keeps them in `seconds.json`.

    A start that is killed loses the seconds since its last call of `keep`.

    Attributes:
        before: seconds of the earlier starts.
        compiling: seconds of all starts that went into compiling, as of the last `keep`.
    """

    def __init__(self, workdir: Path, *, counts: bool = True, compiled: float = 0.0):
        """Starts counting.

        Args:
            workdir: workdir of the run.
            counts: whether this start is part of the run. An evaluation is not, and does not change the
                time of the run that it evaluates.
            compiled: seconds that this process has spent compiling for other runs before.
        """
        self._counts = counts
        self._path = workdir / layout.SECONDS
        self._begun = time.monotonic()
        self.before, self._compiled, self._of_others = 0.0, 0.0, compiled
        # If an older version began the run, its summary contains the seconds of at least one start.
        for path in (self._path, workdir / layout.SUMMARY):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                found = json.loads(path.read_bytes())
                self.before = float(found["seconds"])
                self._compiled = float(found.get("compiling", 0.0))
                break
        self.compiling = self._compiled

    def total(self) -> float:
        """Returns the seconds of all starts, including this one so far."""
        if self.before and not self._counts:
            return self.before
        return self.before + time.monotonic() - self._begun

    def keep(self, compiling: float = 0.0) -> None:
        """Writes the seconds so far, if this start counts.

        Args:
            compiling: seconds that this process has spent compiling.
        """
        if self._counts:
            self.compiling = self._compiled + max(compiling - self._of_others, 0.0)
            found = {"seconds": round(self.total(), 1)}
            if self.compiling:
                found["compiling"] = round(self.compiling, 1)
            write_json(self._path, found)

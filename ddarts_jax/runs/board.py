"""Events for TensorBoard, written at once.

Not tensorboardX's `SummaryWriter`: it writes in a thread, which a full disk ends with a traceback, and
the run then waits for that thread for ever.
"""

import logging
import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

_logger = logging.getLogger(__name__)


class Board:
    """A file of events. After an error of the disk it is silent: the numbers are in metrics.jsonl too."""

    def __init__(self, directory: str | os.PathLike, purge_step: int | None = None):
        """Creates a new file.

        Args:
            directory: created if needed.
            purge_step: TensorBoard then ignores what earlier files say of this step and later ones.
        """
        self._directory, self._writer = Path(directory), None
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            prefix = str(self._directory / "events")
            self._writer = EventsWriter(prefix, filename_suffix=f".{time.time_ns()}")
            if purge_step is not None:
                # Both, as TensorBoard knows the one or the other from the age of its reader.
                self._write(Event(step=purge_step, file_version="brain.Event:2"))
                self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            self._end(error)

    def add_scalar(self, tag: str, value: float, step: int, name: str, description: str) -> None:
        """Writes a number with the name and the description that TensorBoard shows."""
        if self._writer:
            self._write(Event(step=step, summary=scalar(tag, value, name, description)))

    def flush(self) -> None:
        """Hands everything to the operating system."""
        try:
            if self._writer:
                self._writer.flush()
        except OSError as error:
            self._end(error)

    def close(self) -> None:
        """Flushes and closes the file."""
        try:
            if self._writer:
                self._writer.close()
        except OSError as error:
            self._end(error)
        self._writer = None

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            if self._writer:
                self._writer.write_event(event)
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        self._writer = None
        reason = error.strerror or error
        _logger.warning("No more events for TensorBoard in %s: %s", self._directory, reason)

"""Events for TensorBoard, written at once.

Not tensorboardX's `SummaryWriter`: it writes in a thread, which a full disk ends with a traceback, and
the run then waits for that thread for ever.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, scalar

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

    def add_settings(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Writes what the tab for hyperparameters shows: {key: value}, and what came of them."""
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in settings.items()
        }
        for summary in hparams(plain, results):
            self._write(Event(summary=summary))
        for name, value in results.items():
            self._write(Event(summary=scalar(name, value)))

    def add_picture(self, tag: str, path: Path) -> None:
        """Writes a PNG file as it is."""
        picture = Summary.Image(encoded_image_string=path.read_bytes())
        self._write(Event(summary=Summary(value=[Summary.Value(tag=tag, image=picture)])))

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


def write_outcome(
    directory: Path,
    settings: Mapping[str, Any],
    results: Mapping[str, float],
    pictures: Iterable[Path],
) -> None:
    """Writes what an ended run came to, for TensorBoard to compare it with others.

    Args:
        directory: created if needed; what an earlier call wrote there is replaced.
        settings: {dotted key: value} of the config.
        results: numbers of the summary.
        pictures: PNG files, each under the name of its file.
    """
    earlier = list(directory.glob("events.*"))
    board = Board(directory)
    board.add_settings(settings, results)
    for picture in pictures:
        board.add_picture(picture.stem, picture)
    board.close()
    for path in earlier:
        path.unlink(missing_ok=True)

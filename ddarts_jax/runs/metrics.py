"""Progress reporting: metrics.jsonl, TensorBoard events and a progress bar."""

import json
import logging
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import append_line, writing
from ddarts_jax.runs import layout, rows
from ddarts_jax.runs.board import Board
from ddarts_jax.runs.callbacks import Callback, tell
from ddarts_jax.runs.table import METRICS, Metric

_logger = logging.getLogger(__name__)


class MetricsWriter:
    """Writes `metrics.jsonl`, one line per epoch and phase, and TensorBoard events in a workdir.

    TensorBoard gets one run per phase, in `tensorboard/<phase>`, so that a resumed phase can withdraw
    its own later events without touching another's.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        after: Callable[[Path], Any] | None = None,
        callbacks: tuple[Callback, ...] = (),
    ):
        """Opens a workdir.

        Args:
          workdir: created if needed.
          after: called with the workdir after each line, see `report`.
          callbacks: told of every line, and of the steps between them.
        """
        self._after, self._callbacks = after, callbacks
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / layout.METRICS
        self._boards: dict[str, Board] = {}

    def write(self, phase: str, epoch: int, metrics: dict[str, Any]) -> None:
        """Appends one line, and the numbers in it to TensorBoard at step `epoch`.

        Args:
          phase: 'search', 'random', 'train' or 'detect'.
          epoch: counted from 1.
          metrics: numbers, strings and arrays, which may be nested in lists and dictionaries. A number
            that is not finite becomes null, because JSON has no NaN.

        Raises:
          UserError: the line cannot be written.
        """
        measured = jax.device_get(metrics)
        metrics = _plain(measured)
        line = json.dumps({"phase": phase, "epoch": int(epoch), **metrics}, allow_nan=False)
        append_line(self._path, line)
        if phase not in self._boards:
            self._boards[phase] = Board(self._workdir / "tensorboard" / phase)
        self._to_tensorboard(phase, int(epoch), metrics)
        self.report()
        for callback in self._callbacks:
            tell(callback, "on_epoch", phase, int(epoch), measured)

    def steps(self, phase: str, step: int, totals: dict[str, Any], count: int) -> None:
        """Tells callbacks of the steps so far; nothing is written.

        Args:
          phase: see `write`.
          step: steps done in all epochs.
          totals: metrics summed over this epoch's steps so far, on any device.
          count: number of these steps.
        """
        if not self._callbacks:
            return
        means = jax.tree.map(lambda total: np.asarray(total) / count, totals)
        for callback in self._callbacks:
            tell(callback, "on_step", phase, step, means)

    def _to_tensorboard(self, phase: str, epoch: int, row: dict[str, Any]) -> None:
        """Writes every number of a row, with name and description if the table of metrics has it."""
        board, table = self._boards[phase], METRICS.get(phase, {})
        labelled = row | {"phase": phase}
        computed = {key: rows.value(labelled, key) for key, m in table.items() if m.difference}
        for key, value in (row | computed).items():
            metric = table.get(key, Metric(key, "", ""))
            for path, number in _scalars(key, value):
                cell = path.removeprefix(f"{key}/")
                name = f"{metric.name}, cell {cell}" if metric.per_cell else metric.name
                tag = f"{phase}/{metric.tag or key}{path.removeprefix(key)}"
                board.add_scalar(tag, number, epoch, name, metric.description)
        board.flush()

    def report(self) -> None:
        """Calls `after`; if it fails, logs one warning and does not call it again."""
        if self._after:
            try:
                self._after(self._workdir)
            except Exception as error:  # a failing report must not end a run of hours
                _logger.warning("Could not write the report for %s: %r", self._workdir, error)
                self._after = None

    def rewind(self, phase: str, epoch: int) -> None:
        """Drops corrupt lines, and those of `phase` from `epoch` on, which a resumed run rewrites."""
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        kept = []
        for line in lines:
            record = _record(line)
            if record and not (record["phase"] == phase and record["epoch"] >= epoch):
                kept.append(line + b"\n")
        with writing(self._path) as temporary:
            temporary.write_bytes(b"".join(kept))
        if phase in self._boards:
            self._boards[phase].close()
        self._boards[phase] = Board(self._workdir / "tensorboard" / phase, purge_step=epoch)

    def close(self) -> None:
        """Closes the TensorBoard files."""
        for board in self._boards.values():
            board.close()


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl, except a last line that is still being written.

    Raises:
      UserError: there is no such file, or a line of it is not a metrics line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"Cannot read the metrics {str(path)!r}: {error.strerror}.") from error
    records = [_record(line) for line in lines[:-1]]
    if None in records:
        raise UserError(f"Line {records.index(None) + 1} of {str(path)!r} is not a metrics line.")
    return records


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (n - 1); the latter is None for a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread


def progress(description: str, images: int) -> tqdm:
    """Returns a progress bar over `images` images; silent if not on a terminal.

    Call `update(n)` after n images; use it as a context manager.
    """
    return bar(description, total=images, unit=" images")


def bar(description: str, **options: Any) -> tqdm:
    """Returns a bar of tqdm with these options; silent if not on a terminal, and gone at its end."""
    return tqdm(
        desc=description,
        **options,
        disable=None if processes.is_main() else True,  # None: disabled unless stderr is a terminal
        leave=False,
        dynamic_ncols=True,
    )


def _record(line: bytes) -> dict[str, Any] | None:
    """Returns the record in a line of metrics.jsonl, None if there is none."""
    try:
        record = json.loads(line)
    except ValueError:  # from JSON or UTF-8
        return None
    whole = isinstance(record, dict) and isinstance(record.get("phase"), str)
    return record if whole and isinstance(record.get("epoch"), int) else None


def _plain(value: Any) -> Any:
    """Converts a value to types that strict JSON can represent."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        # bfloat16 and the like have no corresponding Python type.
        known = value.dtype.kind in "biufSU"
        return _plain((value if known else value.astype(np.float32)).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _scalars(name: str, value: Any) -> list[tuple[str, float]]:
    """Returns (name/key/index..., number) of every number in nested dictionaries and lists."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _scalars(f"{name}/{key}", item)]
    if isinstance(value, list):
        return [pair for i, item in enumerate(value) for pair in _scalars(f"{name}/{i}", item)]
    return [(name, float(value))] if isinstance(value, int | float) else []

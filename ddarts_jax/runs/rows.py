"""Rows of metrics.jsonl, read according to the table of metrics."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ddarts_jax.runs.table import METRICS

# Also in a row, but not metrics: they identify the row.
LABELS = ("phase", "epoch")


def value(row: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a metric in a row, None if it has none."""
    metric = METRICS.get(row["phase"], {}).get(key)
    if metric is None or metric.difference is None:
        return row.get(key)
    first, second = (number(row.get(part)) for part in metric.difference)
    return None if first is None or second is None else first - second


def series(
    rows: Iterable[Mapping[str, Any]], key: str, cell: int | None = None
) -> list[float | None]:
    """Returns the values of a metric, one per row.

    Args:
        rows: rows of one phase.
        key: a key of the table, or one found by `unknown`.
        cell: index of the cell, for a metric with one number per cell.

    Returns:
        Numbers; None for a value that is missing, not finite or not a number.

    Raises:
        KeyError: neither the table nor a row has the key, so that a misspelt metric is not just a gap.
    """
    rows = list(rows)
    if not any(key in names for names in (*METRICS.values(), *rows)):
        raise KeyError(key)
    values = [value(row, key) for row in rows]
    if cell is not None:
        values = [v[cell] if isinstance(v, list) and len(v) > cell else None for v in values]
    return [number(v) for v in values]


def num_cells(rows: Iterable[Mapping[str, Any]], key: str) -> int:
    """Returns the largest number of values per row of a metric, 0 if it is never a list."""
    values = [value(row, key) for row in rows]
    return max((len(v) for v in values if isinstance(v, list)), default=0)


def last(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Returns a metric's value in the last row that has one."""
    return next((v for v in reversed(series(rows, key)) if v is not None), None)


def unknown(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys of the rows that are not in the table for their phase, sorted."""
    return sorted(
        {key for row in rows for key in row if key not in (*LABELS, *METRICS.get(row["phase"], ()))}
    )


def number(value: Any) -> float | None:
    """Returns a JSON value unchanged if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON's integers are unbounded, and one that does not fit in a float cannot be drawn.
    return value if is_number and abs(value) <= sys.float_info.max else None

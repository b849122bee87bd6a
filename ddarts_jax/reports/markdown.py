"""Tables of Markdown, for the files and the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table of Markdown, without a newline at its end.

    Args:
        header: titles of the columns, plain text like all cells; nothing in them ends a cell or a row.
        rows: as many cells each.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(content: Any) -> str:
    return " ".join(str(content).replace("|", "\\|").splitlines())

"""Callbacks: what experiment trackers, and other programs of the user, are told of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

from ddarts_jax.errors import UserError


class Callback:
    """Is told of a search or a training; a subclass has those of the methods that it needs.

    Metrics are numbers and NumPy arrays, those of cells with an entry for each cell, under the names of
    `metrics.jsonl`. An error that a method raises ends the run with a note that names the method; the
    same call continues from the last checkpoint. In a search in stages only the last one is told of.
    """

    def on_step(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Is called after every chunk of `config.chunk_steps` steps, which run as one program.

        Args:
            phase: "search" or "train".
            step: steps done in all epochs so far.
            metrics: those that each step measures, means over the steps of this epoch so far.
        """

    def on_epoch(self, phase: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Is called when an epoch's line is in `metrics.jsonl`, before its checkpoint is saved.

        Args:
            phase: "search" or "train"; "random" for a candidate of random search.
            epoch: from 1.
            metrics: all of that line, the epoch's means among them.
        """

    def on_end(self, phase: str, error: BaseException | None) -> None:
        """Is called once, when all files of the run are written, or when something ends it.

        Args:
            phase: "search" or "train".
            error: what ends it early, for instance `KeyboardInterrupt`; None: it is done.
        """


def checked(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Returns callbacks; UserError unless each can be told."""
    found = tuple(callbacks)
    for callback in found:
        if not isinstance(callback, Callback):
            raise UserError(
                f"{callback!r} is no callback: give an object of a class derived from dd.Callback."
            )
    return found


def tell(callback: Callback, method: str, phase: str, *arguments: Any) -> None:
    """Calls a method of a callback; a note names it in an error that it raises."""
    try:
        getattr(callback, method)(phase, *arguments)
    except Exception as error:
        error.add_note(f"Raised in {phase} by the callback {type(callback).__qualname__}.{method}.")
        raise

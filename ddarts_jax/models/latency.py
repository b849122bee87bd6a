"""Latencies of primitives on a device: the file that says them, and their measurement.

The file is JSON, `{"device", "dtype", "batch", "versions", "milliseconds": [{"primitive", "channels",
"stride", "size", "ms"}, ...]}`. Whoever measures on a device that this program does not run on, such as a
phone, writes it by hand.

A measured primitive is a program of its own. What it takes above a program of the same arguments that
does nothing counts, as a network is one program and pays for its start once.
"""

import logging
import reprlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.models import cost, layers, primitives
from ddarts_jax.models.cost import Place
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet

_logger = logging.getLogger(__name__)

_TEXT = ("a text that is not empty", lambda value: isinstance(value, str) and value)
_WHOLE = ("a whole number of 1 or more", lambda value: type(value) is int and value >= 1)
_FIELDS = {
    "device": _TEXT,
    "dtype": _TEXT,
    "batch": _WHOLE,
    "versions": ("an object", lambda value: isinstance(value, dict)),
    "milliseconds": ("a list of entries", lambda value: isinstance(value, list) and value),
}
_MOST = 1e6  # beyond it the unit must be a mistake
_ENTRY = {
    "primitive": _TEXT,
    "channels": _WHOLE,
    "stride": ("1 or 2", lambda value: type(value) is int and value in (1, 2)),
    "size": _WHOLE,
    "ms": (f"from 0 to {_MOST:g}", lambda v: type(v) in (int, float) and 0 <= v <= _MOST),
}


class Table(NamedTuple):
    """What primitives take on a device.

    Attributes:
        device: its name.
        dtype: compute dtype.
        batch: images in a batch.
        versions: {package: version} of what measured it.
        milliseconds: of a batch, by place.
    """

    device: str
    dtype: str
    batch: int
    versions: dict[str, str]
    milliseconds: dict[Place, float]

    def of(self, net: Supernet, image_size: int, path: str) -> np.ndarray:
        """Looks up every candidate of a supernet, float64 [distinct cells, E, O]; see `cost.tabulate`.

        Args:
            net: the supernet.
            image_size: pixels per side of the images.
            path: the table's file, for the message.

        Raises:
            UserError: the table lacks a candidate; the message names it.
        """

        def price(*place):
            if place not in self.milliseconds:
                raise UserError(
                    f"Latency table {path} has no {say(Place(*place))}, which this network needs: add "
                    "it, or measure all that it needs by ddarts-jax --config latency "
                    "--config.run=CONFIG, with the config of this search."
                )
            return self.milliseconds[place]

        return cost.tabulate(net, image_size, price)


def say(place: Place) -> str:
    """Names a place in a sentence."""
    name, channels, stride, size = place
    return f"{name} of {channels} channels, stride {stride}, on {size}x{size}"


def load(path: str | Path) -> Table:
    """Reads a table; nothing else may be in it, so that a misspelt field is not overlooked.

    Raises:
        UserError: the file is missing, unreadable or no such table.
    """
    path = Path(path)
    found = read_json(path, "Latency table")
    _check(found, _FIELDS, f"Latency table {path}")
    milliseconds = {}
    for number, entry in enumerate(found["milliseconds"], 1):
        _check(entry, _ENTRY, f"Latency table {path}, entry {number} of milliseconds")
        place = Place(*(entry[field] for field in Place._fields))
        if place in milliseconds:
            raise UserError(f"Latency table {path} has {say(place)!r} twice: remove one entry.")
        milliseconds[place] = float(entry["ms"])
    return Table(**found | {"milliseconds": milliseconds})


def _check(found: Any, fields: dict[str, tuple[str, Callable]], what: str) -> None:
    """Raises UserError unless `found` has exactly these fields and each is what it must be."""
    if not isinstance(found, dict) or set(found) != set(fields):
        raise UserError(
            f"{what} must be one JSON object with the fields {', '.join(fields)} alone, found "
            f"{reprlib.repr(found)}."
        )
    for field, (words, allowed) in fields.items():
        if not allowed(found[field]):
            raise UserError(f"{what}: {field} is {reprlib.repr(found[field])}; it must be {words}.")


def save(table: Table, path: Path) -> None:
    """Writes a table; see `load`."""
    entries = [place._asdict() | {"ms": ms} for place, ms in table.milliseconds.items()]
    write_json(path, table._asdict() | {"milliseconds": entries})


def measure(wanted: Sequence[Place], batch: int, dtype, repeats: int) -> dict[Place, float]:
    """Measures primitives of a derived network, in evaluation, on the present device.

    Each is timed once in every turn, after a program that does nothing, so that a slow moment of the
    device hits all of them.

    Args:
        wanted: the primitives.
        batch: images in a batch.
        dtype: compute dtype.
        repeats: turns, after one run of each that warms up; the median of the differences counts.

    Returns:
        Milliseconds of a batch, for each of `wanted`.
    """
    pairs = []
    for number, place in enumerate(wanted, 1):
        pairs.append(_programs(place, batch, dtype))
        for run in pairs[-1]:
            seconds(run)  # compiles, and warms up
        _logger.info("latency: %d/%d compiled: %s", number, len(wanted), say(place))
    turns = []
    for turn in range(1, repeats + 1):
        turns.append([-seconds(nothing) + seconds(run) for nothing, run in pairs])
        if turn % max(1, repeats // 5) == 0:
            _logger.info("latency: %d/%d turns", turn, repeats)
    medians = map(statistics.median, zip(*turns))
    return {place: 1e3 * max(0.0, median) for place, median in zip(wanted, medians, strict=True)}


def seconds(run: Callable) -> float:
    """Times a call, until its result is there."""
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begun


def _programs(place: Place, batch: int, dtype) -> tuple[Callable, Callable]:
    """Returns two calls without arguments: of nothing, and of the primitive on random images."""
    name, channels, stride, size = place
    graph, empty = layers.split(primitives.create(name, channels, stride, affine=True))
    drawn = Variables(layers.initialise(jax.random.key(0), empty.weights), empty.statistics)
    noise = np.random.default_rng(0).standard_normal((batch, size, size, channels), np.float32)
    # Both are arguments, as constants would be folded.
    variables, images = jax.device_put((drawn, jnp.asarray(noise, dtype)))
    nothing = jax.jit(lambda variables, images: images[0, 0, 0, 0], keep_unused=True)
    run = jax.jit(lambda variables, images: layers.apply(graph, variables, images, False)[0])
    return lambda: nothing(variables, images), lambda: run(variables, images)

"""Compilation of programs: a persistent cache, faster tracing, and the time that it takes."""

import contextlib
import gc
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.runs import metrics

_logger = logging.getLogger(__name__)

_TIMES = "compile_seconds.json"  # beside the compiled programs
_KEPT = 200  # programs whose times are remembered, the newest


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache directory, unless JAX was given another one.

    Compiling takes minutes; JAX_ENABLE_COMPILATION_CACHE=false disables the cache.
    """
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddarts_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


_spent = [0.0]


def spent() -> float:
    """Returns the seconds that this process has compiled steps, see `timed`."""
    return _spent[0]


@contextlib.contextmanager
def timed(phase: str, arguments: Any) -> Iterator[None]:
    """Counts the block's time as time of compiling, and tells of it before, meanwhile and afterwards.

    How long it took is remembered beside the compiled programs. The next time it is said beforehand, and
    on a terminal a bar shows how much of it has gone.

    Args:
        phase: name of the phase.
        arguments: of the program that is compiled; their shapes tell it from others.
    """
    program = _name(phase, arguments)
    expected = _remembered().get(program)
    _logger.info("%s: compiling the step (once; %s)", phase, _said(expected))
    begun = time.monotonic()
    try:
        with _bar(phase, expected):
            yield
    finally:
        seconds = time.monotonic() - begun
        _spent[0] += seconds
    _logger.info("%s: compiled in %.1f s", phase, seconds)
    _remember(program, seconds)


def _name(phase: str, arguments: Any) -> str:
    """Names a program by phase, device and the shapes of its arguments."""
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)]
    return f"{phase} {jax.devices()[0].device_kind} {zlib.crc32(repr(shapes).encode()):08x}"


def _said(expected: float | None) -> str:
    if expected is None:
        return "minutes for a large network"
    return f"it took {expected:.0f} s the last time"


@contextlib.contextmanager
def _bar(phase: str, expected: float | None) -> Iterator[None]:
    """Shows how much of the expected time has gone; the seconds alone where none is expected."""
    bar = metrics.bar(
        f"{phase}: compiling",
        total=None if expected is None else round(expected, 1),
        bar_format="{desc} {n:.0f} s"
        if expected is None
        else "{desc} {bar} {n:.0f} of {total:.0f} s",
    )
    ended, begun = threading.Event(), time.monotonic()

    def move():
        while not ended.wait(0.5):
            bar.n = time.monotonic() - begun
            bar.refresh()

    thread = threading.Thread(target=move, daemon=True)
    with bar:
        if not bar.disable:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()


def _times() -> Path | None:
    """Returns where times are remembered; None where programs are not kept either."""
    folder = jax.config.jax_compilation_cache_dir
    kept = folder and jax.config.jax_enable_compilation_cache and "://" not in folder
    return Path(folder) / _TIMES if kept else None


def _remembered() -> dict[str, float]:
    """Reads {program: seconds}; empty where there is nothing that can be read."""
    try:
        found = json.loads(_times().read_bytes())
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (AttributeError, OSError, TypeError, ValueError):  # no file, or not one of ours
        return {}


def _remember(program: str, seconds: float) -> None:
    path = _times()
    if path is None or not processes.is_main():
        return
    found = _remembered()
    found.pop(program, None)  # to become the newest
    found = dict([*found.items(), (program, round(seconds, 1))][-_KEPT:])
    with contextlib.suppress(OSError, UserError):  # not to be written: no reason to fail
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)


def lower(jitted, *arguments, **keywords) -> jax.stages.Lowered:
    """Traces and lowers a jitted function like `jitted.lower`, in three quarters of its time.

    Tracing a supernet creates millions of lasting objects; garbage collection among them takes the rest.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return jitted.lower(*arguments, **keywords)
    finally:
        if collecting:
            gc.enable()

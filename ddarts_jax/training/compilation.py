"""Compilation of programs: a persistent cache, faster tracing, and the time that it takes."""

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax


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
def timed() -> Iterator[None]:
    """Counts the block's time as time of compiling."""
    begun = time.monotonic()
    try:
        yield
    finally:
        _spent[0] += time.monotonic() - begun


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

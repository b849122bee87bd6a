"""How programs are compiled."""

import gc
import io
import json
import logging
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from ddarts_jax.training import compilation


@pytest.fixture
def directory(monkeypatch):
    """Reads JAX's setting; nothing is kept after the test."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache(directory, monkeypatch, tmp_path):
    """In XDG_CACHE_HOME or ~/.cache, and where JAX was told to where that was said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep_programs()
    assert directory() == str(tmp_path / "ddarts_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    compilation.keep_programs()
    assert directory() == str(tmp_path / "ddarts_jax")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.keep_programs()
    assert directory() == "/home/someone/.cache/ddarts_jax"


def test_lowering_leaves_the_garbage_collector_as_it_was():
    """The program is that of `jitted.lower`; the collector rests meanwhile, also where tracing fails."""
    seen = []

    @jax.jit
    def double(x):
        seen.append(gc.isenabled())
        if x.ndim:
            raise ValueError("not a scalar")
        return 2 * x

    lowered = compilation.lower(double, jnp.float32(1))
    assert gc.isenabled() and lowered.as_text() == double.lower(jnp.float32(1)).as_text()
    with pytest.raises(ValueError, match="not a scalar"):
        compilation.lower(double, jnp.zeros(3))
    assert gc.isenabled() and set(seen) == {False}
    gc.disable()
    try:
        compilation.lower(double, jnp.float32(1))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.fixture
def cache(directory, tmp_path):
    """A folder of compiled programs, in which times are remembered too."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path / "cache" / "compile_seconds.json"
    jax.config.update("jax_enable_compilation_cache", enabled)


def said(caplog, phase="search", size=2):
    """What is logged of compiling a program with one argument."""
    caplog.clear()
    with caplog.at_level(logging.INFO), compilation.timed(phase, {"a": jnp.zeros(size)}):
        pass
    return caplog.messages


def test_the_time_of_compiling_is_said_the_next_time(cache, caplog):
    """Of the same phase with arguments of the same shapes; of others nothing is known."""
    first, done = said(caplog)
    assert "minutes for a large network" in first and done == "search: compiled in 0.0 s"
    (name,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({name: 75.4}))
    assert "it took 75 s the last time" in said(caplog)[0]
    assert "minutes" in said(caplog, phase="train")[0] and "minutes" in said(caplog, size=3)[0]
    assert "it took 0 s" in said(caplog)[0], "the newest time counts"


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', "\xff", None])
def test_times_that_cannot_be_read_or_kept_are_no_failure(cache, caplog, content):
    """Whatever lies there; a folder in place of the file cannot be replaced either."""
    if content is None:
        cache.mkdir(parents=True)
    else:
        cache.parent.mkdir(parents=True)
        cache.write_text(content, encoding="latin-1")
    assert len(said(caplog)) == 2


def test_nothing_is_remembered_without_a_cache(directory, caplog):
    """Where programs are not kept, a time would be wrong the next time."""
    assert len(said(caplog)) == 2 and compilation._times() is None


def test_only_the_newest_times_are_kept(cache, caplog):
    """A cache that is used for years does not grow without end."""
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({str(k): 1.0 for k in range(compilation._KEPT)}))
    said(caplog)
    found = list(json.loads(cache.read_text()))
    assert len(found) == compilation._KEPT and found[0] == "1" and found[-1].startswith("search ")


def test_a_bar_moves_on_a_terminal(cache, caplog, monkeypatch):
    """Seconds gone and expected; it is gone when the program is there, also after an error."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    said(caplog)
    (name,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({name: 75.4}))
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with pytest.raises(KeyError), compilation.timed("search", {"a": jnp.zeros(2)}):
        time.sleep(1.2)
        raise KeyError
    assert "search: compiling" in screen.getvalue() and "1 of 75 s" in screen.getvalue()
    assert json.loads(cache.read_text()) == {name: 75.4}, "of a failure nothing is kept"

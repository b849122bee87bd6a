"""How programs are compiled."""

import gc

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

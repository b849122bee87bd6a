"""The first answer to a bug report: it says what is there, and what fails without stopping at it."""

import jax
import pytest
import tiny

import ddarts_jax
from ddarts_jax import doctor, main


@pytest.fixture
def stepless(monkeypatch):
    """A search that compiles nothing; .ci/run has the doctor run a real step."""
    monkeypatch.setattr("ddarts_jax.training.feeds.resident", tiny.stepless)


def test_a_sound_installation(stepless, capsys, monkeypatch):
    """Versions, devices, memory, settings and the step are told on lines that can be pasted."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert main.main(["ddarts-jax", "doctor"]) == 0
    output, errors = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert list(lines) == [*doctor._CHECKS, "result"] and lines["result"] == "all is well"
    assert lines["program"].startswith(f"ddarts_jax {ddarts_jax.__version__} in ")
    assert lines["python"].endswith(" GB of memory")
    assert f"jax {jax.__version__}, jaxlib " in lines["packages"] and "numpy" in lines["packages"]
    assert "JAX_PLATFORMS=cpu" in lines["settings"]
    assert (
        lines["devices"].startswith(f"{jax.device_count()} x cpu, ")
        and "float32" in lines["devices"]
    )
    assert lines["cache"] == "off"
    assert "compiled in" in lines["step"] and "only" not in errors, "the run's own log"


def test_what_fails_is_named(capsys, monkeypatch):
    """A missing package is a sentence, a broken step a traceback; the other checks still run."""

    def broken(*_, **__):
        raise RuntimeError("no kernel image\nsecond line")

    monkeypatch.setattr("ddarts_jax.api.search", broken)
    monkeypatch.setattr(doctor.packages, "OF_RESULTS", ("jax", "flachs"))
    assert doctor.run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert "packages  FAILED: flachs not installed: install ddarts_jax with pip." in lines
    assert "step      FAILED: no kernel image" in lines
    assert any(line.startswith("devices   1 x cpu") for line in lines) or jax.device_count() > 1
    assert "RuntimeError: no kernel image" in lines and sum("Traceback" in x for x in lines) == 1
    assert lines[-1] == "result    FAILED: packages, step"

"""Metrics: every line is strict JSON, and a resumed run writes none twice."""

import json

import events
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.runs.metrics import MetricsWriter, progress, read
from ddarts_jax.runs.table import METRICS

fuzz = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def strict_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_numbers_and_arrays_of_any_backend_become_json(tmp_path):
    """Scalars and arrays of NumPy and JAX, of any dtype, become numbers and lists."""
    writer = MetricsWriter(tmp_path)
    metrics = {
        "loss": jnp.float32(0.5),
        "half": jnp.asarray([1.5, 2.0], jnp.bfloat16),
        "cells": np.array([[1.0, np.nan], [np.inf, -np.inf]]),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "parts": {"zero_one": (jnp.zeros(2), None)},
        "note": "text",
        "nan": float("nan"),
    }
    writer.write("search", np.int32(0), metrics)
    writer.close()
    assert strict_lines(tmp_path / "metrics.jsonl") == [
        {
            "phase": "search",
            "epoch": 0,
            "loss": 0.5,
            "half": [1.5, 2.0],
            "cells": [[1.0, None], [None, None]],
            "count": 3,
            "flag": True,
            "parts": {"zero_one": [[0.0, 0.0], None]},
            "note": "text",
            "nan": None,
        }
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@fuzz
@given(
    st.dictionaries(st.text(max_size=5).filter(lambda k: k not in ("phase", "epoch")), json_values)
)
def test_every_line_is_one_line_of_strict_json(tmp_path, metrics):
    """Whatever is written, a strict reader reads it back, one line per record."""
    writer = MetricsWriter(tmp_path)
    writer.rewind("p", 0)
    writer.write("p", 0, metrics)
    writer.close()
    (record,) = read(tmp_path / "metrics.jsonl")
    assert record.keys() == {"phase", "epoch", *metrics}
    assert len(strict_lines(tmp_path / "metrics.jsonl")) == 1


def test_tensorboard_gets_every_number_at_its_epoch(tmp_path):
    """Scalars are phase/name, elements of vectors phase/name/i; the step is the epoch."""
    writer = MetricsWriter(tmp_path)
    writer.write("search", 3, {"loss": 0.5, "cells": np.array([1.0, np.nan, 2.0]), "note": "text"})
    writer.write("train", 0, {"loss": 0.25})
    writer.close()
    found = {
        value.tag: (event.step, value.simple_value)
        for phase in ("search", "train")
        for event in events.read(tmp_path / "tensorboard" / phase)
        for value in event.summary.value
    }
    assert found == {
        "search/loss": (3, 0.5),
        "search/cells/0": (3, 1.0),
        "search/cells/2": (3, 2.0),
        "train/loss": (0, 0.25),
    }


def test_tensorboard_names_and_explains_the_metrics_of_the_table(tmp_path):
    """Numbers that the table computes are written too; other numbers keep their keys as names."""
    writer = MetricsWriter(tmp_path)
    accuracies = {"supernet_accuracy": 0.75, "discrete_accuracy": 0.5}
    cells = {"marginal_contribution": [0.5, 0.25], "mine": 1.0}
    writer.write("search", 1, accuracies | cells)
    writer.close()
    found = {
        value.tag.removeprefix("search/"): value
        for event in events.read(tmp_path / "tensorboard" / "search")
        for value in event.summary.value
    }
    assert found["discretisation_gap"].simple_value == 0.25
    names = {tag: value.metadata.display_name for tag, value in found.items()}
    assert names == {
        "supernet_accuracy": "Accuracy with all candidates",
        "discrete_accuracy": "Accuracy with the genotype only",
        "discretisation_gap": "Discretisation gap",
        "marginal_contribution/0": "Marginal contribution, cell 0",
        "marginal_contribution/1": "Marginal contribution, cell 1",
        "mine": "",
    }
    metric = METRICS["search"]["marginal_contribution"]
    assert found["marginal_contribution/1"].metadata.summary_description == metric.description


def test_rewind_drops_what_a_resumed_run_writes_again(tmp_path):
    """Only lines of that phase from that epoch on go, and a half-written last line."""
    writer = MetricsWriter(tmp_path)
    for phase in ("search", "train"):
        for epoch in range(4):
            writer.write(phase, epoch, {"loss": 1.0})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"phase": "train", "epo')
    assert len(read(path)) == 8, "a reader waits for the last line to be finished"
    writer = MetricsWriter(tmp_path)
    writer.rewind("train", 2)
    writer.write("train", 2, {"loss": 2.0})
    writer.close()
    assert [(r["phase"], r["epoch"], r["loss"]) for r in strict_lines(path)] == [
        *(("search", epoch, 1.0) for epoch in range(4)),
        ("train", 0, 1.0),
        ("train", 1, 1.0),
        ("train", 2, 2.0),
    ]
    assert list(tmp_path.glob("*.tmp")) == []
    restarts = [
        e.step
        for e in events.read(tmp_path / "tensorboard" / "train")
        if e.session_log.status == e.session_log.START
    ]
    assert restarts[-1:] == [2], "TensorBoard drops the events from there on"


@fuzz
@given(st.binary(max_size=200))
def test_broken_lines_never_survive_a_rewind(tmp_path, garbage):
    """Fuzz: after a rewind the file is readable, whatever it contained; good lines stay."""
    path = tmp_path / "metrics.jsonl"
    good = b'{"phase": "search", "epoch": 0}\n'
    path.write_bytes(good + garbage + b"\n" + good)
    writer = MetricsWriter(tmp_path)
    writer.rewind("search", 1)
    writer.close()
    records = read(path)
    assert records[0] == records[-1] == {"phase": "search", "epoch": 0}


@fuzz
@given(st.binary(max_size=100))
def test_reading_garbage_gives_records_or_an_error_with_its_line(tmp_path, garbage):
    """Fuzz: `read` raises nothing but UserError."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(garbage)
    try:
        assert all(isinstance(record["epoch"], int) for record in read(path))
    except UserError as error:
        assert "Line" in str(error)


def test_a_missing_file_is_named(tmp_path):
    """Asking for the metrics of a directory that has none says so."""
    with pytest.raises(UserError, match="nowhere"):
        read(tmp_path / "nowhere.jsonl")


def test_progress_is_silent_unless_on_a_terminal(capsys):
    """Logs of batch systems hold no bar."""
    with progress("search", 100) as bar:
        bar.update(50)
        bar.update(50)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_report_that_fails_does_not_end_the_run(tmp_path, caplog):
    """The function called after each line gets the workdir; once it fails it is not called again."""
    called = []

    def report(workdir):
        called.append((workdir, len(read(workdir / "metrics.jsonl"))))
        if len(called) == 2:
            raise ValueError("no picture")

    writer = MetricsWriter(tmp_path, after=report)
    for epoch in (1, 2, 3):
        writer.write("search", epoch, {"loss": 1.0})
    writer.close()
    assert called == [(tmp_path, 1), (tmp_path, 2)]
    (record,) = caplog.records
    assert str(tmp_path) in record.message and "no picture" in record.message
    assert len(read(tmp_path / "metrics.jsonl")) == 3

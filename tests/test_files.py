"""Files that are written whole or not at all: a full disk leaves the earlier file and nothing else."""

import contextlib
import resource

import numpy as np
import pytest
import tiny

from ddarts_jax import files
from ddarts_jax.errors import UserError
from ddarts_jax.models import weights
from ddarts_jax.reports import drawing
from ddarts_jax.reports.page import Page
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.tasks import distances, scoring

_MEASUREMENTS = '{"primitive": "a", "cell": 0, "node": 2, "accuracies": [1.0]}\n'


@contextlib.contextmanager
def full_disk():
    """No file grows beyond 16 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What the program writes, and to which file first.
_WRITERS = {
    "text.md": lambda path: files.write_text(path, "t" * 99),
    "object.json": lambda path: files.write_json(path, list(range(99))),
    "array.npy": lambda path: files.save_array(path, np.zeros(99)),
    "genotype.json": tiny.GENOTYPE.save,
    "network.npz": lambda path: weights.save_network(path, {"a": np.zeros(99)}),
    "report.html": lambda path: Page("a title").write(path),
    "cells.svg": lambda path: drawing.draw_genotype(tiny.GENOTYPE, path.with_suffix("")),
    "matrix.svg": lambda path: drawing.draw_distance_matrix(["a"], [[0]], path.with_suffix("")),
    "matrix.csv": lambda path: distances._write_csv(path, ["a" * 99], np.zeros((1, 1))),
    "measurements.jsonl": scoring._read,
}


@pytest.mark.parametrize("name", _WRITERS)
def test_a_full_disk_leaves_the_earlier_file(tmp_path, name):
    """One sentence names the file and the reason; nothing half-written stays."""
    path = tmp_path / name
    path.write_text(_MEASUREMENTS)
    with full_disk(), pytest.raises(UserError) as error:
        _WRITERS[name](path)
    assert str(error.value).startswith(f"{path} cannot be written (File too large): make room")
    assert [path.read_text() for path in tmp_path.iterdir()] == [_MEASUREMENTS]
    _WRITERS[name](path)
    assert path.stat().st_size > 16


def test_a_line_that_a_full_disk_cut_is_written_anew(tmp_path):
    """Half a line of metrics is no metrics; the next start drops it and writes it again."""
    writer = MetricsWriter(tmp_path)
    with (
        full_disk(),
        pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(File too"),
    ):
        writer.write("train", 1, {"loss": 1.0})
    writer.rewind("train", 1)
    writer.write("train", 1, {"loss": 1.0})
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert line == '{"phase": "train", "epoch": 1, "loss": 1.0}'

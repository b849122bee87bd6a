"""Latencies of primitives: the file, and what of the times on a device counts."""

import json
import logging

import pytest

from ddarts_jax.errors import UserError
from ddarts_jax.models import latency
from ddarts_jax.models.cost import Place

POOL, SKIP = Place("max_pool_3x3", 4, 1, 4), Place("skip_connect", 4, 2, 4)


def document():
    """A table of two primitives, as JSON."""
    entries = [place._asdict() | {"ms": 1} for place in (POOL, SKIP)]
    about = {"device": "phone", "dtype": "int8", "batch": 1, "versions": {}}
    return about | {"milliseconds": entries}


def test_a_table_is_read_as_it_was_written(tmp_path):
    """With the versions that measured it."""
    table = latency.Table("cpu", "float32", 2, {"jax": "0.1"}, {POOL: 0.25, SKIP: 0.0})
    latency.save(table, tmp_path / "latency.json")
    assert latency.load(tmp_path / "latency.json") == table


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("batch"), "the fields device, dtype, batch"),
        (lambda d: d.update(bacth=1), "alone"),
        (lambda d: d.update(milliseconds=[]), "a list of entries"),
        (lambda d: d["milliseconds"].append(3), "entry 3 of milliseconds must be one JSON object"),
        (lambda d: d["milliseconds"][1].update(ms=-0.5), "entry 2.*ms is -0.5; it must be from 0"),
        (lambda d: d["milliseconds"][1].update(ms=float("nan")), "ms is nan"),
        (lambda d: d["milliseconds"][0].update(stride=3), "stride is 3; it must be 1 or 2"),
        (lambda d: d["milliseconds"][0].update(channels=True), "channels is True"),
        (lambda d: d["milliseconds"].append(d["milliseconds"][0]), "max_pool_3x3 of 4.*twice"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, damage, message):
    """In a sentence that names the file, the entry and the field."""
    changed = document()
    damage(changed)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=f"mine.json.*{message}"):
        latency.load(path)


def test_what_a_primitive_takes_above_nothing_counts(monkeypatch, caplog):
    """The median over the turns, each of which times every program; what is below nothing is 0."""
    clock = iter(
        # Compiling. Then nothing and the pool, nothing and the skip connection, turn by turn.
        [9.0] * 4 + [1.0, 3.0, 1.0, 1.5] + [2.0, 3.0, 2.0, 1.5] + [1.0, 5.0, 1.0, 0.75]
    )
    called = []

    def timed(run):
        called.append(run().shape)
        return next(clock)

    monkeypatch.setattr(latency, "seconds", timed)
    with caplog.at_level(logging.INFO, "ddarts_jax"):
        found = latency.measure((POOL, SKIP), 2, "bfloat16", 3)
    assert found == {POOL: 2000.0, SKIP: 0.0}
    assert called == [(), (2, 4, 4, 4), (), (2, 2, 2, 4)] * 4
    assert "2/2 compiled: skip_connect of 4 channels" in caplog.text and "3/3 turns" in caplog.text

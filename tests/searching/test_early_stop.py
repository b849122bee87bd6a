"""The early stop: the distance to the start has not moved for long enough."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ddarts_jax.configuration import default_config
from ddarts_jax.searching import early_stop


def stop(**changes):
    settings = default_config().search.stop
    for key, value in changes.items():
        settings[key] = value
    return settings


def by_epoch(distances):
    return dict(enumerate(distances, 1))


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0, 1, 2, 3, 3, 3, 3], True),
        ([0, 1, 2, 3, 3, 3], False),  # the window would begin at epoch 3, too early to count
        ([3] * 7, True),
        ([3, 3, 3, 3, 3, 3, 3.0011], False),
        ([3, 3, 3, 3, 3.001, 3, 3.001], True),
        ([3, 3, 3, 3, 3.0009, 3.0018, 3.0027], False),  # a steady drift
        ([3, 3, 3, 4, 3, 3, 3], False),  # back where it was, but not stable
        ([], False),
    ],
)
def test_every_distance_of_the_window_counts(distances, expected):
    """Three epochs within a thousandth of the present one, the first of them epoch 4 at the earliest."""
    settings = stop(patience=3, from_epoch=4)
    assert early_stop.is_stable(by_epoch(distances), len(distances), 0, settings) == expected
    assert not early_stop.is_stable(by_epoch(distances), len(distances), 0, stop(patience=0))


def test_the_article_s_earliest_end_is_epoch_15():
    """Its second search ended there: 5 epochs of pretraining are counted."""
    ends = [
        epoch
        for epoch in range(1, 30)
        if early_stop.is_stable(by_epoch([0.1] * 30), epoch, 5, stop())
    ]
    assert ends[0] == 15
    late = stop(from_epoch=1)  # in the first epochs the distance cannot move
    assert [early_stop.is_stable(by_epoch([0.1] * 30), e, 5, late) for e in (10, 11)] == [
        False,
        True,
    ]


@given(st.lists(st.floats(0, 0.002), min_size=1, max_size=30), st.integers(1, 8))
def test_a_longer_window_is_harder_to_fill(distances, patience):
    """What is stable for n + 1 epochs is stable for n."""
    found = [
        early_stop.is_stable(by_epoch(distances), len(distances), 0, stop(patience=n, from_epoch=1))
        for n in (patience, patience + 1)
    ]
    assert found[0] or not found[1]


def test_the_reason_is_read_from_the_metrics(tmp_path):
    """Rows of other phases and of later epochs, of a start that went on, do not count."""
    rows = [
        {"phase": "search", "epoch": e, "distance_to_start": 0.25 if e > 9 else e}
        for e in range(1, 18)
    ]
    rows.append({"phase": "train", "epoch": 15, "accuracy": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert early_stop.reason(tmp_path, 14, 5, stop()) is None
    assert early_stop.reason(tmp_path, 15, 5, stop()) == (
        "stops early after epoch 15: the distance to the start, 0.2500, has been stable for 5 epochs"
    )

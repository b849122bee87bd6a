"""Matching of anchors and ground truth, by torchvision's rule."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import arrays
from test_boxes import random_boxes

from ddarts_jax.detection import matching

RULES = {
    "retinanet": {"positive": 0.5, "background": 0.4, "least": 0.0},
    "rpn": {"positive": 0.7, "background": 0.3, "least": 0.0},
    "box_head": {"positive": 0.5, "background": 0.5},
}
_sample = jax.jit(matching.sample, static_argnums=(2, 3))
_match = jax.jit(matching.match, static_argnames=("positive", "background", "least"))


@pytest.mark.parametrize("name", RULES)
def test_matches_are_torchvision_s(name):
    """Two equal boxes, one equal to an anchor, one far too small, one with tied best anchors."""
    data = arrays("matcher")
    boxes = data["ground_truth"]
    got = _match(data["anchors"], boxes, np.ones(len(boxes), bool), **RULES[name])
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, data[f"{name}/torchvision"])
    padded = np.concatenate([data["anchors"][:3], boxes])
    real = np.arange(len(padded)) >= 3
    got = _match(data["anchors"], padded, real, **RULES[name])
    np.testing.assert_array_equal(np.where(got < 0, got, got - 3), data[f"{name}/torchvision"])


ANCHORS = np.float32([[0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60], [0, 0, 10, 22]])


def match(boxes, real=None, counted=True, **rule):
    boxes = np.float32(boxes)
    real = np.ones(len(boxes), bool) if real is None else np.array(real)
    rule = RULES["retinanet"] | rule
    return np.asarray(_match(ANCHORS, boxes, real, counted, **rule)).tolist()


def test_matches_by_hand():
    """The two thresholds belong to the upper side; of equal ground truths the first is taken."""
    box = [0, 0, 10, 10]  # IoU 1, 1 / 2, 0, 1 / 2.2 with the anchors
    assert match([box]) == [0, 0, -1, -2]
    assert match([box], positive=0.51) == [0, -2, -1, -2]
    assert match([box, box], background=0.5) == [0, 0, -1, -1]
    assert match([[1, 0, 11, 10], box, box]) == [1, 1, -1, -2]


def test_a_ground_truth_that_touches_nothing_forces_nothing():
    """In other programs it makes all anchors positive that touch nothing."""
    assert match([[30, 30, 31, 31]]) == [-1, -1, -1, -1]


def test_the_best_anchor_of_a_small_object():
    """Is its own best ground truth's, if the overlap reaches `least`."""
    small = [0, 0, 5, 6]  # IoU 0.3 with the first anchor
    assert match([small]) == [0, -1, -1, -1]
    assert match([small], least=0.25) == [0, -1, -1, -1]
    assert match([small], least=0.31) == [-1, -1, -1, -1]
    assert match([small], least=None) == [-1, -1, -1, -1]
    # The first anchor is the best one of the small object too, but itself overlaps the other more.
    assert match([small, [0, 0, 10, 10]]) == [1, 1, -1, -2]


def test_padding_and_anchors_that_do_not_count():
    """Neither is matched, nor stands in another's way."""
    box = [0, 0, 10, 10]
    assert match([box], [False]) == [-1, -1, -1, -1]
    assert match([[50, 50, 60, 60], box], [False, True]) == [1, 1, -1, -2]
    counted = np.array([False, True, True, True])
    assert match([box], counted=counted) == [-2, 0, -1, -2]
    assert match([box], counted=counted, positive=0.7) == [-2, 0, -1, -2]


def plainly(anchors, boxes, real, counted, positive, background, least):
    """One anchor after the other, in float64."""

    def overlap(a, b):
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = np.prod(np.maximum(sides, 0))
        return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)

    table = np.array([[overlap(a, b) for a in np.float64(anchors)] for b in np.float64(boxes)])
    table *= real[:, None] * counted
    largest, found = table.max(1), []
    for own, counts in zip(table.T, counted):
        forced = any(o == m > 0 and m >= least for o, m in zip(own, largest))
        if not counts:
            found.append(matching.NEITHER)
        elif own.max() >= positive or forced:
            found.append(int(own.argmax()))
        else:
            found.append(matching.BACKGROUND if own.max() < background else matching.NEITHER)
    return found


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), least=st.sampled_from([0.0, 0.3]))
def test_random_matches(seed, least):
    """Against one anchor after the other; random boxes have neither ties nor IoUs at a threshold."""
    generator = np.random.default_rng(seed)
    anchors, boxes = random_boxes(generator, 60), random_boxes(generator, 5)
    real, counted = generator.uniform(size=5) < 0.8, generator.uniform(size=60) < 0.8
    rule = {"positive": 0.5, "background": 0.4, "least": least}
    got = _match(anchors, boxes, real, counted, **rule)
    assert got.tolist() == plainly(anchors, boxes, real, counted, **rule)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    count=st.sampled_from([4, 50, 300]),
    objects=st.floats(0, 1),
)
def test_what_is_sampled(seed, count, objects):
    """The positive ones of the highest priorities, then the background's; against a plain sort."""
    generator, number = np.random.default_rng(seed), 60
    rest = np.where(generator.uniform(size=number) < 0.7, matching.BACKGROUND, matching.NEITHER)
    found = np.where(generator.uniform(size=number) < objects, generator.integers(0, 9), rest)
    priorities = generator.integers(0, 20, number).astype(np.float32)  # with equal ones
    order = np.argsort(-priorities, kind="stable")
    positive = [n for n in order if found[n] >= 0][: count // 4]
    background = [n for n in order if found[n] == matching.BACKGROUND]
    expected = (positive + background)[:count]
    index, taken = _sample(found, priorities, count, count // 4)
    assert index.shape == taken.shape == (count,) and index.dtype == np.int32
    assert index[: len(expected)].tolist() == expected
    assert taken.tolist() == [n < len(expected) for n in range(count)]
    assert not index[len(expected) :].any()

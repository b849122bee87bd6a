"""Boxes: overlaps, coding and suppression against torchvision's numbers and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import arrays, assert_near

from ddarts_jax.detection import boxes as bx

WEIGHTS = {"1_1_1_1": (1.0, 1.0, 1.0, 1.0), "10_10_5_5": (10.0, 10.0, 5.0, 5.0)}


def random_boxes(generator, count, canvas=100.0, largest=40.0):
    """float32 [count, 4] with sides from 1 to `largest`."""
    centres = generator.uniform(0, canvas, (count, 2))
    sides = generator.uniform(1, largest, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], -1).astype(np.float32)


def test_overlaps_are_torchvision_s():
    """Matching and suppression rest on them."""
    data = arrays("boxes")
    assert_near(bx.iou(data["anchors"], data["iou_other"]), data["iou"])


def test_overlaps_by_hand():
    """Half of a box, an edge in common, an empty box, and two empty boxes at one place."""
    a = jnp.array([[0.0, 0, 4, 2], [1, 1, 1, 1]])
    b = jnp.array([[0.0, 0, 2, 2], [4, 0, 6, 2], [1, 1, 1, 1]])
    np.testing.assert_array_equal(bx.iou(a, b), [[0.5, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(bx.area(a), [8, 0])


@pytest.mark.parametrize("name", WEIGHTS)
def test_coding_is_torchvision_s(name):
    """With the weights of RetinaNet and of the box head, for one class and for several."""
    data, weights = arrays("boxes"), WEIGHTS[name]
    anchors = data["anchors"]
    expected = {key: data[f"weights_{name}/{key}"] for key in ("encoded", "decoded")}
    assert_near(bx.encode(data["ground_truth"], anchors, weights), expected["encoded"])
    decoded = bx.decode(data["deltas"], anchors, weights)
    assert_near(decoded, expected["decoded"])
    clipped = bx.clip(decoded, data["image_size"])
    assert_near(clipped, data[f"weights_{name}/decoded_clipped"])
    deltas = data["deltas_3_classes"].reshape(-1, 3, 4)
    by_class = bx.decode(deltas, anchors[:, None], weights).reshape(-1, 12)
    assert_near(by_class, data[f"weights_{name}/decoded_3_classes"])


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), weight=st.floats(0.1, 10))
def test_decoding_undoes_encoding(seed, weight):
    """Of any boxes and anchors, where no side is more than 62 times the anchor's."""
    generator = np.random.default_rng(seed)
    boxes, anchors = random_boxes(generator, 50), random_boxes(generator, 50)
    weights = (weight, weight, 1.0, 1.0)
    back = bx.decode(bx.encode(boxes, anchors, weights), anchors, weights)
    np.testing.assert_allclose(back, boxes, atol=1e-3)


def test_each_image_clips_at_its_own_borders():
    """Sizes are (height, width), boxes (x, y)."""
    boxes = jnp.tile(jnp.array([[-5.0, -5, 90, 90]]), (2, 1, 1))
    clipped = bx.clip(boxes, jnp.array([[20, 30], [40, 10]]))
    np.testing.assert_array_equal(clipped, [[[0, 0, 30, 20]], [[0, 0, 10, 40]]])


_nms = jax.jit(bx.nms, static_argnums=(4, 5))


def kept(boxes, scores, threshold, classes=None, valid=None, limit=None):
    """The indices that `nms` keeps, without padding."""
    classes = np.zeros(len(boxes), np.int32) if classes is None else classes
    valid = np.ones(len(boxes), bool) if valid is None else valid
    limit = len(boxes) if limit is None else limit
    indices, count = _nms(boxes, scores, classes, valid, threshold, limit)
    assert indices.shape == (limit,) and not np.any(indices[count:])
    return np.asarray(indices[:count])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_is_torchvision_s(threshold):
    """Also among equal scores, equal boxes, and within classes."""
    data = arrays("nms")
    boxes, scores, ties = data["boxes"], data["scores"], data["tied_scores"]
    for name, got in {
        "keep": kept(boxes, scores, threshold),
        "keep_tied": kept(boxes, ties, threshold),
        "keep_identical_pairs": kept(data["identical_pairs"], ties, threshold),
        "keep_by_class": kept(boxes, scores, threshold, data["classes"]),
    }.items():
        np.testing.assert_array_equal(got, data[f"{name}/threshold_{threshold}"], name)


@pytest.mark.parametrize("threshold", [0.5, 0.49])
def test_an_overlap_at_the_threshold_is_kept(threshold):
    """Only one above it suppresses; an empty box overlaps nothing."""
    data = arrays("nms")
    got = kept(data["edge_boxes"], data["edge_scores"], threshold)
    np.testing.assert_array_equal(got, data[f"keep_edge/threshold_{threshold}"])


def greedy(boxes, scores, classes, valid, threshold):
    """Plainly: one box after the other, each crossing out what it overlaps, in float32."""
    x1, y1, x2, y2 = boxes.T
    areas, alive, found = (x2 - x1) * (y2 - y1), valid.copy(), []
    for i in np.argsort(-scores, kind="stable"):
        if not alive[i]:
            continue
        found.append(i)
        width = np.maximum(np.minimum(x2[i], x2) - np.maximum(x1[i], x1), 0)
        height = np.maximum(np.minimum(y2[i], y2) - np.maximum(y1[i], y1), 0)
        overlap = width * height / (areas[i] + areas - width * height)
        alive &= (overlap <= threshold) | (classes != classes[i])
    return found


@pytest.mark.parametrize(
    ("count", "num_classes", "canvas"), [(5000, 1, 300), (5000, 20, 200), (1000, 3, 40)]
)
def test_rounds_give_what_a_plain_loop_gives(count, num_classes, canvas):
    """Long chains of boxes that suppress each other, scores that tie, boxes that are not valid."""
    generator = np.random.default_rng(count)
    boxes = random_boxes(generator, count, canvas)
    scores = generator.integers(0, 1000, count).astype(np.float32) / 1000
    classes = generator.integers(0, num_classes, count).astype(np.int32)
    valid = generator.uniform(size=count) < 0.8
    expected = greedy(boxes, scores, classes, valid, 0.5)
    assert 1 < len(expected) < valid.sum()
    np.testing.assert_array_equal(kept(boxes, scores, 0.5, classes, valid), expected)


def test_the_limit_keeps_the_best():
    """Those beyond it are left out, the order stays."""
    generator = np.random.default_rng(0)
    boxes, scores = random_boxes(generator, 50), generator.uniform(size=50).astype(np.float32)
    assert kept(boxes, scores, 0.5, limit=5).tolist() == kept(boxes, scores, 0.5)[:5].tolist()


def test_a_chain_of_any_length():
    """Each box suppresses the next: every second one is kept, as many rounds as that takes."""
    x = 4.0 * np.arange(60, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], -1)
    np.testing.assert_array_equal(kept(boxes, -x, 0.4), np.arange(0, 60, 2))


def test_fewer_boxes_than_the_limit():
    """The rest is padding, also where no box is valid."""
    boxes, scores = random_boxes(np.random.default_rng(0), 3, 1e4), np.ones(3, np.float32)
    np.testing.assert_array_equal(kept(boxes, scores, 0.5, limit=10), [0, 1, 2])
    assert not len(kept(boxes, scores, 0.5, valid=np.zeros(3, bool), limit=10))

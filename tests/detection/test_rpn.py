"""The region proposal network: which anchors it is trained with, and what is no proposal."""

import dataclasses

import jax
import numpy as np

from ddarts_jax.detection import matching, rpn
from ddarts_jax.detection.anchors import Anchors, Output
from ddarts_jax.detection.boxes import iou
from ddarts_jax.detection.matching import GroundTruth

_SIZES = ((8, 8), (4, 4))
_ALL = 3 * (64 + 16)
_proposals = jax.jit(rpn.proposals, static_argnums=(0, 3))
_loss = jax.jit(rpn.loss, static_argnums=0)


def settings(**changes):
    options = {"samples": 32, "least": 0.3, "beta": 0.0, "nms": 0.7, "per_level": 20, "limit": 10}
    grid = Anchors((8, 16), (2.0,), rounded=False, over_padding=True)
    return rpn.Settings(grid, **options | changes)


def outputs(batch=1, logits=0.0):
    """What is said of the anchors of two levels: equal logits, no deltas."""
    return [
        Output(
            np.full((batch, *size, 3, 1), logits, np.float32),
            np.zeros((batch, *size, 3, 4), np.float32),
        )
        for size in _SIZES
    ]


def test_anchors_are_sampled_by_their_priorities():
    """As many as asked for, at most half of them positive; others with other priorities."""
    boxes = np.float32([[0, 0, 17, 16], [16, 16, 33, 31], [30, 2, 60, 34]])
    truth = GroundTruth(boxes, np.int32([2, 0, 1]), np.int32([64, 64]))

    @jax.jit
    def targets(truth, priorities):
        return rpn._targets(settings(samples=6), _SIZES, truth, priorities)

    drawn = set()
    for seed in range(4):
        priorities = np.random.default_rng(seed).uniform(size=_ALL).astype(np.float32)
        labels, deltas = targets(truth, priorities)
        assert (labels != matching.NEITHER).sum() == 6 and (labels >= 0).sum() == 3
        assert np.abs(deltas[labels < 0]).max() < 1e-6
        assert np.abs(deltas[labels >= 0]).max(1).min() > 1e-2
        drawn.add(tuple(np.flatnonzero(labels != matching.NEITHER)))
    assert len(drawn) == 4


def test_losses_are_divided_by_the_anchors_of_the_batch():
    """log(2) of each sampled anchor, where all logits are 0, whatever the images' numbers are."""
    boxes = np.zeros((2, 1, 4), np.float32)
    boxes[0] = [0, 0, 16, 16]
    truth = GroundTruth(boxes, np.int32([[0], [-1]]), np.full((2, 2), 64, np.int32))
    priorities = -np.tile(np.arange(_ALL, dtype=np.float32), (2, 1))
    found = _loss(settings(), outputs(2), truth, priorities)
    np.testing.assert_allclose(found.objectness, np.log(2), rtol=1e-6)
    none = _loss(settings(), outputs(2), truth._replace(labels=np.full((2, 1), -1)), priorities)
    assert none.boxes == 0 and none.objectness > 0


def test_what_is_no_proposal():
    """Boxes beside the image, and those that a better one overlaps; zeros behind."""
    one = settings(limit=200)
    one = dataclasses.replace(one, anchors=dataclasses.replace(one.anchors, strides=(8,)))
    found = _proposals(one, outputs()[:1], np.int32([[40, 50]]), 192)
    boxes, valid = np.asarray(found.boxes[0]), np.asarray(found.valid[0])
    count = valid.sum()
    assert boxes.shape == (200, 4) and 20 < count < 200
    assert valid[:count].all() and not boxes[count:].any()
    assert (boxes[:count, 2:] - boxes[:count, :2]).min() > 0
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (50, 40)
    overlaps = np.triu(iou(boxes[:count], boxes[:count]), 1)
    assert 0.5 < overlaps.max() <= 0.7


def test_the_best_proposals_are_those_of_all_levels():
    """A level's own limit comes first, then that of the image."""
    said = outputs()
    said[0].logits[0, 0, :, 1, 0] = np.arange(8) + 1  # the squares of the first row
    said[1].logits[0, 2, 2, 1, 0] = 5.5
    found = _proposals(settings(limit=4), said, np.int32([[64, 64]]), 6)
    centres = (found.boxes[0, :, :2] + found.boxes[0, :, 2:]) / 2
    # Fine ones are 16 pixels wide and cut off above; of neighbours, half of each overlaps.
    np.testing.assert_allclose(centres[:, 0], [56, 48, 40, 32], atol=4)
    assert found.boxes[0, 3].tolist() == [16, 16, 48, 48]

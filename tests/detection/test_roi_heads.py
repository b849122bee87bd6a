"""The heads of proposals: their layers, samples, mask targets and losses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ddarts_jax.detection import roi_heads
from ddarts_jax.detection.found import Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.rpn import Proposals
from ddarts_jax.models import layers

_sample = jax.jit(roi_heads.sample, static_argnums=0)


def test_the_transposed_convolution_is_xla_s():
    """Each position becomes four."""
    generator = np.random.default_rng(0)
    module = roi_heads.Doubled(3, 5)
    graph, (weights, statistics) = layers.split(module)
    weights = {
        "kernel": generator.normal(size=(2, 2, 3, 5)).astype(np.float32),
        "bias": generator.normal(size=5).astype(np.float32),
    }
    x = generator.normal(size=(2, 4, 3, 3)).astype(np.float32)
    found, _ = layers.apply(graph, layers.Variables(weights, statistics), x)
    kernel = weights["kernel"][::-1, ::-1]  # XLA's turns it around
    expected = lax.conv_transpose(x, kernel, (2, 2), "VALID") + weights["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def plainly(crop, outer, inner):
    """One sample after the other, in float64: the mask, and zeros around it, read bilinearly."""
    padded = np.pad(np.float64(crop), 1)

    def sample(x, y):
        u = np.array([x, y]) - outer[:2]
        u = u / (outer[2:] - outer[:2]) * crop.shape[0] + 0.5  # in pixels of `padded`
        if not np.all((u >= 0) & (u <= len(padded) - 1)):
            return 0.0
        (x0, y0), (px, py) = np.minimum(u.astype(int), len(padded) - 2), u % 1
        if u[0] == x0 + 1:
            px = 1.0
        if u[1] == y0 + 1:
            py = 1.0
        rows = padded[y0 : y0 + 2, x0 : x0 + 2]
        return np.array([1 - py, py]) @ rows @ np.array([1 - px, px])

    sides = (inner[2:] - inner[:2]) / 56
    soft = np.zeros((28, 28))
    for y, x in itertools.product(range(56), repeat=2):
        at = inner[:2] + sides * [x + 0.5, y + 0.5]
        soft[y // 2, x // 2] += sample(*at) / 4
    return soft


def test_mask_targets_are_samples_of_the_masks():
    """Boxes within, across and beside the mask's; against one sample after the other."""
    generator = np.random.default_rng(0)
    crops = (255 * (generator.uniform(size=(3, 7, 7)) > 0.4)).astype(np.uint8)
    crops = crops.repeat(16, 1).repeat(16, 2)
    outer = np.float32([[10, 20, 40, 90]] * 3)
    inner = np.float32([[15, 30, 33, 70], [0, 10, 30, 60], [30, 5, 60, 33]])
    found = roi_heads.mask_targets(crops, outer, inner)
    assert found.dtype == bool and found.shape == (3, 28, 28)
    for mask, *own in zip(found, crops, np.float64(outer), np.float64(inner)):
        soft = plainly(*own)
        clear = abs(soft - 255 / 2) > 1e-2  # of the others, rounding decides
        np.testing.assert_array_equal(mask[clear], soft[clear] > 255 / 2)
        assert 0.05 < mask.mean() < 0.9 and clear.mean() > 0.9


def settings(samples=16):
    return roi_heads.Settings((4,), True, 3, 4.0, samples, 0.0)


def scene():
    """Proposals of two images, the second without objects: near, apart, and none."""
    truth = GroundTruth(
        np.float32([[[0, 0, 0, 0], [10, 10, 30, 30]], [[0, 0, 0, 0]] * 2]),
        np.int32([[-1, 2], [-1, -1]]),
        np.full((2, 2), 64, np.int32),
        np.full((2, 2, 112, 112), 255, np.uint8),
    )
    boxes = np.float32([[11, 10, 31, 30], [40, 40, 60, 60], [10, 10, 30, 30]])
    proposals = Proposals(np.stack([boxes] * 2), np.array([[True, True, False]] * 2))
    return proposals, truth


def test_samples_by_hand():
    """The ground truth is one; padding is none; few candidates leave places empty."""
    proposals, truth = scene()
    priorities = -np.tile(np.arange(5, dtype=np.float32), (2, 1))
    found = _sample(settings(), proposals, truth, priorities)
    assert found.labels[0].tolist() == [2, 2, 3] + [-1] * 13
    assert found.labels[1].tolist() == [3, 3] + [-1] * 14
    assert found.boxes[0, :3].tolist() == [[11, 10, 31, 30], [10, 10, 30, 30], [40, 40, 60, 60]]
    assert not found.boxes[0, 3:].any()
    assert (found.index[0] >= 0).tolist() == [True, True, False, False]
    assert found.index[0, :2].tolist() == [1, 1] and (found.index[1] < 0).all()
    # The first should move by a twentieth of its width, times 10.
    np.testing.assert_allclose(found.deltas[0, 0], [-0.5, 0, 0, 0], atol=1e-6)
    assert not found.deltas[0, 1:].any() and not found.deltas[1].any()
    # Of its mask, one column is a half beyond the object.
    assert found.masks[0, 1].all() and found.masks[0, 0, :, :26].all()
    assert not found.masks[0, 0, :, 27:].any() and not found.masks[0, 2:].any()
    bare = truth._replace(masks=None)
    run = functools.partial(roi_heads.sample, settings())
    assert jax.eval_shape(run, proposals, bare, priorities).masks is None


def test_losses_by_hand():
    """Divided by all samples of the batch, of boxes by their class alone; masks by positive ones."""
    proposals, truth = scene()
    priorities = -np.tile(np.arange(5, dtype=np.float32), (2, 1))
    samples = _sample(settings(), proposals, truth, priorities)
    logits, deltas = np.zeros((2, 16, 4), np.float32), np.zeros((2, 16, 3, 4), np.float32)
    logits[:, :, 1] = np.log(3)  # a sixth each for the others
    deltas[0, 1, 2] = [1, 0, 0, -2]
    deltas[:, :, :2] = 7  # of other classes
    found = roi_heads.box_loss(settings(), logits, deltas, samples)
    np.testing.assert_allclose(found.classification, np.log(6), rtol=1e-6)
    np.testing.assert_allclose(found.boxes, (0.5 + 3) / 5, rtol=1e-5)
    masks = np.zeros((2, 4, 28, 28), np.float32)
    masks[0, 1] = np.log(3)  # where 1 is right, with a probability of 3 / 4
    found = roi_heads.mask_loss(masks, samples.masks, samples.index >= 0)
    np.testing.assert_allclose(found, (np.log(2) - np.log(0.75)) / 2, rtol=1e-6)
    assert roi_heads.mask_loss(masks, samples.masks, np.zeros((2, 4), bool)) == 0


def test_improbable_pairs_are_missed_only_where_there_is_room(monkeypatch):
    """Without them the objects are the best of those that there are with them."""
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 50, (1, 40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(9, 30, (1, 40, 2))], -1)
    proposals = Proposals(jnp.float32(boxes), jnp.ones((1, 40), bool))
    logits = 2 * generator.normal(size=(1, 40, 4)).astype(np.float32)

    def found(pairs):
        monkeypatch.setattr(roi_heads, "_PAIRS", pairs)
        options, sizes = Options(score=0.0, nms=0.3, limit=99), np.int32([[80, 80]])
        deltas = np.zeros((1, 40, 3, 4), np.float32)
        detect = functools.partial(roi_heads.detections, settings(), options=options)
        return jax.jit(detect)(proposals, logits, deltas, sizes)

    everything, some = found(120), found(30)
    count = int(some.count[0])
    assert 5 < count < everything.count[0]
    for one, other in zip(everything[:3], some[:3]):
        np.testing.assert_array_equal(one[0, :count], other[0, :count])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_heads_have_the_dtype_of_features_and_float32_results(dtype):
    """Shapes too: bins are 7 and 14 a side, masks 28."""
    for module, bins, extra in (
        (roi_heads.BoxHead(5, 8, 3), 7, ()),
        (roi_heads.MaskHead(5, 3), 14, (np.zeros((2, 4), np.int32),)),
    ):
        graph, variables = layers.split(module)
        x = jnp.zeros((2, 4, bins, bins, 5), dtype)
        run = jax.eval_shape(lambda x, g=graph, v=variables, e=extra: layers.apply(g, v, x, *e), x)[
            0
        ]
        shapes = [(2, 4, 4), (2, 4, 3, 4)] if bins == 7 else [(2, 4, 28, 28)]
        assert [leaf.shape for leaf in jax.tree.leaves(run)] == shapes
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(run))

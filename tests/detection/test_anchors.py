"""Anchors: torchvision's and MMDetection's boxes, and which of them lie in an image."""

import numpy as np
import pytest
from parity import arrays, assert_near

from ddarts_jax.detection import anchors


@pytest.mark.parametrize("program", ["torchvision", "mmdetection"])
@pytest.mark.parametrize(
    ("detector", "scales"), [("retinanet", anchors.octaves(4.0, 3)), ("rpn", (8.0,))]
)
def test_anchors_are_theirs(detector, scales, program):
    """Shapes, places and order, of all levels; rounded as in torchvision they are exactly equal."""
    data = arrays("anchors")
    sizes, strides = data["feature_sizes"], data[f"{detector}_torchvision/strides"]
    for level, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        rounded = program == "torchvision"
        own = anchors.grid(tuple(size), int(stride), scales, rounded)
        expected = data[f"{detector}_{program}/level{level}"]
        assert_near(own, expected, 0 if rounded else 1e-6)


def test_anchors_by_hand():
    """The first position's are around the corner, not around its pixel's centre; the second's beside."""
    own = anchors.grid((1, 2), 8, (2.0, 4.0))
    assert own.shape == (12, 4) and own.dtype == np.float32
    np.testing.assert_allclose(own[2:4], [[-8, -8, 8, 8], [-16, -16, 16, 16]])
    np.testing.assert_allclose(own[8:10], own[2:4] + np.float32([8, 0, 8, 0]))
    sides = own[:, 2:] - own[:, :2]
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], np.tile([0.5, 0.5, 1, 1, 2, 2], 2), 1e-6)
    np.testing.assert_allclose(sides.prod(-1), np.tile([256, 1024], 6), 1e-6)


@pytest.mark.parametrize("stride", [8, 24, 64])
@pytest.mark.parametrize("image", [(32, 64), (33, 70), (1, 96)])
def test_anchors_in_the_padding_do_not_count(stride, image):
    """Centres below the sides rounded up to 32; one exactly there lies outside."""
    size = 96 // stride, 128 // stride + 1
    inside = anchors.in_image(size, stride, 9, np.array(image, np.int32))
    height, width = (int(np.ceil(side / 32)) * 32 for side in image)
    centres = anchors.grid(size, stride, anchors.octaves(4.0, 3)).reshape(-1, 2, 2).mean(1)
    expected = (centres < np.array([width, height]) - 1e-3).all(-1)
    np.testing.assert_array_equal(inside, expected)
    assert 0 < inside.sum() < inside.size

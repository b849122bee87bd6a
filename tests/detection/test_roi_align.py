"""RoIAlign against torchvision's, its levels, and its gradient over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from ddarts_jax.detection.roi_align import levels_of, roi_align

_align = jax.jit(roi_align, static_argnums=(2, 3), static_argnames=("finest", "aligned"))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [7, 14])
def test_features_and_gradients_are_torchvision_s(size, aligned):
    """Boxes beyond the border, below a pixel, and empty; two images."""
    data = parity.arrays("roi_align")
    rois, prefix = data["rois"], f"size{size}_aligned{aligned}_ratio2"
    features = data["features"].transpose(0, 2, 3, 1)
    cotangent = data[f"cotangent_{size}"].transpose(0, 2, 3, 1)[:, None]

    @jax.jit
    def run(features):
        def read(features):
            own = features[rois[:, 0].astype(int)]  # an image for each box
            return roi_align([own], rois[:, None, 1:], (4,), size, finest=1.0, aligned=aligned)

        output, pull = jax.vjp(read, features)
        return output[:, 0], pull(cotangent)[0]

    output, gradient = run(features)
    parity.assert_near(output.transpose(0, 3, 1, 2), data[f"{prefix}/output"])
    parity.assert_near(gradient.transpose(0, 3, 1, 2), data[f"{prefix}/gradient"], 1e-4)


def test_levels_are_torchvision_s():
    """Boxes of two images on four levels: which one each reads, and what there."""
    data = parity.arrays("roi_align")
    features = [data[f"levels/feature{k}"].transpose(0, 2, 3, 1) for k in range(4)]
    found = [data[f"levels/boxes_image{k}"] for k in range(2)]
    level = [np.asarray(levels_of(boxes, 56.0, 4)) for boxes in found]
    np.testing.assert_array_equal(np.concatenate(level), data["levels/level"])
    boxes = np.zeros((2, len(found[0]), 4), np.float32)
    boxes[0], boxes[1, : len(found[1])] = found
    output = _align(features, boxes, (4, 8, 16, 32), 7, finest=56.0, aligned=False)
    output = np.concatenate([output[0], output[1, : len(found[1])]])
    parity.assert_near(output.transpose(0, 3, 1, 2), data["levels/output_7"])


def test_levels_by_hand():
    """Each is read from its size on; empty and huge boxes read the finest and the coarsest."""
    sides = np.float32([0, 13, 27.9, 28, 56, 1e4])
    boxes = np.stack([0 * sides, 0 * sides, sides / 2, sides * 2], -1)
    assert levels_of(boxes, 14.0, 3).tolist() == [0, 0, 0, 1, 2, 2]


def test_features_keep_their_dtype_and_gradients_add_up_in_float32():
    """4096 boxes on one position: added up in bfloat16 their gradients would stop at 256."""
    features = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    boxes = np.tile(np.float32([0, 0, 4, 4]), (1, 4096, 1))

    @jax.jit
    def run(features):
        def total(features):
            read = roi_align([features], boxes, (4,), 1, finest=1.0)
            return read.astype(jnp.float32).sum(), read

        return jax.grad(total, has_aux=True)(features)

    gradient, read = run(features)
    assert read.dtype == gradient.dtype == jnp.bfloat16
    assert (read == 1).all() and gradient[0, 0, 0, 0] == 4096

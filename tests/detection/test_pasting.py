"""Pasting of masks into images, against `grid_sample` of PyTorch."""

import numpy as np
import pytest
from parity import arrays

from ddarts_jax.detection.outlines import mask_of
from ddarts_jax.detection.pasting import masks_of, pasted, to_rle
from ddarts_jax.tasks.export import snippets


def test_every_pixel_is_that_of_grid_sample():
    """Boxes over the border, below a pixel, without a pixel's centre: as Detectron2 and MMDetection."""
    data = arrays("paste")
    height, width = data["image_size"].tolist()
    for mask, box, expected in zip(data["mask_probabilities"], data["boxes"], data["grid_sample"]):
        (y, x), values = pasted(mask, box, height, width)
        whole = np.zeros((height, width), np.float32)
        whole[y : y + values.shape[0], x : x + values.shape[1]] = values
        np.testing.assert_allclose(whole, expected, rtol=0, atol=5e-5)
    found = to_rle(data["mask_probabilities"], data["boxes"], height, width)
    for rle, expected in zip(found, data["grid_sample"]):
        sure = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal(mask_of(rle, height, width)[sure], (expected >= 0.5)[sure])
    pixels = masks_of(data["mask_probabilities"], data["boxes"], height, width)
    np.testing.assert_array_equal(pixels, [mask_of(rle, height, width) for rle in found])


def test_the_model_card_pastes_alike():
    """The few lines that an export's user gets: of whole pixels all that rounding does not decide."""
    data, code = arrays("paste"), {"np": np}
    exec(snippets.PASTE, code)
    size = data["image_size"].tolist()
    for mask, box, expected in zip(data["mask_probabilities"], data["boxes"], data["grid_sample"]):
        sure = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal(
            code["paste"](mask, box, *size)[sure], (expected >= 0.5)[sure]
        )


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((2, 1, 6, 4), np.s_[1:4, 2:6]),
        ((-5, -5, 30, 2), np.s_[:2, :]),
        ((3, 3, 3, 5), np.s_[:0, :0]),
        ((40, 40, 50, 50), np.s_[:0, :0]),
    ],
)
def test_a_full_mask_fills_its_box(box, expected):
    """All pixels whose centres are inside, no other; a box without a size has none."""
    whole = np.zeros((8, 9), bool)
    whole[expected] = True
    (rle,) = to_rle(np.full((1, 28, 28), 0.99), np.array([box], float), 8, 9)
    np.testing.assert_array_equal(mask_of(rle, 8, 9), whole)
    assert to_rle(np.zeros((0, 28, 28)), np.zeros((0, 4)), 8, 9) == []

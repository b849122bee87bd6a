"""Outlines and masks: bit by bit against pycocotools, and crops against full masks."""

import json

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycocotools

from ddarts_jax.detection import outlines
from ddarts_jax.detection.outlines import CROP, crop_of, interpolated, mask_of, problem, rle_of

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 70)


def shape(draws, height, width):
    """A mask of some ellipses; where two overlap is a hole."""
    y, x = np.mgrid[:height, :width] + 0.5
    mask = np.zeros((height, width), bool)
    for _ in range(draws.randint(1, 4)):
        cy, cx, ry, rx = draws.rand(4) * [height, width, height / 2, width / 2] + [0, 0, 1, 1]
        mask ^= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return mask


def blob(draws, height, width):
    """A shape, or noise, or nothing, or all."""
    kind = draws.randint(8)
    if kind < 2:
        return np.full((height, width), bool(kind))
    return draws.rand(height, width) < draws.rand() if kind == 2 else shape(draws, height, width)


def runs_of(mask):
    """The lengths of runs, written down as COCO describes them."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=100)
@given(seed=seeds, height=sides, width=sides)
def test_masks_survive_every_kind_of_rle(seed, height, width):
    """Ours is what pycocotools encodes, through JSON; each is read back bit by bit; areas agree."""
    mask = blob(np.random.RandomState(seed), height, width)
    written = json.loads(json.dumps(rle_of(mask)))
    expected = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert written == {"size": [height, width], "counts": expected["counts"].decode()}
    listed = {"size": [height, width], "counts": runs_of(mask)}
    for each in (written, listed):
        found = mask_of(each, height, width)
        assert found.dtype == bool and not problem(each, height, width)
        np.testing.assert_array_equal(found, mask)
        assert pycocotools.area(outlines.to_rle(each, height, width)) == mask.sum()
    assert outlines._uncompressed(written["counts"]).tolist() == listed["counts"]


@settings(max_examples=50)
@given(seed=seeds, height=sides, width=sides)
def test_a_part_of_an_image_is_the_image_without_the_rest(seed, height, width):
    """Where only a part is given, the RLE is that of the whole image."""
    draws = np.random.RandomState(seed)
    y, x = draws.randint(height), draws.randint(width)
    part = blob(draws, draws.randint(1, height - y + 1), draws.randint(1, width - x + 1))
    whole = np.zeros((height, width), bool)
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    assert rle_of(part, (y, x), (height, width)) == rle_of(whole)


@settings(max_examples=30)
@given(seed=seeds)
def test_polygons_of_several_parts(seed):
    """The union of their parts; a rectangle on whole pixels is its pixels, cut off at the border."""
    draws = np.random.RandomState(seed)
    expected, parts = np.zeros((40, 50), bool), []
    for _ in range(draws.randint(1, 4)):
        (x1, x2), (y1, y2) = np.sort(draws.choice(np.arange(-5, 60), (2, 2), replace=False), 1)
        parts.append([float(each) for each in (x1, y1, x2, y1, x2, y2, x1, y2)])
        expected[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = True
    assert not problem(parts, 40, 50)
    found = mask_of(parts, 40, 50)
    np.testing.assert_array_equal(found, np.any([mask_of([each], 40, 50) for each in parts], 0))
    np.testing.assert_array_equal(found, expected)


COUNTS = rle_of(np.eye(4, dtype=bool))["counts"]


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[0, 0, 5, 5, float("nan"), 3]], "points that are not finite"),
        ([[0, 0, 5, 5, 3, 3], [0, 0, 5, 5, 1e9, 3]], "points that are not finite"),
        ([["0", "0", "5", "x", "3", "3"]], "points that are not finite"),
        ([[0, 0, 5, 10**400, 3, 3]], "points that are not finite"),
        ([15], "do not add up to the 4 x 4"),
        ([10, 6, 1], "do not add up"),
        ([20, -4], "cannot be read"),
        ([16, "x"], "cannot be read"),
        ([[16]], "do not add up"),
        ([], "do not add up"),
        ("", "cannot be read"),
        (COUNTS[:-1], "do not add up"),
        (COUNTS + "1", "do not add up"),
        (COUNTS + "P", "cannot be read"),
        (COUNTS + "\x7f", "cannot be read"),
        ("é", "cannot be read"),
        ("oooooooo0", "cannot be read"),
    ],
)
def test_outlines_that_pycocotools_would_stumble_over(outline, message):
    """Each is told of instead: pycocotools reads foreign memory, or never ends."""
    polygon = isinstance(outline, list) and outline and isinstance(outline[0], list)
    whole = outline if polygon and len(outline[0]) > 1 else {"size": [4, 4], "counts": outline}
    assert message in problem(whole, 4, 4)


def align(mask, box, side, samples):
    """RoIAlign of a full mask as its article has it: every point reads the four pixels around it."""
    (x1, y1, x2, y2), (height, width) = box, mask.shape
    steps = (np.arange(side * samples) + 0.5) / (side * samples)
    y = (y1 + steps * (y2 - y1) - 0.5).clip(0, height - 1)
    x = (x1 + steps * (x2 - x1) - 0.5).clip(0, width - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    above = mask[top][:, left] * (1 - x + left) + mask[top][:, right] * (x - left)
    below = mask[bottom][:, left] * (1 - x + left) + mask[bottom][:, right] * (x - left)
    whole = above * (1 - y + top)[:, None] + below * (y - top)[:, None]
    return whole.reshape(side, samples, side, samples).mean((1, 3))


def test_rows_between_rows():
    """As NumPy's interpolation of each column, with zeros around."""
    values = np.random.RandomState(0).rand(5, 3)
    positions = np.array([-7, -1, -0.25, 0, 1.5, 4, 4.9, 5, 30])
    expected = [np.interp(positions, np.arange(-1, 6), [0, *own, 0]) for own in values.T]
    np.testing.assert_allclose(interpolated(values, positions).T, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("box", "samples"), [((3.3, 4.5, 60, 57.25), 1), ((0, 0, 150, 140), 2), ((20, 9, 20.5, 10), 1)]
)
def test_a_crop_is_roi_align_of_the_full_mask(box, samples):
    """Within the rounding to 8 bits, also at the border, of a pixel, and of more pixels than bins."""
    mask = shape(np.random.RandomState(7), 140, 150)
    found = crop_of(mask, np.array(box))
    assert found.dtype == np.uint8 and found.shape == (CROP, CROP)
    np.testing.assert_allclose(found / 255, align(mask, box, CROP, samples), atol=0.51 / 255)


def _target(crop, box, roi):
    """28 x 28 of a region, read from a crop with zeros around it, 2 x 2 points each."""
    found = crop
    for axis in (1, 0):
        start, stop = box[axis], box[axis + 2]
        points = roi[axis] + (np.arange(56) + 0.5) / 56 * (roi[axis + 2] - roi[axis])
        found = interpolated(found, (points - start) / (stop - start) * CROP - 0.5).T
    return found.reshape(28, 2, 28, 2).mean((1, 3)) >= 255 / 2


def test_targets_of_crops_are_those_of_full_masks():
    """150 shapes in jittered boxes: the loss of precision by 8 bits and 112 pixels is below a percent."""
    draws = np.random.RandomState(0)
    overlaps = []
    while len(overlaps) < 150:
        mask = shape(draws, *draws.randint(20, 250, 2))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) < 8 or len(columns) < 8 or not 0.2 < mask.mean() < 0.8:
            continue
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        sides = np.tile(box[2:] - box[:2], 2)
        roi = (box + draws.uniform(-0.15, 0.15, 4) * sides).clip(0, np.tile(mask.shape[::-1], 2))
        samples = int(np.ceil((roi[2:] - roi[:2]).max() / 28))
        expected = align(mask, roi, 28, samples) >= 0.5
        found = _target(crop_of(mask, box), box, roi)
        overlaps.append((found & expected).sum() / (found | expected).sum())
    assert np.mean(overlaps) >= 0.99


def test_the_masks_of_real_files():
    """Nuclei: every outline is sound, has the area that its file says, and lies in its box."""
    root = tiny.SHARED / "detection" / "real" / "nuclei"
    if not root.exists():
        pytest.skip("the annotated photographs beside the repository are absent")
    content = json.loads((root / "train.json").read_text())
    for each in content["annotations"]:
        assert not problem(each["segmentation"], 256, 256)
        mask = mask_of(each["segmentation"], 256, 256)
        assert mask.sum() == each["area"]
        assert rle_of(mask) == each["segmentation"]

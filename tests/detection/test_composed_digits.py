"""The embedded detection data: real digits in tight boxes on photographs, the same every time."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ddarts_jax.data import decoding
from ddarts_jax.detection import composed_digits


@pytest.fixture(scope="module")
def few():
    """Training and test canvases, but fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed_digits, "NUM_TRAIN", 120)
        patch.setattr(composed_digits, "NUM_TEST", 60)
        yield composed_digits.load()


@pytest.fixture
def compose():
    """Composes the canvas of a seed from all digits on a ground of one brightness."""
    digits = load_digits()
    images = decoding.to_uint8(digits.images, 16)

    def of(seed, brightness=100):
        ground = np.full((300, 300), brightness, np.uint8)
        return composed_digits.compose((seed,), images, digits.target, [ground])

    return of


def test_canvases_are_as_described(few):
    """96 x 96, grey, 1 to 5 digits of at most 36 pixels; all that follows from seeds alone."""
    for split, count in zip(few, (120, 60)):
        assert len(split) == count and split.num_classes == 10 and split.channels == 1
        assert {image.shape for image in split.images} == {(96, 96, 1)}
        assert {*split.counts} == {1, 2, 3, 4, 5} and split.trained_images.tolist() == [
            *range(count)
        ]
        assert split.boxes[:, 2:].max() <= 36 and split.boxes[:, 3].min() >= 8
        assert (
            split.areas <= split.boxes[:, 2] * split.boxes[:, 3]
        ).all() and split.areas.min() > 9
        boxes = split.boxes.copy()
        boxes[:, 2:] += boxes[:, :2]
        assert boxes.min() >= 0 and boxes.max() <= 96
    assert {*few[0].labels} == {*range(10)}
    identities = [split.identity["crc32"] for split in few]
    assert identities == ["bf8df29e", "9952ea28"]


def test_outlines_are_the_masks(few, compose):
    """Each digit's outline is its ink: as many pixels as its area, in its tight box."""
    canvas = compose(5)
    one = composed_digits.instances_of([canvas], "one", tuple("0123456789"))
    np.testing.assert_array_equal(list(one.masks(0)), canvas.masks)
    for row in range(10):
        objects = few[0].objects(row)
        masks = list(few[0].masks(row))
        assert [mask.sum() for mask in masks] == few[0].areas[objects].tolist()
        boxes = [composed_digits.tight_box(mask) for mask in masks]
        np.testing.assert_array_equal(boxes, few[0].boxes[objects])


def test_digits_do_not_overlap_and_boxes_are_tight(compose):
    """A mask is where a digit changed the ground; no pixel is in two; a box touches it on four sides."""
    for seed in range(40):
        canvas = compose(seed)
        assert canvas.masks.sum(0).max() == 1 and len(canvas.masks) == len(canvas.labels) >= 1
        changed = np.abs(canvas.image.astype(int) - canvas.image[0, 0]) > 0
        assert not (canvas.masks.any(0) & ~changed).any() or canvas.masks[:, 0, 0].any()
        for mask in canvas.masks:
            x, y, w, h = composed_digits.tight_box(mask)
            inside = mask[y : y + h, x : x + w]
            assert inside.sum() == mask.sum()
            assert (
                inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            )


@pytest.mark.parametrize("brightness", [0, 120, 255])
def test_ink_can_be_read_on_any_ground(compose, brightness):
    """White on what is half as bright as the photograph: brighter wherever a digit is."""
    canvas = compose(3, brightness)
    ground = round(brightness / 2)
    assert canvas.image.max() == 255 and (canvas.image[canvas.masks.any(0)] > ground).all()
    assert canvas.image.min() == ground


def test_no_digit_is_in_both_splits(monkeypatch):
    """What test canvases are composed of, training canvases never see; together they are all."""
    given = []
    monkeypatch.setattr(composed_digits, "NUM_TRAIN", 1)
    monkeypatch.setattr(composed_digits, "NUM_TEST", 1)
    original = composed_digits.compose

    def compose(seeds, digits, *rest):
        given.append({digit.tobytes() for digit in digits})
        return original(seeds, digits, *rest)

    monkeypatch.setattr(composed_digits, "compose", compose)
    composed_digits.load()
    train, test = given
    assert not train & test and len(train) + len(test) == 1797

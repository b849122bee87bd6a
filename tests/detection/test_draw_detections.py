"""Pictures of detections: boxes and labels where they belong, in the colours of their classes."""

import numpy as np
import pytest
from PIL import Image

from ddarts_jax.detection.draw_detections import Boxes, class_colours, draw, draw_pair


def _drawn(boxes, size=(400, 500), names=("cat", "dog"), **options):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    objects = Boxes(boxes, np.arange(len(boxes)) % len(names), **options)
    image = np.zeros((*size, 1), np.uint8)
    return np.asarray(draw(image, objects, names, class_colours(names)))


def _span(picture, colour):
    """Left, top, right, bottom of the pixels of a colour."""
    found = (picture == colour).all(-1)
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_a_box_is_drawn_where_it_is_with_its_label_above():
    """Both in the class's colour; nothing below the box or beside it."""
    picture = _drawn([(100, 50, 300, 120)])
    left, top, right, bottom = _span(picture, class_colours(["cat", "dog"])["cat"])
    assert (left, right, bottom) == (100, 300, 120) and 30 <= top < 45
    assert not picture[70:100, 110:290].any()  # the object can be seen


@pytest.mark.parametrize(("shorter", "scale"), [(299, 2), (300, 1)])
def test_small_images_are_drawn_twice_as_large(shorter, scale):
    """Below 300 pixels a label would hide its object."""
    picture = _drawn([(100, 50, 200, 120)], (shorter, 400))
    assert picture.shape == (scale * shorter, scale * 400, 3)
    left, _, right, bottom = _span(picture, class_colours(["cat", "dog"])["cat"])
    assert (left, right, bottom) == (scale * 100, scale * 200, scale * 120)


@pytest.mark.parametrize(
    "box", [(0, 0, 400, 300), (380, 0, 400, 5), (0, 0, 0, 0), (399, 299, 400, 300)]
)
def test_labels_stay_inside_of_the_picture(box):
    """At every border and for boxes of no size, the label's whole width and height can be seen."""
    picture = _drawn([box], (300, 400), names=("wide name",), scores=np.array([0.87]))
    colour = class_colours(["wide name"])["wide name"]
    rows = np.flatnonzero(((picture == colour).all(-1).sum(1)) > 20)
    assert len(rows) >= 12
    elsewhere = _drawn(
        [(150, 150, 160, 160)], (300, 400), names=("wide name",), scores=np.array([0.87])
    )
    label = (elsewhere == colour).all(-1)[:150].sum()
    assert (picture == colour).all(-1).sum() >= label


def test_the_best_is_on_top():
    """Of two detections at one place the label of the one with the higher score can be read."""
    boxes = [(100, 100, 200, 200)] * 2
    colours = class_colours(["cat", "dog"])
    for scores, name in (([0.9, 0.4], "cat"), ([0.4, 0.9], "dog")):
        picture = _drawn(boxes, scores=np.array(scores))
        assert tuple(picture[199, 150]) == tuple(picture[100, 100]) == colours[name]


def test_colours_follow_from_names():
    """The same among other classes, different within a set as long as there are enough, whatever the
    number of classes and their letters.
    """
    digits = class_colours("0123456789")
    assert len({*digits.values()}) == 10
    assert class_colours(["7"])["7"] == class_colours(["7", "\udcff"])["7"]
    assert class_colours("0123456789"[::-1]) == digits
    many = class_colours(map(str, range(100)))
    assert len(many) == 100 and len({*many.values()}) == 24


def test_pairs_are_files(tmp_path):
    """Ground truth left, detections right; no object at all is no obstacle."""
    image = np.full((100, 120, 3), 9, np.uint8)
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    truth = Boxes(np.array([[10, 40, 60, 90]]), np.array([0]))
    draw_pair(image, truth, nothing, ["cat"], tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (200, 2 * 240 + 8, 3)
    assert _span(pixels, class_colours(["cat"])["cat"])[2] <= 240
    assert (pixels[:, 248:] == 9).all() and (pixels[:, 240:248] == 255).all()
    assert [file.name for file in tmp_path.iterdir()] == ["0.png"]


def test_a_mask_lets_its_object_be_seen_and_has_an_outline():
    """45% of the class's colour inside, all of it at the edge; enlarged as the image is; nothing else."""
    masks = np.zeros((2, 300, 400), bool)
    masks[0, 100:200, 150:250] = True
    colour = np.array(class_colours(["cat", "dog"])["cat"])
    for size, scale in ((300, 1), (200, 2)):
        picture = _drawn([(150, 100, 250, 200), (0, 0, 9, 9)], (size, 400), masks=masks[:, :size])
        plain = _drawn([(150, 100, 250, 200), (0, 0, 9, 9)], (size, 400)).copy()
        np.testing.assert_array_equal(picture[150 * scale, 200 * scale], np.round(0.45 * colour))
        inside = (slice(100 * scale, 200 * scale), slice(150 * scale, 250 * scale))
        plain[inside] = picture[inside]
        np.testing.assert_array_equal(picture, plain)
    disc = np.hypot(*np.mgrid[-150:150, -200:200]) < 60
    picture = _drawn([(100, 50, 300, 250)], (300, 400), masks=disc[None])
    np.testing.assert_array_equal(picture[150, 140], [0, 0, 0])  # in the box, beside the mask
    np.testing.assert_array_equal(picture[150, 141], colour)
    np.testing.assert_array_equal(picture[150, 142], np.round(0.45 * colour))

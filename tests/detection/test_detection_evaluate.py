"""Tests of a detector's evaluation: every image once, on its canvas, in its own pixels."""

import dataclasses
import json

import coco_folder
import jax
import numpy as np
import pytest

from ddarts_jax.detection import evaluate, outlines
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.datasets import Pixels
from ddarts_jax.detection.found import Detections

_PIXELS = Pixels(1, np.zeros(1, np.float32), np.ones(1, np.float32), 0)
# Two images lie on the second canvas; the third image has two objects, the last none.
_INSTANCES = coco_folder.in_memory(
    [(32, 32), (64, 30), (30, 31), (50, 32), (20, 20)],
    [
        [(2, 3, 10, 11)],
        [(0, 0, 30, 60)],
        [(1, 1, 8, 8), (15.5, 12, 9.25, 10)],
        [(5, 20, 20, 20)],
        [],
    ],
)


def stream(batch_size, instances=_INSTANCES):
    return CanvasStream(
        instances=instances,
        batch_size=batch_size,
        sides=((32, 32), (64, 64)),
        short_side=0,
        channels=1,
        training=False,
    )


@pytest.fixture
def oracle(monkeypatch):
    """In place of a detector one that knows the truth by the image's first pixel, and a wrong box."""
    batches = []

    def detect(variables, images, sizes, mean, std, *, detector, dtype, mesh):
        images = np.asarray(images)
        batches.append(images.shape)
        boxes = np.zeros((len(images), 4, 4), np.float32)
        classes = np.full((len(images), 4), -1)
        for place, row in enumerate(images[:, 0, 0, 0]):
            own = _INSTANCES.ground_truth(int(row)).boxes
            boxes[place, : len(own)], classes[place, : len(own)] = own, 0
            boxes[place, 3], classes[place, 3] = (0, 0, 3, 3), 0
        scores = np.where(classes < 0, 0, [[0.9, 0.8, 0.7, 0.1]]).astype(np.float32)
        return Detections(boxes, scores, classes, (classes >= 0).sum(1))

    monkeypatch.setattr(evaluate, "_detect", detect)
    return batches


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_what_is_found_everywhere_has_an_ap_of_one(oracle, batch_size):
    """Whatever fills up the last batch of a canvas counts for nothing, in any batch size."""
    with jax.default_device(jax.devices()[0]):
        tested = evaluate.evaluate_stream(
            None, {}, stream(batch_size), _PIXELS, np.dtype("float32")
        )
    assert tested.evaluations["bbox"].numbers["AP"] == pytest.approx(1)
    assert tested.evaluations.keys() == {"bbox"}
    assert sorted({shape[1:3] for shape in oracle}) == [(32, 32), (64, 64)]
    found = sorted((each["image_id"], *each["bbox"]) for each in tested.results)
    truth = [(1, 2, 3, 10, 11), (2, 0, 0, 30, 60), (3, 1, 1, 8, 8), (3, 15.5, 12, 9.25, 10)]
    truth += [(4, 5, 20, 20, 20), *((number, 0, 0, 3, 3) for number in range(1, 6))]
    assert found == sorted(truth)
    assert {each["category_id"] for each in tested.results} == {1}


def test_nothing_found(oracle, monkeypatch, caplog):
    """An AP of 0, told, and no failure."""
    empty = Detections(
        np.zeros((2, 1, 4), np.float32),
        np.zeros((2, 1), np.float32),
        np.full((2, 1), -1),
        np.zeros(2, int),
    )
    monkeypatch.setattr(evaluate, "_detect", lambda *arguments, **options: empty)
    tested = evaluate.evaluate_stream(None, {}, stream(2), _PIXELS, np.dtype("float32"))
    assert tested.results == [] and tested.evaluations["bbox"].numbers["AP"] == 0
    assert "Nothing was detected" in caplog.text
    with_masks = empty._replace(masks=np.zeros((2, 1, 28, 28), np.float32))
    monkeypatch.setattr(evaluate, "_detect", lambda *arguments, **options: with_masks)
    tested = evaluate.evaluate_stream(None, {}, stream(2, outlined()), _PIXELS, np.dtype("float32"))
    assert tested.results == [] and tested.evaluations["segm"].numbers["AP"] == 0


def halves(instances):
    """Of each object a mask: the left or the right half of its box, in turn, bool [H, W]."""
    for number, (x, y, w, h) in enumerate(instances.boxes.tolist()):
        mask = np.zeros(instances.sizes[instances.owners[number]], bool)
        start = round(x) + (number % 2) * round(w / 2)
        mask[round(y) : round(y + h), start : start + round(w / 2)] = True
        yield mask


def outlined():
    """The images with these masks."""
    found = tuple(outlines.rle_of(mask) for mask in halves(_INSTANCES))
    return dataclasses.replace(_INSTANCES, segmentations=found)


@pytest.mark.parametrize(("right", "expected"), [(True, 1), (False, 0)])
def test_masks_are_judged_by_themselves(oracle, monkeypatch, right, expected):
    """Boxes and masks from one list of results: masks of the wrong half leave the boxes' AP as it is."""
    known = evaluate._detect

    def detect(*arguments, **options):
        found = known(*arguments, **options)
        masks = np.zeros((*found.classes.shape, 28, 28), np.float32)
        for place, row in enumerate(np.asarray(arguments[1])[:, 0, 0, 0]):
            for number, own in enumerate(range(*_INSTANCES.objects(int(row)).indices(99))):
                half = (own % 2) if right else 1 - own % 2
                masks[place, number, :, 14 * half : 14 * half + 14] = 1
        return found._replace(masks=masks)

    monkeypatch.setattr(evaluate, "_detect", detect)
    monkeypatch.setattr(evaluate, "_WAITING", 1)
    instances = outlined()
    tested = evaluate.evaluate_stream(None, {}, stream(1, instances), _PIXELS, np.dtype("float32"))
    assert tested.evaluations["bbox"].numbers["AP"] == pytest.approx(1)
    assert tested.evaluations["segm"].numbers["AP50"] == pytest.approx(expected)
    sure = [each for each in tested.results if each["score"] > 0.5]
    assert [each["image_id"] for each in sure] == [1, 3, 3, 2, 4]  # in the order of the batches
    assert json.loads(json.dumps(tested.results)) == tested.results

"""Streams of canvases: each image and its objects where they belong, the same from anywhere on."""

import itertools

import coco_folder
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ddarts_jax.detection import canvas_stream, coco_json, composed_digits
from ddarts_jax.detection.canvas_stream import CanvasStream, largest_objects, transformed
from ddarts_jax.detection.instances import Objects
from ddarts_jax.errors import UserError

SIDES = ((64, 96), (96, 64))


@pytest.fixture(scope="module")
def images():
    """13 lying and 9 upright images, each with an object, and one without."""
    sizes = [(50, 90)] * 13 + [(90, 50)] * 9 + [(60, 60)]
    boxes = [[(1, 2, 11 + n, 22)] for n in range(22)] + [[]]
    return coco_folder.in_memory(sizes, boxes)


def _stream(images, **options):
    usual = {"batch_size": 4, "sides": SIDES, "channels": 1, "training": True, "flip": False}
    return CanvasStream(instances=images, **usual | options)


def _take(stream, count, first=0):
    batches = stream.batches(first)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for got, wanted in zip(batches, expected):
        assert type(got) is canvas_stream.Batch
        for a, b in zip(got, wanted):
            np.testing.assert_array_equal(a, b)


def test_images_lie_in_the_top_left_corner_with_their_objects(images):
    """Shapes and dtypes as promised; pixels, sizes and boxes are those of the rows; zeros beside."""
    stream = _stream(images)
    assert stream.batches_per_epoch == 3 + 2 and stream.shapes == ((64, 96, 1), (96, 64, 1))
    taken = _take(stream, 5)
    assert {batch.images.shape for batch in taken} == {(4, 64, 96, 1), (4, 96, 64, 1)}
    rows = np.concatenate([batch.rows for batch in taken])
    assert len({*rows}) == 20 and 22 not in rows
    for batch in taken:
        assert batch.masks is None
        dtypes = [each.dtype.name for each in batch[:-1]]
        assert dtypes == ["uint8", "int32", "float32", "int32", "float32", "int32"]
        assert batch.boxes.shape == (4, 1, 4) and batch.weights.tolist() == [1] * 4
        for place, row in enumerate(batch.rows):
            height, width = images.sizes[row]
            assert batch.sizes[place].tolist() == [height, width]
            np.testing.assert_array_equal(batch.images[place, :height, :width], images.images[row])
            assert not batch.images[place, height:].any()
            assert not batch.images[place, :, width:].any()
            assert batch.boxes[place, 0].tolist() == [1, 2, 12 + row, 24]
            assert batch.labels[place].tolist() == [0]


@settings(max_examples=15)
@given(
    first=st.integers(0, 12),
    seed=st.integers(-(2**40), 2**40),
    process_count=st.sampled_from([1, 2, 4]),
)
def test_a_stream_from_any_step_equals_the_unbroken_one(images, first, seed, process_count):
    """Resumed anywhere, on one or several hosts, with drawn sizes and flips: the same batches follow."""
    options = {"seed": seed, "flip": True, "short_side": (40, 60), "long_side": 96}
    unbroken = _take(_stream(images, **options), first + 3)[first:]
    shards = [
        _take(_stream(images, **options, process_index=i, process_count=process_count), 3, first)
        for i in range(process_count)
    ]
    joined = [
        canvas_stream.Batch(*map(np.concatenate, zip(*(part[:-1] for part in parts))))
        for parts in zip(*shards)
    ]
    _assert_equal(joined, unbroken)


def test_a_worker_makes_the_same_batches(tmp_path):
    """From files, in another process, which is sent no outlines."""
    found = coco_json.read(*coco_folder.write(tmp_path))
    options = {"batch_size": 1, "sides": [(64, 64)], "channels": 3, "seed": 5, "flip": True}
    expected = _take(_stream(found, **options), 4)
    _assert_equal(_take(_stream(found, **options, num_workers=1), 4), expected)
    assert _stream(found, **options).__getstate__()["instances"].segmentations == ()


def test_a_worker_makes_the_same_masks(tmp_path):
    """It is sent the outlines then; masks lie beside their boxes, and zeros fill up."""
    whole = coco_folder.content()
    for each in whole["annotations"]:
        x, y, w, h = each["bbox"]
        each["segmentation"] = [[x, y, x + w / 2, y, x + w / 2, y + h, x, y + h]]  # the left half
    found = coco_json.read(*coco_folder.write(tmp_path, whole), masks=True)
    options = {"batch_size": 1, "sides": [(64, 64)], "channels": 3, "seed": 5, "flip": True}
    options |= {"masks": True, "short_side": (30, 40), "long_side": 64}
    expected = _take(_stream(found, **options), 6)
    _assert_equal(_take(_stream(found, **options, num_workers=1), 6), expected)
    seen = set()
    for batch in expected:
        assert batch.masks.shape == (1, 2, 112, 112) and batch.masks.dtype == np.uint8
        objects = found.ground_truth(batch.rows[0], masks=True)
        flipped = batch.boxes[0, 0, 0] > 2  # all begin further left
        seen.add(bool(flipped))
        for mask, own, label in zip(batch.masks[0], objects.masks, batch.labels[0]):
            assert own.any() and label >= 0
            np.testing.assert_array_equal(mask, own[:, ::-1] if flipped else own)
        assert not batch.masks[0, len(objects.labels) :].any()
    assert seen == {True, False}


@pytest.mark.parametrize(("batch_size", "process_count"), [(1, 1), (4, 2), (5, 1), (30, 1)])
def test_evaluation_takes_each_image_once_and_fills_up(images, batch_size, process_count):
    """Over all hosts: also images without objects; weight 0 and row -1 fill the rest of a canvas."""
    shards = [
        list(
            _stream(
                images, training=False, batch_size=batch_size, flip=True,
                process_index=i, process_count=process_count,
            ).batches()
        )
        for i in range(process_count)
    ]  # fmt: skip
    rows = np.concatenate([batch.rows for shard in shards for batch in shard])
    weights = np.concatenate([batch.weights for shard in shards for batch in shard])
    assert sorted(rows[rows >= 0]) == list(range(23))
    np.testing.assert_array_equal(weights, rows >= 0)
    for batch in itertools.chain(*shards):
        for image, size, row in zip(batch.images, batch.sizes, batch.rows):
            assert row < 0 or image[0, 0, 0] == row  # not mirrored
            assert (size > 0).all()


def test_resizes_and_flips_are_drawn_for_each_image_and_epoch(images):
    """Within the limits, over epochs every short side and both ways; others for another seed."""
    options = {"flip": True, "short_side": (48, 50), "long_side": 90, "batch_size": 9}
    stream = _stream(images, **options)
    assert stream.shapes == ((64, 96, 1), (96, 64, 1))
    seen = [
        (int(row), int(size.min()), float(box[0, 0]) > 2)
        for batch in _take(stream, 2 * 12)
        for row, size, box in zip(batch.rows, batch.sizes, batch.boxes)
    ]
    assert {short for _, short, _ in seen} == {48, 49, 50}
    assert 0.3 < np.mean([flipped for *_, flipped in seen]) < 0.7
    for row in {row for row, *_ in seen}:
        assert len({(short, flipped) for number, short, flipped in seen if number == row}) > 1
    other = _take(_stream(images, **options, seed=1), 1)[0]
    assert not np.array_equal(other.rows, _take(stream, 1)[0].rows)


def test_a_canvas_holds_whatever_is_drawn():
    """An image is dealt by the largest size that it may have, so that epochs are equally long."""
    found = coco_folder.in_memory([(60, 60)] * 4)
    sides = [(64, 64), (96, 96)]
    stream = _stream(found, sides=sides, short_side=(40, 80), long_side=80)
    assert stream.shapes == ((96, 96, 1),)
    assert {batch.images.shape for batch in _take(stream, 8)} == {(4, 96, 96, 1)}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000), height=st.integers(60, 300), width=st.integers(60, 300),
    flipped=st.booleans(),
)  # fmt: skip
def test_boxes_move_with_the_pixels_of_their_objects(seed, height, width, flipped):
    """The tight box of a mask that is resized and mirrored as an image is that of its box, to a pixel."""
    draws = np.random.RandomState(seed)
    mask = np.zeros((96, 96), bool)
    (y1, y2), (x1, x2) = np.sort(draws.choice(97, (2, 2), replace=False), 1)
    y2, x2 = max(y2, y1 + 4), max(x2, x1 + 4)
    mask[y1:y2, x1:x2] = True
    x, y, w, h = composed_digits.tight_box(mask)
    crops = draws.randint(0, 256, (1, 112, 112), np.uint8)
    objects = Objects(np.array([[x, y, x + w, y + h]], np.float32), np.zeros(1, np.int32), crops)
    image = (255 * mask[..., None]).astype(np.uint8)
    moved, found = transformed(image, objects, (height, width), flipped)
    assert moved.shape == (height, width, 1) and found.boxes.dtype == np.float32
    np.testing.assert_array_equal(found.masks, crops[..., ::-1] if flipped else crops)
    x, y, w, h = composed_digits.tight_box(moved[..., 0] > 127)
    # An edge lies somewhere within its last pixel, which is scaled too.
    np.testing.assert_allclose(found.boxes[0], [x, y, x + w, y + h], atol=1)


def test_flipped_twice_is_nothing(images):
    """A flip takes x to W - x, and the left edge remains the left one."""
    objects = images.ground_truth(3)
    once = transformed(images.images[3], objects, (50, 90), True)
    twice = transformed(*once, (50, 90), True)
    np.testing.assert_array_equal(twice[0], images.images[3])
    np.testing.assert_array_equal(twice[1].boxes, objects.boxes)
    assert twice[1].masks is None
    assert once[1].boxes.tolist() == [[90 - 15, 2, 89, 24]]


def test_too_many_objects(caplog):
    """111 objects with room for 100: the largest take part, one line tells it, all are evaluated."""
    boxes = [[(x, x, 1 + (7 * x) % 111, 9) for x in range(111)], [(5, 5, 20, 20)]]
    found = coco_folder.in_memory([(300, 300)] * 2, boxes)
    stream = _stream(found, batch_size=2, sides=[(320, 320)])
    (record,) = caplog.records
    assert record.getMessage().startswith("11 objects are left out of training")
    (batch,) = _take(stream, 1)
    assert batch.boxes.shape == (2, 100, 4)
    place = batch.rows.tolist().index(0)
    assert (batch.boxes[place, :, 2] - batch.boxes[place, :, 0]).min() == 12
    assert batch.labels[1 - place].tolist() == [0] + 99 * [-1]
    assert len(found.boxes) == 112


def test_the_largest_objects_stay_in_their_order():
    """By area; of equals the first."""
    boxes = np.array([[0, 0, 2, 2], [0, 0, 9, 9], [0, 0, 1, 4], [0, 0, 3, 3]], np.float32)
    labels, masks = np.arange(4, dtype=np.int32), np.arange(4)[:, None, None]
    kept = largest_objects(Objects(boxes, labels), 3)
    assert kept.labels.tolist() == [0, 1, 3] and kept.masks is None
    assert largest_objects(Objects(boxes, labels, masks), 3).masks.ravel().tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 14}, "batch_images=14 is larger than the images of every .* at most 13"),
        ({"batch_size": 4, "process_count": 3}, "4 cannot be split evenly over 3"),
        ({"sides": [(32, 64)]}, "No canvas of 32 x 64 holds every image"),
    ],
)
def test_impossible_batches(images, options, message):
    """Told at the start."""
    with pytest.raises(UserError, match=message):
        _stream(images, **options)


def test_nothing_to_train_with():
    """Images of which none has a usable object are refused by the name of their data."""
    with pytest.raises(UserError, match="made has no image to train with"):
        _stream(coco_folder.in_memory([(64, 64)], [[]]))


def test_real_photographs():
    """Every training tile comes once an epoch, resized, and its boxes follow."""
    root = tiny.SHARED / "detection" / "real" / "trees"
    if not root.exists():
        pytest.skip("the annotated photographs beside the repository are absent")
    trees = coco_json.read(str(root / "train.json"), str(root))
    stream = _stream(
        trees, batch_size=13, channels=3, short_side=192, long_side=256, sides=[(192, 192)]
    )
    for batch in _take(stream, 2):
        for place, row in enumerate(batch.rows):
            expected = trees.ground_truth(row).boxes * 192 / trees.sizes[row][0]
            found = batch.boxes[place, batch.labels[place] == 0]
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert batch.images.shape == (13, 192, 192, 3)

"""What is trained and what is evaluated, classes of two sets, and reading of stored pixels."""

import dataclasses
import logging

import coco_folder
import numpy as np
import pytest
from PIL import Image

from ddarts_jax.detection import coco_json
from ddarts_jax.detection.instances import _tell_of_rotation, in_classes_of, pixel_statistics
from ddarts_jax.errors import UserError


def test_boxes_that_train_are_clipped_and_chosen():
    """Crowds, ignored objects, objects without area, slivers and boxes outside are evaluated alone."""
    boxes = [
        (-10, 5, 30, 100),  # clipped
        (0, 0, 10, 10),  # a crowd
        (0, 0, 10, 10),  # to be ignored
        (0, 0, 10, 10),  # without area
        (5, 5, 0.9, 20),  # less than a pixel wide
        (39.5, 5, 20, 20),  # of which less than a pixel is inside
        (40, 60, 9, 9),  # outside
        (0.1, 0.7, 1, 1),  # exactly a pixel, up to rounding
    ]
    found = coco_folder.in_memory(
        [(50, 40)],
        [boxes],
        crowd=np.arange(8) == 1,
        ignore=np.arange(8) == 2,
        areas=np.array([9, 9, 9, 0, 9, 9, 9, 9.0]),
        labels=np.arange(8, dtype=np.int32),
    )
    trained = found.ground_truth(0)
    assert trained.labels.tolist() == [0, 7]
    assert trained.boxes.dtype == np.float32
    np.testing.assert_allclose(trained.boxes, [[0, 5, 20, 50], [0.1, 0.7, 1.1, 1.7]], rtol=1e-6)
    assert found.counts.tolist() == [2] and len(found.boxes) == 8


def test_images_without_objects_and_small_ones_do_not_train():
    """As in MMDetection: a side below 32 pixels, or nothing usable in it; all stay in the evaluation."""
    sizes = [(32, 40), (31, 400), (64, 64), (64, 64)]
    one = [(0, 0, 9, 9)]
    found = coco_folder.in_memory(sizes, [one, one, [], one])
    assert found.trained_images.tolist() == [0, 3]
    assert len(found) == 4 and found.ground_truth(2).boxes.shape == (0, 4)


def _classed(ids, names, labels, **replaced):
    boxes = [[(0, 0, 9, 9)]] * len(labels)
    return coco_folder.in_memory(
        [(40, 40)] * len(labels),
        boxes,
        category_ids=np.array(ids),
        class_names=tuple(names),
        labels=np.array(labels, np.int32),
        **replaced,
    )


def test_the_test_is_labelled_by_the_classes_of_training(caplog):
    """By ids, in whatever ranks; what training lacks is left out, told by name."""
    train = _classed([2, 5, 9], "abc", [0], name="T.json")
    test = _classed([3, 5, 9], "xbc", [0, 2, 1], name="V.json", segmentations=("s0", "s1", "s2"))
    found = in_classes_of(train, test)
    assert found.labels.tolist() == [2, 1] and found.class_names == ("a", "b", "c")
    assert found.owners.tolist() == [1, 2] and found.segmentations == ("s1", "s2")
    assert "1 objects in V.json are left out: T.json has no category 'x'" in caplog.text


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (_classed([7], "z", [0]), "have no category in common"),
        (_classed([2], "z", [0]), "Category 2 is 'a' in T.json but 'z' in made"),
        (_classed([2], "a", [0], crowd=np.array([True])), "made has no object of the classes"),
        (_classed([2, 7], "az", [1]), "made has no object of the classes"),
    ],
)
def test_sets_that_do_not_fit(test, message):
    """A test that could find nothing, or names the classes otherwise, is refused by name."""
    with pytest.raises(UserError, match=message):
        in_classes_of(_classed([2, 5, 9], "abc", [0], name="T.json"), test)


def test_stored_pixels_are_read_as_they_lie(tmp_path, caplog):
    """A camera's rotation is not applied, which is told once for all images."""
    _tell_of_rotation.cache_clear()
    found = coco_json.read(*coco_folder.write(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((50, 40, 3), np.uint8)
    pixels[0, 0] = 255
    for row in (0, 1):
        with Image.open(found.images[row]) as image:
            size = image.size
        Image.fromarray(pixels).resize(size, 0).save(found.images[row], exif=exif)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(found.read(1, 3), pixels)
        np.testing.assert_array_equal(found.read(1, 1)[..., 0], pixels[..., 0])
        found.read(0, 3)
    assert caplog.text.count("to be rotated") == 1


def test_files_that_are_not_what_the_data_say(tmp_path):
    """Another size, an upright copy of a rotated file for instance, and broken content are named."""
    found = coco_json.read(*coco_folder.write(tmp_path))
    Image.new("L", (50, 40)).save(found.images[1])
    with pytest.raises(UserError, match=r"4\.png has 50 x 40 .* but .*objects\.json says 40 x 50"):
        found.read(1, 3)
    with open(found.images[0], "r+b") as file:
        file.truncate(60)
    with pytest.raises(UserError, match=r"Cannot read .*/a/30\.png as an image: .*; repair or"):
        found.read(0, 3)


def test_grey_and_colour_become_what_is_asked_for():
    """In memory as from files: a grey network gets one channel, another three."""
    grey = coco_folder.in_memory([(32, 32)])
    colour = coco_folder.in_memory([(32, 32)], channels=3)
    assert grey.channels == 1 and colour.channels == 3
    for each in (grey, colour):
        for channels in (1, 3):
            image = each.read(0, channels)
            assert image.shape == (32, 32, channels) and (image.reshape(-1)[channels:] == 100).all()


def test_selected_images_keep_their_objects():
    """Some of the images, with what is in each and with outlines where there are any."""
    boxes = [[(1, 1, 5, 5)], [], [(2, 2, 6, 6), (3, 3, 7, 7)], [(4, 4, 8, 8)]]
    whole = coco_folder.in_memory([(32, 32), (32, 40), (50, 60), (33, 34)], boxes)
    outlined = dataclasses.replace(whole, segmentations=("a", None, "c", "d"))
    for images, outlines in ((whole, ()), (outlined, (None, "c"))):
        found = images.select(np.array([1, 2]))
        assert found.image_ids.tolist() == [2, 3] and found.sizes.tolist() == [[32, 40], [50, 60]]
        assert found.read(1, 1)[0, 0, 0] == 2  # its position before
        assert found.counts.tolist() == [0, 2] and found.segmentations == outlines
        np.testing.assert_array_equal(found.ground_truth(1).boxes, whole.ground_truth(2).boxes)


def test_pixel_statistics_weigh_every_pixel_equally():
    """Images of several sizes: as if all their pixels were one array."""
    found = coco_folder.in_memory([(32, 40), (50, 60)])
    pixels = np.concatenate([image.ravel() for image in found.images]) / 255
    mean, std = pixel_statistics(found, 1)
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-5)

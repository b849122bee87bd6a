"""Around an exported program: images lie on its canvas as in the training, boxes come back."""

import coco_folder
import numpy as np

from ddarts_jax.detection import exported
from ddarts_jax.detection.canvas_stream import CanvasStream

_GIVEN = {"canvas": [64, 96], "short_side": 48, "long_side": 80, "mean": [0.4], "std": [0.2]}


def test_images_lie_on_the_canvas_as_in_an_evaluation():
    """Resized, in the corner, as the stream of the evaluation places them; zeros beside."""
    sizes = [(50, 90), (60, 60), (30, 47), (64, 96), (20, 70)]
    images = coco_folder.in_memory(sizes)
    for image in images.images:
        image[...] = np.random.default_rng(len(image)).integers(0, 256, image.shape)
    stream = CanvasStream(
        instances=images,
        batch_size=5,
        sides=[(64, 96)],
        short_side=48,
        long_side=80,
        channels=1,
        training=False,
    )
    (batch,) = stream.batches()
    for image, expected, size in zip(images.images, batch.images, batch.sizes, strict=True):
        placed, found = exported.place(image, _GIVEN)
        assert placed.dtype == np.float32 and found.dtype == np.int32
        assert found.tolist() == size.tolist()
        height, width = size
        inside = (expected[:height, :width] / 255 - 0.4) / 0.2
        np.testing.assert_allclose(placed[:height, :width], inside, atol=1e-5)
        assert not placed[height:].any() and not placed[:, width:].any()


def test_boxes_come_back_to_the_pixels_of_the_image():
    """A box around the whole image on the canvas is one around the image; padding is left out."""

    def forward(images, sizes):
        (height, width), boxes = sizes[0], np.zeros((1, 4, 4), np.float32)
        boxes[0, 0], boxes[0, 1] = (0, 0, width, height), (0, 0, width / 2, height / 4)
        return boxes, np.float32([[0.9, 0.8, 0, 0]]), np.int32([[2, 0, -1, -1]]), np.int32([2])

    found = exported.find(forward, np.zeros((100, 30, 1), np.uint8), _GIVEN)
    np.testing.assert_allclose(found.boxes, [[0, 0, 30, 100], [0, 0, 15, 25]], rtol=1e-6)
    assert (
        found.labels.tolist() == [2, 0] and found.scores.tolist() == np.float32([0.9, 0.8]).tolist()
    )

"""Streams of batches of images on canvases, with the objects in them.

Batch k of a stream depends only on the images, the seed and k, as in `data.stream`, which reads ahead.

Worker processes import this file: it imports no JAX.
"""

import dataclasses
import functools
import logging
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ddarts_jax.data import stream
from ddarts_jax.detection import canvases
from ddarts_jax.detection.instances import Instances, Objects
from ddarts_jax.detection.outlines import CROP
from ddarts_jax.errors import UserError

if TYPE_CHECKING:
    import jax

_logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """The images of a step, or the part of them that this process holds.

    Attributes:
        images: uint8 [B, H, W, C], each in the top left corner of its canvas, zeros beside it.
        sizes: int32 [B, 2], height and width of the images on their canvas.
        boxes: float32 [B, G, 4], x1, y1, x2, y2 in pixels of the canvas.
        labels: int32 [B, G]; -1: there is no object.
        weights: float32 [B]: 1, or 0 for the padding of the last batch of a canvas in an evaluation.
        rows: int32 [B], positions of the images in the data; -1 for the padding.
        masks: uint8 [B, G, CROP, CROP], of each object within its box, see `outlines.crop_of`; None: the
            stream has none.
    """

    images: "np.ndarray | jax.Array"
    sizes: "np.ndarray | jax.Array"
    boxes: "np.ndarray | jax.Array"
    labels: "np.ndarray | jax.Array"
    weights: "np.ndarray | jax.Array"
    rows: "np.ndarray | jax.Array"
    masks: "np.ndarray | jax.Array | None" = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CanvasStream:
    """Batches of images with their objects, all of a batch on canvases of one size.

    Training draws a new order every epoch, without end, of the images that have objects to train with,
    and leaves out those that fill no batch (different ones in every epoch). Evaluation takes each image
    once, canvas by canvas, and pads the last batch of each.

    Attributes:
        instances: the images and objects.
        batch_size: images in a batch, over all processes.
        sides: heights and widths of the canvases, see `canvases.default_canvases`.
        short_side: pixels of an image's shorter side when resized, or the least and the most of them,
            between which each image of an epoch of training draws; 0: images keep their size.
        long_side: the most pixels of the longer side.
        channels: 1 for grey, 3 for RGB.
        training: see above.
        seed: of the order, the flips and the sizes in training.
        flip: whether to mirror half of the images left to right in training.
        max_objects: the most objects of an image; of more, the largest stay.
        masks: whether batches have masks, for which each object that trains needs an outline.
        num_workers: processes that decode; 0: a thread of this one.
        white: value of white in images of 16 bits, see `decoding.white_of`.
        process_index: which rows of a batch are this host's.
        process_count: number of hosts.

    Raises:
        UserError: no image can be trained with; images fill no batch on any canvas, or lie on none;
            batches do not divide over the processes.
    """

    instances: Instances
    batch_size: int
    sides: Sequence[tuple[int, int]]
    short_side: int | tuple[int, int] = 0
    long_side: int = 0
    channels: int
    training: bool
    seed: int = 0
    flip: bool = True
    max_objects: int = 100
    masks: bool = False
    num_workers: int = 0
    white: int = 0
    process_index: int = 0
    process_count: int = 1
    _dealt: canvases.Deal = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        if self.batch_size % self.process_count:
            raise UserError(
                f"train.batch_images={self.batch_size} cannot be split evenly over "
                f"{self.process_count} processes."
            )
        if self.training:
            self._check_training()
        rows = self.instances.trained_images if self.training else np.arange(len(self.instances))
        within = canvases.resized(
            self.instances.sizes[rows], np.max(self.short_side), self.long_side
        )
        least = self.batch_size if self.training else 1
        object.__setattr__(self, "_dealt", canvases.deal(rows, within, self.sides, least))

    def _check_training(self) -> None:
        """UserError where nothing can be trained with; a warning where objects are left out."""
        rows = self.instances.trained_images
        if not len(rows):
            raise UserError(
                f"{self.instances.name} has no image to train with: an image needs sides of at least 32 "
                "pixels and an object that is no crowd, of at least one pixel a side."
            )
        left_out = np.maximum(self.instances.counts[rows] - self.max_objects, 0).sum()
        if left_out:
            _logger.warning(
                "%d objects are left out of training: of an image with more than max_objects=%d the "
                "largest take part",
                *(left_out, self.max_objects),
            )

    def __getstate__(self):
        # The outlines of COCO's objects cost every worker gigabytes: only where they are needed.
        kept = self.instances.segmentations if self.masks else ()
        return self.__dict__ | {
            "instances": dataclasses.replace(self.instances, segmentations=kept)
        }

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch; in an evaluation including the padded ones."""
        if self.training:
            return canvases.batches_per_epoch(self._dealt, self.batch_size)
        return len(canvases.one_pass(self._dealt, self.batch_size))

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of the canvases that have batches; each is a program to compile."""
        filled = zip(self._dealt.canvases, self._dealt.groups)
        return tuple((*sides, self.channels) for sides, group in filled if len(group))

    @property
    def images_by_canvas(self) -> dict[tuple[int, int], np.ndarray]:
        """Of each canvas (height, width), the smallest first, the positions of its images."""
        return dict(zip(self._dealt.canvases, self._dealt.groups))

    @functools.cached_property
    def num_objects(self) -> int:
        """G: `max_objects`, or the most that an image has, if those are fewer, but at least 1."""
        return max(1, min(self.max_objects, int(self.instances.counts.max())))

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Yields this process's part of batch `first` and all after it; see `stream.read_ahead`.

        In training `first` is the number of steps done.

        Raises:
            UserError: an image cannot be read or is of another size than the data say, or a worker
                process died.
        """
        end = np.iinfo(np.int64).max if self.training else self.batches_per_epoch
        return stream.read_ahead(self._batch, first, end, self.num_workers)

    def _batch(self, number: int) -> Batch:
        """Reads and places this process's part of a batch."""
        epoch, position = divmod(int(number), self.batches_per_epoch)
        if self.training:
            order = canvases.epoch(self._dealt, self.batch_size, self.seed, epoch)
        else:
            order = canvases.one_pass(self._dealt, self.batch_size)
        canvas, rows = order[position]
        size = self.batch_size // self.process_count
        rows = rows[self.process_index * size :][:size]
        height, width = self._dealt.canvases[canvas]
        batch = Batch(
            images=np.zeros((size, height, width, self.channels), np.uint8),
            sizes=np.ones((size, 2), np.int32),
            boxes=np.zeros((size, self.num_objects, 4), np.float32),
            labels=np.full((size, self.num_objects), -1, np.int32),
            weights=(rows >= 0).astype(np.float32),
            rows=rows.astype(np.int32),
            masks=np.zeros((size, self.num_objects, CROP, CROP), np.uint8) if self.masks else None,
        )
        for place in np.flatnonzero(rows >= 0):
            self._place(batch, place, rows[place], epoch)
        return batch

    def _place(self, batch: Batch, place: int, row: int, epoch: int) -> None:
        """Reads an image and puts it, resized and perhaps mirrored, on its canvas, with its objects."""
        short_side, flipped = np.max(self.short_side), False
        if self.training:
            # Python promises the same numbers in all versions only for `random` itself.
            draws = random.Random(f"{self.seed} {epoch} {row}")
            flipped = self.flip and draws.random() < 0.5
            least = np.min(self.short_side)
            short_side = least + int(draws.random() * (short_side - least + 1))
        image = self.instances.read(row, self.channels, self.white)
        size = canvases.resized(image.shape[:2], short_side, self.long_side)
        objects = self.instances.ground_truth(row, self.masks)
        image, objects = transformed(image, objects, size, flipped)
        objects = largest_objects(objects, self.num_objects)
        batch.images[place, : size[0], : size[1]] = image
        batch.sizes[place] = size
        batch.boxes[place, : len(objects.labels)] = objects.boxes
        batch.labels[place, : len(objects.labels)] = objects.labels
        if self.masks:
            batch.masks[place, : len(objects.labels)] = objects.masks


def transformed(
    image: np.ndarray, objects: Objects, size: Sequence[int], flipped: bool
) -> tuple[np.ndarray, Objects]:
    """Resizes an image with its objects, bilinearly and antialiased, and then mirrors it left to right.

    Args:
        image: uint8 [h, w, C], C 1 or 3.
        objects: boxes in pixels of the image.
        size: height H and width W of the result; boxes are scaled by H / h and W / w, masks lie within
            their boxes as before.
        flipped: whether to mirror.

    Returns:
        uint8 [H, W, C], and the objects in its pixels.
    """
    from PIL import Image

    (height, width), (new_height, new_width) = image.shape[:2], map(int, size)
    if (height, width) != (new_height, new_width):
        plane = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        plane = plane.resize((new_width, new_height), Image.Resampling.BILINEAR)
        image = np.asarray(plane).reshape(new_height, new_width, -1)
    scale = np.array([new_width / width, new_height / height] * 2)
    boxes, masks = (objects.boxes * scale).astype(np.float32), objects.masks
    if flipped:
        image = image[:, ::-1]
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([new_width - x2, y1, new_width - x1, y2], 1)
        masks = None if masks is None else masks[:, :, ::-1]
    return image, Objects(boxes, objects.labels, masks)


def largest_objects(objects: Objects, count: int) -> Objects:
    """Keeps at most `count` objects, those with the largest boxes, in their order."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    kept = np.sort(np.argsort(-sides.prod(1), kind="stable")[:count])
    return Objects(*(each if each is None else each[kept] for each in objects))

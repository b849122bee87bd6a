"""Images with the objects in them: what a detector learns from and is judged by.

Objects are kept as the data have them. The evaluation gets all of them untouched; what a detector is
trained with is derived: boxes clipped to the image, without those that MMDetection leaves out too.

Worker processes import this file: it imports no JAX.
"""

import dataclasses
import functools
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from ddarts_jax.data import decoding
from ddarts_jax.data.dataset import mean_std
from ddarts_jax.data.sources.tfds import Examples
from ddarts_jax.data.splits import spread
from ddarts_jax.detection.outlines import CROP, crop_of, mask_of
from ddarts_jax.errors import UserError

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_LEAST_SIDE = 32  # pixels of an image that takes part in training, as in MMDetection


class Objects(NamedTuple):
    """The objects of an image that a detector is trained with.

    Attributes:
        boxes: float32 [k, 4], x1, y1, x2, y2 in pixels of the image.
        labels: int32 [k].
        masks: uint8 [k, CROP, CROP], each within its box, see `outlines.crop_of`; None: not asked for.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


class Record(NamedTuple):
    """An encoded image that lies among others in a split of a TFDS set.

    Attributes:
        examples: the split.
        index: position of the image in it.
    """

    examples: Examples
    index: int

    def __str__(self) -> str:
        return f"Image {self.index} of {self.examples.name}"

    def read(self) -> bytes:
        """Reads the encoded image."""
        return self.examples.source[self.index]["image"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Instances:
    """n images with m objects of K classes.

    Attributes:
        name: of the data, for messages: the file that describes them, if there is one.
        images: of each image the path of its file, or its record, or its pixels, uint8 [H, W, C].
        image_ids: int64 [n], by which results name the images.
        sizes: int32 [n, 2], height and width of the stored pixels.
        category_ids: int64 [K], ascending; a label is the rank of its category's id.
        class_names: K names.
        owners: int64 [m], ascending: the position of the image that an object is in.
        boxes: float64 [m, 4], x, y, width and height, as the data have them: the evaluation compares
            in float64, and a box may reach over the border.
        labels: int32 [m].
        crowd: bool [m]: a group that is not told apart; neither trained nor counted as missed.
        ignore: bool [m]: not trained; the evaluation takes no notice of this.
        areas: float64 [m], pixels of the object, by which the evaluation calls it small or large.
        segmentations: of each object its outline as COCO writes it (see `outlines`), or None; empty
            where the data have none at all.
    """

    name: str
    images: tuple[str, ...] | tuple[Record, ...] | tuple[np.ndarray, ...]
    image_ids: np.ndarray
    sizes: np.ndarray
    category_ids: np.ndarray
    class_names: tuple[str, ...]
    owners: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    segmentations: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def on_disk(self) -> bool:
        """Whether the images are files or records."""
        return not isinstance(self.images[0], np.ndarray)

    @property
    def channels(self) -> int:
        """Channels of an image: those of pixels in memory; others are made RGB, as in `stream`."""
        return 3 if self.on_disk else self.images[0].shape[2]

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What distinguishes these images and objects from others, as JSON, for `Checkpoints`."""
        arrays = [self.image_ids, self.sizes, self.owners, self.boxes, self.labels, self.crowd]
        arrays += [image for image in self.images if isinstance(image, np.ndarray)]
        checksum = functools.reduce(lambda crc, each: zlib.crc32(each.tobytes(), crc), arrays, 0)
        found = {"images": len(self), "objects": len(self.boxes), "crc32": f"{checksum:08x}"}
        if self.segmentations:
            outlines = map(json.dumps, self.segmentations)
            checksum = functools.reduce(
                lambda crc, each: zlib.crc32(each.encode(), crc), outlines, 0
            )
            found["outlines"] = f"{checksum:08x}"
        return found

    def select(self, rows: np.ndarray) -> "Instances":
        """Returns the images at the positions `rows`, ascending, with their objects."""
        own = np.flatnonzero(np.isin(self.owners, rows))
        objects = ("boxes", "labels", "crowd", "ignore", "areas")
        return dataclasses.replace(
            self,
            images=tuple(self.images[row] for row in rows),
            image_ids=self.image_ids[rows],
            sizes=self.sizes[rows],
            owners=np.searchsorted(rows, self.owners[own]),
            **{each: getattr(self, each)[own] for each in objects},
            segmentations=tuple(self.segmentations[each] for each in own if self.segmentations),
        )

    def objects(self, row: int) -> slice:
        """Returns which objects are in the image at position `row`."""
        return slice(*np.searchsorted(self.owners, (row, row + 1)))

    def ground_truth(self, row: int, masks: bool = False) -> Objects:
        """Returns what a detector is trained with in the image at position `row`.

        Boxes are clipped to the image. Left out are crowds, objects that are to be ignored or have no
        area, and boxes of which less than a pixel in width or height is inside.

        Args:
            row: see above.
            masks: whether to return masks too, for which each object needs an outline.
        """
        own = self._trained_of(row)
        boxes, crops = self._corners[own], None
        if masks:
            crops = np.empty((len(own), CROP, CROP), np.uint8)
            for place, mask in enumerate(self.masks(row)):
                crops[place] = crop_of(mask, boxes[place])
        return Objects(boxes.astype(np.float32), self.labels[own], crops)

    def masks(self, row: int) -> Iterator[np.ndarray]:
        """Yields the masks of the objects of `ground_truth`, each bool [H, W], all of the image."""
        for each in self._trained_of(row):
            yield mask_of(self.segmentations[each], *self.sizes[row].tolist())

    def _trained_of(self, row: int) -> np.ndarray:
        own = self.objects(row)
        return np.arange(own.start, own.stop)[self._trained[own]]

    @functools.cached_property
    def trained_images(self) -> np.ndarray:
        """Positions of the images that train: with an object for it, and no side below 32 pixels."""
        return np.flatnonzero((self.counts > 0) & (self.sizes.min(1) >= _LEAST_SIDE))

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Number of objects that each image trains with, int [n]."""
        return np.bincount(self.owners[self._trained], minlength=len(self))

    @functools.cached_property
    def _corners(self) -> np.ndarray:
        """x1, y1, x2, y2 of the boxes, clipped to their image, float64 [m, 4]."""
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], 1)
        height, width = self.sizes[self.owners].T
        return np.clip(corners, 0, np.stack([width, height] * 2, 1))

    @functools.cached_property
    def _trained(self) -> np.ndarray:
        """Which objects a detector is trained with, bool [m]."""
        sides = self._corners[:, 2:] - self._corners[:, :2]
        inside = (sides > 1 - 1e-6).all(1)  # x + 1 - x is not always 1
        return inside & ~self.crowd & ~self.ignore & (self.areas > 0)

    def read(self, row: int, channels: int, white: int = 0) -> np.ndarray:
        """Reads an image as it is stored: a rotation that a file tells of is not applied.

        Args:
            row: its position.
            channels: 1 for grey, 3 for RGB.
            white: value of white in images of 16 bits, see `decoding.grey_or_rgb`.

        Returns:
            uint8 [H, W, channels].

        Raises:
            UserError: it cannot be read, or is of another size than the data say.
        """
        from PIL import Image

        image, mode = self.images[row], "L" if channels == 1 else "RGB"
        if not isinstance(image, np.ndarray):
            image = self.stored(row, functools.partial(self._decoded, row, white))
        elif image.shape[2] != channels:
            image = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        else:
            return image
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        return pixels.reshape(*pixels.shape[:2], channels)

    def stored(self, row: int, read: Callable[[BinaryIO], _T]) -> _T:
        """Applies `read` to the file or the record of an image, as a stream of bytes.

        Raises:
            UserError: that fails.
        """
        image = self.images[row]
        try:
            with (
                open(image, "rb") if isinstance(image, str) else io.BytesIO(image.read()) as stream
            ):
                return read(stream)
        except UserError:
            raise
        except Exception as error:  # Corrupt images make Pillow's decoders raise nearly anything.
            reason = decoding.reason(error)
            raise UserError(
                f"Cannot read {image} as an image: {reason}; repair or replace it, then the same command "
                "continues."
                if isinstance(image, str)
                else image.examples.failure(image.index, reason)
            ) from error

    def _decoded(self, row: int, white: int, stream: BinaryIO) -> Any:
        height, width = self.sizes[row]
        with decoding.open_image(stream) as image:
            found = image.size
            if found == (width, height):
                if decoding.orientation(image) != 1:
                    _tell_of_rotation(self.name)
                return decoding.grey_or_rgb(image, white, upright=False)
        raise UserError(
            f"{self.images[row]} has {found[0]} x {found[1]} pixels as stored, but {self.name} says "
            f"{width} x {height}: correct width and height there, and the boxes, if they are of another "
            "size."
        )


class Classes(NamedTuple):
    """The classes of a detector, under the names that `Instances` has for them.

    Attributes:
        name: whose they are, for messages.
        category_ids: int64 [K], ascending.
        class_names: K names.
    """

    name: str
    category_ids: np.ndarray
    class_names: tuple[str, ...]


@functools.cache
def _tell_of_rotation(name: str) -> None:
    """Once a process for each data set."""
    _logger.warning(
        "Some images of %s say that they are to be rotated; they are not, as the boxes are those of the "
        "stored pixels.",
        name,
    )


def in_classes_of(train: Instances | Classes, test: Instances) -> Instances:
    """Returns the test images with their objects labelled by the classes of the training images.

    Objects of categories that training does not have are left out, with a warning: no detector can find
    them. Categories that the test does not have stay, without an object.

    Raises:
        UserError: no category is in both, one has two names, or no object is left to be found.
    """
    names = dict(zip(test.category_ids.tolist(), test.class_names))
    known = dict(zip(train.category_ids.tolist(), train.class_names))
    shared = known.keys() & names.keys()
    if not shared:
        raise UserError(
            f"{train.name} and {test.name} have no category in common: an id must mean the same in both."
        )
    for each in sorted(shared):
        if known[each] != names[each]:
            raise UserError(
                f"Category {each} is {known[each]!r} in {train.name} but {names[each]!r} in {test.name}: "
                "an id must mean the same in both."
            )
    ids = test.category_ids[test.labels]
    kept = np.isin(ids, train.category_ids)
    if unknown := sorted({names[each] for each in ids[~kept].tolist()}):
        _logger.warning(
            "%d objects in %s are left out: %s has no category %s",
            *((~kept).sum(), test.name, train.name, ", ".join(map(repr, unknown[:5]))),
        )
    if not (kept & ~test.crowd).any():
        raise UserError(
            f"{test.name} has no object of the classes in {train.name}: there is nothing to be found."
        )
    objects = ("owners", "boxes", "crowd", "ignore", "areas")
    outlines = zip(test.segmentations, kept)
    return dataclasses.replace(
        test,
        **{each: getattr(test, each)[kept] for each in objects},
        labels=np.searchsorted(train.category_ids, ids[kept]).astype(np.int32),
        segmentations=tuple(outline for outline, keep in outlines if keep),
        category_ids=train.category_ids,
        class_names=train.class_names,
    )


def pixel_statistics(
    instances: Instances, channels: int, num_images: int = 1000, white: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of the pixels of some images, spread evenly over all.

    Args:
        instances: the images.
        channels: 1 for grey, 3 for RGB.
        num_images: the most that are read.
        white: see `Instances.read`.

    Returns:
        Both float32 [channels], in units of [0, 1].

    Raises:
        UserError: an image cannot be read.
    """
    rows = spread(len(instances), num_images)
    return mean_std(instances.read(row, channels, white)[None] for row in rows)


def white_of_some(instances: Instances, num_images: int = 1000) -> int:
    """Returns the value of white in images of 16 bits, judged by some images spread evenly over all.

    Returns:
        See `decoding.white_of`; 0 also for images in memory, which have 8 bits.

    Raises:
        UserError: an image cannot be read.
    """
    if not instances.on_disk:
        return 0
    rows = spread(len(instances), num_images)
    return decoding.white_of(max(instances.stored(row, decoding.brightest) for row in rows))

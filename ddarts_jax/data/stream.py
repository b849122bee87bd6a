"""Streams of images that are too many for the device: read, decoded and cropped in other processes.

Batch k of a stream follows from the images, the seed and k alone. So the number of the next batch,
which is the step that a checkpoint holds, is all that a resumed run needs to know of its stream;
nothing depends on how many processes decode, or on how many hosts share the batch.

Worker processes import this file: it imports JAX only where it puts batches on devices.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import math
import multiprocessing
import os
import random
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grain
import numpy as np
from absl import flags

from ddarts_jax.data import dataset as datasets
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError

if TYPE_CHECKING:
    import jax

_TRIES = 10  # boxes drawn for a random crop until one fits, as in torchvision
_RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height of a random crop
CENTRAL = 224 / 256  # share of the shorter side that the central crop keeps, as for ImageNet
_AHEAD = 2  # batches on the device, and in the queue of the one thread


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """The image files of a split.

    Attributes:
        root: the folder above all of them.
        files: bytes [n], their paths below `root`. An array: a list of a million paths would cost
            every worker a hundred bytes each and seconds to unpickle.
        labels: int32 [n].
    """

    root: str
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[bytes, int]:
        """An encoded image and its label."""
        with open(os.path.join(os.fsencode(self.root), self.files[index]), "rb") as file:
            return file.read(), self.labels[index]

    def failure(self, index: int, reason: str) -> str:
        """What to tell where an image cannot be read or decoded."""
        path = os.path.join(self.root, os.fsdecode(self.files[index]))
        return (
            f"Cannot read {path} as an image: {reason}; repair or replace it, then the same command "
            "continues."
        )

    def identity(self) -> dict[str, Any]:
        """What tells this split from another, as JSON can say it."""
        return {
            "images": len(self),
            "files_crc32": zlib.crc32(self.labels.tobytes(), zlib.crc32(b"\n".join(self.files))),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Tfds:
    """A split of a TFDS set.

    Attributes:
        name: of the split and the set, for messages.
        source: of encoded images and labels, see `data.tfds_splits`.
        repair: what to do where reading fails.
    """

    name: str
    source: Sequence
    repair: str

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[bytes, int]:
        """An encoded image and its label."""
        example = self.source[index]
        return example["image"], example["label"]

    def failure(self, index: int, reason: str) -> str:
        """What to tell where an image cannot be read or decoded."""
        return f"Cannot read image {index} of {self.name} ({reason}): {self.repair}."

    def identity(self) -> dict[str, Any]:
        """What tells this split from another, as JSON can say it."""
        return {"images": len(self), "tfds": self.source.dataset_info.full_name}


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Encoded images with labels.

    Attributes:
        source: where they are read.
        indices: int64 [n], which of the source's images these are, in order.
        class_names: one name a class.
    """

    source: Folder | Tfds
    indices: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [n]; None for TFDS, where only reading every image would tell."""
        return self.source.labels[self.indices] if isinstance(self.source, Folder) else None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these images from others, as JSON can say it, for `Checkpoints`."""
        return self.source.identity() | {"indices_crc32": zlib.crc32(self.indices.tobytes())}

    def select(self, indices: np.ndarray) -> "Records":
        """Some of the images, by their positions."""
        return dataclasses.replace(self, indices=self.indices[indices])


def open_records(data: Any) -> tuple[Records, Records]:
    """Opens the training and the test images that `config.data` names, without decoding any.

    Where there is no test split, `test_fraction` of the images become one: of each class, but for
    TFDS, whose labels are not known in advance, of all.

    Args:
        data: `config.data`, of which it reads name (folder:PATH or of TFDS), data_dir,
            test_fraction and images_per_class.

    Raises:
        UserError: for data that cannot be streamed, are missing or not prepared, for classes that
            are missing, empty or in two spellings.
    """
    kind, _, path = data.name.partition(":")
    if kind == "folder":
        train, test, class_names = datasets.folder_splits(path)
        root = os.path.expanduser(path)
        sources = [_folder(root, split) for split in (train, test) if split]
    elif data.name == "digits" or kind == "npz":
        raise UserError(
            f"{data.name!r} lies in memory and cannot be streamed; only folder:PATH and sets of "
            "TensorFlow Datasets can."
        )
    elif data.images_per_class:
        raise UserError(
            f"The labels of {data.name!r} are not known before it is read, so a stream of it cannot "
            "have data.images_per_class; set it to 0."
        )
    else:
        opened, class_names, repair = datasets.tfds_splits(data.name, data.data_dir)
        sources = [
            Tfds(f"the split {part!r} of {data.name!r}", source, repair)
            for part, source in opened.items()
        ]
    train, *test = [Records(source, np.arange(len(source)), class_names) for source in sources]
    train, test = (train, *test) if test else _hold_out(train, data.test_fraction)
    if data.images_per_class:
        train, test = (
            split.select(datasets.at_most(split.labels, data.images_per_class))
            for split in (train, test)
        )
    return train, test


def _folder(root: str, split: datasets.Files) -> Folder:
    files = np.array([os.fsencode(os.path.relpath(file, root)) for file in split.files])
    return Folder(root, files, split.labels)


def _hold_out(records: Records, test_fraction: float) -> tuple[Records, Records]:
    if records.labels is not None:
        parts = datasets.hold_out(records.labels, records.class_names, test_fraction)
    else:
        datasets.check_test_fraction(test_fraction)
        order = np.random.RandomState(datasets.HOLD_OUT_SEED).permutation(len(records))
        count = round(len(records) * test_fraction)
        parts = np.sort(order[count:]), np.sort(order[:count])
    return records.select(parts[0]), records.select(parts[1])


def halves(records: Records, seed: int) -> tuple[Records, Records]:
    """Splits training images into the halves for the weights and for the alphas.

    By class, as `data.stratified_halves`; for TFDS, whose labels are not known, by chance.
    """
    labels = records.labels
    if labels is None:
        labels = np.zeros(len(records), np.int32)
    first, second = datasets.stratified_halves(labels, seed)
    return records.select(first), records.select(second)


class Batch(NamedTuple):
    """The images of a step, or those of them that this process holds.

    Attributes:
        images: uint8 [B, S, S, 3].
        labels: int32 [B].
        weights: float32 [B]: 1, or 0 for what only fills the last batch of an evaluation.
    """

    images: "np.ndarray | jax.Array"
    labels: "np.ndarray | jax.Array"
    weights: "np.ndarray | jax.Array"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageStream:
    """Batches of decoded images of one size, in RGB.

    Training draws a new order every epoch, without end, and leaves out what fills no batch (others
    in every epoch). Evaluation takes each image once in order and fills the last batch up.

    The random resized crop is made here, not on the device: from the file's own pixels it is
    sharper than from an image that was already made small, it sees the margins that a central crop
    has lost, and a batch of the final size is the least to carry. All else (flip, colours,
    normalisation) is quicker on the device.

    Attributes:
        records: the images.
        batch_size: images in a batch, over all processes.
        image_size: pixels a side, S.
        training: see above.
        seed: of the order and the crops in training.
        crop_scale: in training, smallest and largest share of an image's area that a random resized
            crop takes (Szegedy et al., 2015, as in torchvision); None: the central crop of
            evaluation, of 7/8 of the shorter side.
        num_workers: processes that decode; 0: a thread of this one.
        process_index: which rows of a batch are this host's.
        process_count: number of hosts.

    Raises:
        UserError: images fill no batch, or batches do not divide over the processes.
    """

    records: Records
    batch_size: int
    image_size: int
    training: bool
    seed: int = 0
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        if self.training and self.batch_size > len(self.records):
            raise UserError(
                f"data.batch_size={self.batch_size} is larger than the {len(self.records)} images "
                f"that a step draws from: use at most {len(self.records)}."
            )
        if self.batch_size % self.process_count:
            raise UserError(
                f"data.batch_size={self.batch_size} cannot be split evenly over "
                f"{self.process_count} processes."
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, those of an evaluation with the one that is filled up."""
        if self.training:
            return len(self.records) // self.batch_size
        return -(-len(self.records) // self.batch_size)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Yields this process's part of batch `first` and all after it.

        In training `first` is the number of steps done. The worker processes end when the generator
        is closed or exhausted. They take seconds to start.

        Raises:
            UserError: an image cannot be read, or a worker process died.
        """
        # To grain a stream is one long list of batches: grain divides it over the workers and keeps
        # its order.
        end = np.iinfo(np.int64).max if self.training else self.batches_per_epoch
        if first >= end:
            return
        batches = grain.MapDataset.range(first, end).map(self._batch)
        # A worker runs about three batches ahead by itself; without workers, one thread does.
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        if self.num_workers:
            read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = batches.to_iter_dataset(read)
        if self.num_workers:
            # Grain asks for flags of its own, in programs too that parse no flags with absl.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(self.num_workers, per_worker_buffer_size=1)
            batches = batches.mp_prefetch(workers, worker_init_fn=_start_worker)
        with contextlib.closing(iter(batches)) as iterator:
            try:
                for batch in iterator:
                    # Copies: what comes from a worker lies in shared memory, few ms a batch.
                    yield Batch(*map(np.array, batch))
            except RuntimeError as error:  # grain's, of a worker that was killed
                raise UserError(
                    f"A process that decodes images died ({datasets.reason(error)}): if memory or "
                    "/dev/shm ran short, use fewer data.num_workers; then the same command continues."
                ) from error

    def _batch(self, number: int) -> Batch:
        """Reads and decodes this process's part of a batch."""
        epoch, position = divmod(int(number), self.batches_per_epoch)
        size = self.batch_size // self.process_count
        start = position * self.batch_size + self.process_index * size
        if self.training:
            rows = _order(len(self.records), self.seed, epoch)[start : start + size]
        else:
            rows = range(start, min(start + size, len(self.records)))
        images = np.zeros((size, self.image_size, self.image_size, 3), np.uint8)
        labels, weights = np.zeros(size, np.int32), np.zeros(size, np.float32)
        for place, row in enumerate(rows):
            box = central_box
            if self.training and self.crop_scale:
                generator = random.Random(f"{self.seed} {epoch} {row}")
                box = functools.partial(random_box, generator, scale=self.crop_scale)
            index = int(self.records.indices[row])
            try:
                encoded, labels[place] = self.records.source.read(index)
                images[place] = crop(encoded, box, self.image_size)
            except Exception as error:  # Damaged files make Pillow raise nearly anything.
                reason = datasets.reason(error)
                raise UserError(self.records.source.failure(index, reason)) from error
            weights[place] = 1
        return Batch(images, labels, weights)


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch."""
    # RandomState: the stream of numbers is frozen for all versions of NumPy.
    seeds = [seed % 2**32, seed // 2**32 % 2**32, epoch]  # it takes 32 bits each
    return np.random.RandomState(seeds).permutation(count)


def _start_worker(worker_index: int, num_workers: int) -> None:
    """Makes a worker live as long as the process that trains, which alone answers signals.

    Ctrl-C and a scheduler's SIGTERM reach every process of the group: a worker that died of them
    would keep the run from stopping in order. A worker whose parent was killed would stay for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def crop(encoded: bytes, box: Callable[[int, int], Sequence[float]], size: int) -> np.ndarray:
    """Decodes an image of any mode and resizes a box of it, bilinearly and antialiased.

    Args:
        encoded: content of an image file.
        box: `(width, height) -> (left, top, right, bottom)` of the upright image, in pixels.
        size: pixels a side of the result.

    Returns:
        uint8 [size, size, 3], red, green, blue.
    """
    from PIL import ExifTags, Image

    with Image.open(io.BytesIO(encoded)) as image:
        sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        width, height = image.size[::-1] if sideways else image.size
        left, top, right, bottom = box(width, height)
        # A JPEG can be decoded at 1/2, 1/4, 1/8 of its size, much quicker; the box stays larger
        # than `size`. Other kinds of image ignore this.
        shrink = max(1, min(right - left, bottom - top) / size)
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
        image = datasets.grey_or_rgb(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, right * x, bottom * y)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))


def central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square of 7/8 of the shorter side: as resized to 256 and cropped to 224."""
    side = CENTRAL * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(
    generator: random.Random, width: int, height: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a box of random area, aspect and place, as torchvision's RandomResizedCrop does.

    The share of the area is uniform, the aspect log-uniform, the place uniform. A box that does not
    fit is drawn again; after ten tries it is the largest central one that the aspect allows.

    Returns:
        left, top, right, bottom.
    """
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            # Of Python's generator only `random` gives the same numbers in all versions.
            left, top = (int(generator.random() * (room + 1)) for room in (width - w, height - h))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Streamed:
    """A data set whose images stay on disk; `data.Dataset` has the same parts for those in memory.

    Attributes:
        name: `config.data.name`.
        train: training images.
        test: test images.
        image_size: pixels a side.
        num_workers: processes that decode for each stream.
        mean: float32 [3], of some training pixels in units of [0, 1].
        std: float32 [3], likewise.
    """

    name: str
    train: Records
    test: Records
    image_size: int
    num_workers: int
    mean: np.ndarray
    std: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def channels(self) -> int:
        """All images are made RGB."""
        return 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, 3)."""
        return self.image_size, self.image_size, 3

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test)

    def halves(self, seed: int) -> tuple[Records, Records]:
        """The halves for the weights and for the alphas."""
        return halves(self.train, seed)

    def training(self, splits: Sequence[Records], config, settings) -> list[ImageStream]:
        """Streams of `data.batch_size`, each in an order of its own.

        Args:
            splits: of the training images.
            config: the whole config.
            settings: `augment` section of the phase; `resized_crop` happens here.
        """
        crop_scale = (settings.resized_crop, 1.0) if settings.resized_crop else None
        return [
            ImageStream(
                records=records,
                batch_size=config.data.batch_size,
                image_size=self.image_size,
                training=True,
                seed=config.seed + 2**32 * number,
                crop_scale=crop_scale,
                num_workers=self.num_workers,
                process_index=processes.index(),
                process_count=processes.count(),
            )
            for number, records in enumerate(splits)
        ]

    def testing(self, batch_size: int) -> ImageStream:
        """The stream of the test images."""
        return ImageStream(
            records=self.test,
            batch_size=batch_size,
            image_size=self.image_size,
            training=False,
            num_workers=self.num_workers,
            process_index=processes.index(),
            process_count=processes.count(),
        )


def load(data: Any) -> Streamed:
    """Opens the data set that `config.data` names, see `open_records`.

    Raises:
        UserError: as `open_records`; `data.image_size` is not given; an image cannot be read.
    """
    if not data.image_size:
        raise UserError(
            "A streamed data set needs data.image_size, the pixels a side that its images are "
            "cropped and resized to (224 for ImageNet)."
        )
    train, test = open_records(data)
    mean, std = pixel_statistics(train, data.image_size)
    return Streamed(
        name=data.name,
        train=train,
        test=test,
        image_size=data.image_size,
        num_workers=data.num_workers,
        mean=mean,
        std=std,
    )


def pixel_statistics(
    records: Records, image_size: int, num_images: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the pixels of some images, spread evenly over all.

    Args:
        records: training images.
        image_size: pixels a side; the images are cropped as in evaluation.
        num_images: most images to read.

    Returns:
        Both float32 [3], in units of [0, 1].

    Raises:
        UserError: an image cannot be read.
    """
    some = np.unique(np.linspace(0, len(records) - 1, num_images).astype(int))
    stream = ImageStream(
        records=records.select(some), batch_size=100, image_size=image_size, training=False
    )
    return datasets.mean_std(batch.images[batch.weights > 0] for batch in stream.batches())


def prefetch(batches: Iterator[Batch], sharding: "jax.sharding.Sharding") -> Iterator["Batch"]:
    """Puts batches on the devices ahead of their use: one is on its way while another is used.

    Args:
        batches: this process's parts of the batches; closed at the end.
        sharding: of the leading axis over the devices of all processes.

    Yields:
        Batches of global `jax.Array`s.
    """
    import jax

    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    waiting = collections.deque()
    with contextlib.closing(batches):
        for batch in batches:
            waiting.append(jax.tree.map(put, batch))
            if len(waiting) == _AHEAD:
                yield waiting.popleft()
        yield from waiting

"""Streams of images too many for the device: read, decoded and cropped in other processes.

Batch k of a stream depends only on the images, the seed and k. So a resumed run needs only the number
of the next batch, which is the step that a checkpoint holds; nothing depends on how many processes
decode, or on how many hosts share the batch. Grain runs the workers; the order and the crops are drawn
here, by generators whose numbers no version of NumPy or Python may change, so that a run also continues
after an update of grain, which promises nothing of its shuffle.

Worker processes import this file: it imports JAX only where it puts batches on devices.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grain
import numpy as np
from absl import flags

from ddarts_jax.data import crops, decoding
from ddarts_jax.data.dataset import mean_std
from ddarts_jax.data.records import Records, halves, open_records
from ddarts_jax.data.splits import spread
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError

if TYPE_CHECKING:
    import jax

_T = TypeVar("_T", bound=tuple)

_AHEAD = 2  # batches on the device, and in the queue of the one thread


class Batch(NamedTuple):
    """The images of a step, or the part of them that this process holds.

    Attributes:
        images: uint8 [B, S, S, 3].
        labels: int32 [B].
        weights: float32 [B]: 1, or 0 for the padding of the last batch of an evaluation.
    """

    images: "np.ndarray | jax.Array"
    labels: "np.ndarray | jax.Array"
    weights: "np.ndarray | jax.Array"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageStream:
    """Batches of decoded images of one size, in RGB.

    Training draws a new order every epoch, without end, and leaves out the images that fill no batch
    (different ones in every epoch). Evaluation takes each image once in order and pads the last
    batch.

    The random resized crop is made here, not on the device: from the file's own pixels it is
    sharper than from an image that was already made small, it sees the margins that a central crop
    has lost, and a batch of the final size is the least to transfer. Everything else (flip,
    colours, normalisation) is quicker on the device.

    Attributes:
        records: the images.
        batch_size: images in a batch, over all processes.
        image_size: pixels per side, S.
        training: see above.
        seed: of the order and the crops in training.
        crop_scale: in training, smallest and largest share of an image's area that a random resized
            crop takes (Szegedy et al., 2015, as in torchvision); None: the central crop of
            evaluation, of 7/8 of the shorter side.
        num_workers: processes that decode; 0: a thread of this one.
        white: value of white in images of 16 bits, see `decoding.white_of`.
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
    white: int = 0
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
        """Batches in an epoch; in an evaluation including the padded one."""
        if self.training:
            return len(self.records) // self.batch_size
        return -(-len(self.records) // self.batch_size)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Yields this process's part of batch `first` and all after it; see `read_ahead`.

        In training `first` is the number of steps done.

        Raises:
            UserError: an image cannot be read, or a worker process died.
        """
        end = np.iinfo(np.int64).max if self.training else self.batches_per_epoch
        return read_ahead(self._batch, first, end, self.num_workers)

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
            box = crops.central_box
            if self.training and self.crop_scale:
                generator = random.Random(f"{self.seed} {epoch} {row}")
                box = functools.partial(crops.random_box, generator, scale=self.crop_scale)
            index = int(self.records.indices[row])
            try:
                encoded, labels[place] = self.records.source.read(index)
                images[place] = crops.crop(encoded, box, self.image_size, self.white)
            except Exception as error:  # Corrupt files make Pillow raise nearly anything.
                reason = decoding.reason(error)
                raise UserError(self.records.source.failure(index, reason)) from error
            weights[place] = 1
        return Batch(images, labels, weights)


def read_ahead(batch: Callable[[int], _T], first: int, end: int, num_workers: int) -> Iterator[_T]:
    """Yields the batches of the numbers from `first` to `end - 1`, which are made before they are needed.

    Worker processes take seconds to start; they end when the generator is closed or exhausted.

    Args:
        batch: makes the batch of a number, a named tuple of arrays or None, from nothing but the number;
            pickled for the workers.
        first: number of the first batch.
        end: number of the batch behind the last one.
        num_workers: processes that make batches; 0: a thread of this one.

    Raises:
        UserError: `batch` raised it, or a worker process died.
    """
    if first >= end:
        return
    # For grain, this is one long list of batches: it divides the list among the workers and keeps its
    # order.
    batches = grain.MapDataset.range(first, end).map(batch)
    # A worker runs about three batches ahead by itself; without workers, one thread does.
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    if num_workers:
        read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    batches = batches.to_iter_dataset(read)
    if num_workers:
        # Grain reads its own flags, also in programs that do not parse flags with absl.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=1)
        batches = batches.mp_prefetch(workers, worker_init_fn=_start_worker)
    with contextlib.closing(iter(batches)) as iterator:
        try:
            for made in iterator:
                # Copies: what comes from a worker is in shared memory, a few ms per batch.
                yield type(made)(*(each if each is None else np.array(each) for each in made))
        except RuntimeError as error:  # from grain, when a worker was killed
            raise UserError(
                f"A process that decodes images died ({decoding.reason(error)}): if memory or "
                "/dev/shm ran short, use fewer data.num_workers; then the same command continues."
            ) from error


def generator(seed: int, *numbers: int) -> np.random.RandomState:
    """Returns the source of random numbers of a seed (any integer) and further numbers below 2^32."""
    # RandomState: the stream of numbers is frozen for all versions of NumPy. It takes 32 bits each.
    return np.random.RandomState([seed % 2**32, seed // 2**32 % 2**32, *numbers])


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch."""
    return generator(seed, epoch).permutation(count)


def _start_worker(worker_index: int, num_workers: int) -> None:
    """Ties a worker's life to the process that trains, which alone responds to signals.

    Ctrl-C and a scheduler's SIGTERM reach every process of the group: a worker that died of them
    would keep the run from stopping in order. A worker whose parent was killed would never end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Streamed:
    """A data set whose images stay on disk, with the same interface as `dataset.Dataset`.

    Attributes:
        name: `config.data.name`.
        train: training images.
        test: test images.
        image_size: pixels per side.
        num_workers: processes that decode for each stream.
        mean: float32 [3], of some training pixels in units of [0, 1].
        std: float32 [3], likewise.
        white: value of white in images of 16 bits, see `decoding.white_of`; 0: there are none.
    """

    name: str
    train: Records
    test: Records
    image_size: int
    num_workers: int
    mean: np.ndarray
    std: np.ndarray
    white: int = 0

    @property
    def crop(self) -> float:
        """Share of the shorter side that an evaluation sees."""
        return crops.CENTRAL

    def hashes(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns hashes of the images of part "train" or "test" by name and size, and the labels."""
        return self._hashes[part]

    @functools.cached_property
    def _hashes(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {"train": self.train.hashes(), "test": self.test.hashes()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def channels(self) -> int:
        """3: all images are made RGB."""
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
        """Splits the training images into halves for the weights and for the alphas."""
        return halves(self.train, seed)

    def training(self, splits: Sequence[Records], config, settings) -> list[ImageStream]:
        """Makes a stream per split, each of `data.batch_size` and in an order of its own.

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
                white=self.white,
                process_index=processes.index(),
                process_count=processes.count(),
            )
            for number, records in enumerate(splits)
        ]

    def testing(self, batch_size: int) -> ImageStream:
        """Makes the stream of the test images."""
        return ImageStream(
            records=self.test,
            batch_size=batch_size,
            image_size=self.image_size,
            training=False,
            num_workers=self.num_workers,
            white=self.white,
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
            "A streamed data set needs data.image_size, the pixels per side that its images are "
            "cropped and resized to (224 for ImageNet)."
        )
    train, test = open_records(data)
    white = data.white or white_of_some(train)
    mean, std = pixel_statistics(train, data.image_size, white=white)
    return Streamed(
        name=data.name,
        train=train,
        test=test,
        image_size=data.image_size,
        num_workers=data.num_workers,
        mean=mean,
        std=std,
        white=white,
    )


def white_of_some(records: Records, num_images: int = 1000) -> int:
    """Returns the value of white in images of 16 bits, judged by some images spread evenly over all.

    Raises:
        UserError: an image cannot be read.
    """
    largest = 0
    for index in map(int, _some(records, num_images).indices):
        try:
            encoded, _ = records.source.read(index)
            largest = max(largest, decoding.brightest(io.BytesIO(encoded)))
        except Exception as error:  # Corrupt files make Pillow raise nearly anything.
            reason = decoding.reason(error)
            raise UserError(records.source.failure(index, reason)) from error
    return decoding.white_of(largest)


def _some(records: Records, count: int) -> Records:
    """Selects at most `count` images, spread evenly over all."""
    return records.select(spread(len(records), count))


def pixel_statistics(
    records: Records, image_size: int, num_images: int = 1000, white: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of the pixels of some images, spread evenly over all.

    Args:
        records: training images.
        image_size: pixels per side; the images are cropped as in evaluation.
        num_images: maximum number of images to read.
        white: see `ImageStream`.

    Returns:
        Both float32 [3], in units of [0, 1].

    Raises:
        UserError: an image cannot be read.
    """
    stream = ImageStream(
        records=_some(records, num_images),
        batch_size=100,
        image_size=image_size,
        training=False,
        white=white,
    )
    return mean_std(batch.images[batch.weights > 0] for batch in stream.batches())


def prefetch(batches: Iterator[_T], sharding: "jax.sharding.Sharding") -> Iterator[_T]:
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

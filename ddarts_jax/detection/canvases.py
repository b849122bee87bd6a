"""Canvases: the few sizes that images are padded to, so that each is one compiled program.

An image is resized, its sides in proportion, and put into the top left corner of the smallest canvas
that holds it. The images of a batch share a canvas. Which images are in batch k of an epoch follows
from the images' sizes, the seed and the epoch alone.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence

import numpy as np

from ddarts_jax.data.stream import generator
from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

_MULTIPLE = 32  # sides of a canvas are multiples of it
_SMALL = 512  # up to this side one canvas costs less than the compiling of several


def resized(sizes: np.ndarray, short_side: int, long_side: int) -> np.ndarray:
    """Computes the sizes of images that are resized, as MMDetection does.

    The shorter side becomes `short_side`, unless the longer one would exceed `long_side`.

    Args:
        sizes: integers [..., 2], height and width in pixels.
        short_side: pixels; 0: images keep their size.
        long_side: pixels.

    Returns:
        int32 [..., 2].
    """
    sizes = np.asarray(sizes, np.int32)
    if not short_side:
        return sizes
    shortest, longest = sizes.min(-1, keepdims=True), sizes.max(-1, keepdims=True)
    return _scaled(sizes, np.minimum(short_side / shortest, long_side / longest))


def fitted(size: np.ndarray, canvas: Sequence[int]) -> np.ndarray:
    """Makes an image smaller, its sides in proportion, if a canvas does not hold it.

    Args:
        size: integers [2], height and width in pixels.
        canvas: height and width.

    Returns:
        int32 [2].
    """
    size = np.asarray(size)
    return _scaled(size, min(1.0, *(np.asarray(canvas) / size)))


def _scaled(sizes, scale) -> np.ndarray:
    return np.maximum(1, np.floor(sizes * scale + 0.5)).astype(np.int32)


def default_canvases(
    sizes: np.ndarray, short_side: int, long_side: int
) -> tuple[tuple[int, int], ...]:
    """Chooses canvases for images.

    Those of 4:3 and of the longest images, upright and lying, as far as there are images for them: for
    800 and 1333 pixels these are 800x1088, 800x1344 and their transposes. On a single canvas of 800x1344
    photographs of 4:3 would be one fifth padding. For images that are small when resized, or keep their
    size: one canvas that holds all.

    Args:
        sizes: integers [n, 2], height and width of the images before resizing.
        short_side: see `resized`; the largest that is drawn.
        long_side: see `resized`.

    Returns:
        Heights and widths.
    """
    within = resized(sizes, short_side, long_side)
    largest = _rounded_up(within.max(0))
    if not short_side or largest.max() <= _SMALL:
        return (tuple(largest.tolist()),)
    short, middle, long = _rounded_up(
        np.array([short_side, min(4 / 3 * short_side, long_side), long_side])
    ).tolist()
    choice = _by_area([(short, middle), (short, long), (middle, short), (long, short)])
    return tuple(choice[index] for index in np.unique(_smallest(within, choice)))


def _rounded_up(sides: np.ndarray) -> np.ndarray:
    return np.ceil(sides / _MULTIPLE).astype(int) * _MULTIPLE


def _by_area(canvases: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({*canvases}, key=lambda canvas: (canvas[0] * canvas[1], canvas)))


@dataclasses.dataclass(frozen=True, eq=False)
class Deal:
    """Images dealt to canvases.

    Attributes:
        canvases: heights and widths, smallest area first.
        groups: for each canvas int64 [...], its images in ascending order.
    """

    canvases: tuple[tuple[int, int], ...]
    groups: tuple[np.ndarray, ...]


def deal(
    images: np.ndarray, within: np.ndarray, canvases: Sequence[tuple[int, int]], least: int = 1
) -> Deal:
    """Gives each image the smallest canvas that holds it.

    The images of a canvas with fewer than `least` go to the next larger one that holds them. Where there
    is none they are left out, with a warning.

    Args:
        images: int64 [n], numbers of the images.
        within: int32 [n, 2], their heights and widths when resized; the largest that are drawn.
        canvases: heights and widths.
        least: images that a canvas needs: the size of a batch in training.

    Raises:
        UserError: a canvas whose sides are not multiples of 32; an image that no canvas holds; no canvas
            with enough images.
    """
    canvases = _by_area(map(tuple, canvases))
    for canvas in canvases:
        if min(canvas) <= 0 or any(side % _MULTIPLE for side in canvas):
            raise UserError(
                f"data.canvases has {canvas[0]} x {canvas[1]}: sides must be multiples of {_MULTIPLE}."
            )
    choice = _smallest(within, canvases)
    if (choice == len(canvases)).any():
        height, width = within[choice == len(canvases)].max(0)
        raise UserError(
            f"No canvas of {', '.join(f'{h} x {w}' for h, w in canvases)} holds every image (height x "
            f"width up to {height} x {width}): add to data.canvases or make data.short_side smaller."
        )
    most = np.bincount(choice).max()
    for number in range(len(canvases)):
        few = np.flatnonzero(choice == number)
        if len(few) < least:
            choice[few] = _smallest(within[few], canvases, number + 1)
    left_out = (choice == len(canvases)).sum()
    if left_out == len(images):
        raise UserError(
            f"train.batch_images={least} is larger than the images of every canvas: use at most {most}, "
            "or fewer data.canvases."
        )
    if left_out:
        _logger.warning(
            "%d images are left out of training: no canvas that holds them has the %d of a batch",
            *(left_out, least),
        )
    groups = tuple(np.sort(images[choice == number]) for number in range(len(canvases)))
    return Deal(canvases, groups)


def _smallest(
    within: np.ndarray, canvases: Sequence[tuple[int, int]], first: int = 0
) -> np.ndarray:
    """Returns for each image the first canvas from `first` on that holds it, or else their number.

    Args:
        within: int32 [n, 2].
        canvases: smallest first.
        first: number of the first one to try.

    Returns:
        int [n].
    """
    holds = (within[:, None] <= np.array(canvases)).all(-1)
    holds[:, :first] = False
    return np.where(holds.any(1), holds.argmax(1), len(canvases))


def batches_per_epoch(dealt: Deal, batch_size: int) -> int:
    """Returns the number of batches in an epoch of training."""
    return sum(len(group) // batch_size for group in dealt.groups)


@functools.lru_cache(maxsize=2)
def epoch(dealt: Deal, batch_size: int, seed: int, number: int) -> list[tuple[int, np.ndarray]]:
    """Draws the batches of an epoch of training.

    The images of each canvas are permuted and cut into batches; the rest, others in every epoch, is left
    out. Then the batches of all canvases are permuted.

    Args:
        dealt: images and canvases.
        batch_size: images in a batch.
        seed: any integer.
        number: of the epoch, from 0.

    Returns:
        For each batch the number of its canvas, and its images, int64 [batch_size].
    """
    draws = generator(seed, number)
    batches = []
    for canvas, group in enumerate(dealt.groups):
        order = draws.permutation(group)
        last = len(group) - batch_size + 1
        batches += [(canvas, order[i : i + batch_size]) for i in range(0, last, batch_size)]
    return [batches[i] for i in draws.permutation(len(batches))]


@functools.lru_cache(maxsize=2)
def one_pass(dealt: Deal, batch_size: int) -> list[tuple[int, np.ndarray]]:
    """Lists batches with every image once, canvas by canvas; -1 fills the last batch of a canvas."""
    batches = []
    for canvas, group in enumerate(dealt.groups):
        filled = np.full(-(-len(group) // batch_size) * batch_size, -1, np.int64)
        filled[: len(group)] = group
        batches += [(canvas, rows) for rows in filled.reshape(-1, batch_size)]
    return batches

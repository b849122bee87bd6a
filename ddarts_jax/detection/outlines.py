"""Outlines of objects as COCO writes them, and the masks that they mean.

An outline is a list of polygons (the parts of the object, each x, y, x, y, ... in pixels), or an RLE:
`size` (height, width) and `counts`, the lengths of the runs of other and own pixels in turn, column by
column: a list of integers, or these compressed to a string.

Worker processes import this file: it imports no JAX.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

CROP = 112  # pixels a side of the mask of an object within its box
_FARTHEST = 1e5  # pixels; pycocotools walks along the edges of a polygon, whatever their length


def problem(outline: Any, height: int, width: int) -> str:
    """Tells what makes an outline useless, which pycocotools does not notice.

    It would read memory that is not the mask's, or never end.

    Args:
        outline: polygons of at least 3 points, or an RLE whose size is that of the image.
        height: of the image.
        width: likewise.

    Returns:
        How the sentence "The segmentation ..." goes on; empty: nothing is wrong.
    """
    if isinstance(outline, list):
        try:
            points = np.concatenate([np.asarray(part, np.float64) for part in outline])
        except (TypeError, ValueError, OverflowError):
            points = np.array(np.nan)
        fine = (np.abs(points) <= _FARTHEST).all()  # NaN is not
        return "" if fine else f"has points that are not finite numbers up to {_FARTHEST:.0f}"
    counts = outline["counts"]
    try:
        runs = _uncompressed(counts) if isinstance(counts, str) else np.array(counts, np.uint32)
    except (TypeError, ValueError, OverflowError):
        return "is an RLE whose counts cannot be read"
    if runs.ndim != 1 or runs.min(initial=0) < 0 or runs.sum() != height * width:
        return f"is an RLE whose counts do not add up to the {height} x {width} pixels of its image"
    return ""


def _uncompressed(counts: str) -> np.ndarray:
    """Returns the lengths of the runs of a compressed RLE, int64 [n].

    A character has 5 bits of a number, the lowest first, and whether more follow; the highest bit of a
    number is its sign. From the fourth on, numbers are differences to the last but one.
    """
    found = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(found & 32 == 0)
    if not len(found) or not 0 <= found.min() <= found.max() < 64 or last[-1:] != len(found) - 1:
        raise ValueError("not the characters of an RLE")
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(len(found)) - np.repeat(first, last + 1 - first)
    if places.max() > 6:  # 32 bits
        raise ValueError("a run that is longer than any image")
    numbers = np.add.reduceat((found & 31) << 5 * places, first)
    numbers -= np.where(found[last] & 16, 1 << 5 * (places[last] + 1), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def to_rle(outline: Any, height: int, width: int) -> dict[str, Any]:
    """Returns an outline without a `problem` as a compressed RLE, for pycocotools."""
    from pycocotools import mask as pycocotools

    if isinstance(outline, list):
        return pycocotools.merge(pycocotools.frPyObjects(outline, height, width))
    if isinstance(outline["counts"], list):
        return pycocotools.frPyObjects(outline, height, width)
    return outline


def mask_of(outline: Any, height: int, width: int) -> np.ndarray:
    """Returns the pixels of an outline without a `problem`, bool [height, width]."""
    from pycocotools import mask as pycocotools

    return pycocotools.decode(to_rle(outline, height, width)).view(bool)


def rle_of(part: np.ndarray, corner: Sequence[int] = (0, 0), size: Sequence[int] = ()) -> dict:
    """Returns a mask as a compressed RLE that JSON can hold.

    Args:
        part: bool [h, w], the part of the image that has pixels of the object.
        corner: y and x of the part's first pixel.
        size: height and width of the image; empty: those of `part`.

    Returns:
        `size` (height, width) and `counts`, a string.
    """
    from pycocotools import mask as pycocotools

    (y, x), (height, width) = corner, size or part.shape
    # Only the columns of the part are gone through, not the whole image.
    columns = np.zeros((part.shape[1], height), bool)
    columns[:, y : y + part.shape[0]] = part.T
    flat = columns.reshape(-1)
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + x * height
    runs = np.diff(edges[edges < height * width], prepend=0, append=height * width).tolist()
    found = pycocotools.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {"size": [height, width], "counts": found["counts"].decode()}


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns x, y, width and height of the smallest box around the pixels of a mask, bool [H, W]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]


def crop_of(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Reads a mask within its box: RoIAlign (He et al. 2017) of the mask.

    Args:
        mask: bool [H, W], of the image.
        box: float [4], x1, y1, x2, y2 in pixels, inside of the image.

    Returns:
        uint8 [CROP, CROP], 255 where all of a bin is the object's.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
    rows, vertical = _points(y1, y2, mask.shape[0])
    columns, horizontal = _points(x1, x2, mask.shape[1])
    found = interpolated(interpolated(mask[rows, columns], vertical).T, horizontal).T
    bins = found.reshape(CROP, len(vertical) // CROP, CROP, len(horizontal) // CROP)
    return np.round(255 * bins.mean((1, 3))).astype(np.uint8)


def _points(start: float, stop: float, size: int) -> tuple[slice, np.ndarray]:
    """Returns the pixels of a column (or row) that bins read, and where their points lie among these.

    A bin is the mean of as many points as it has pixels, rounded up; a point between the outermost
    pixels' centres and the border reads the outermost pixel.
    """
    points = CROP * max(1, int(np.ceil((stop - start) / CROP)))
    positions = start + (np.arange(points) + 0.5) / points * (stop - start) - 0.5
    positions = positions.clip(0, size - 1)
    first = int(positions[0])
    return slice(first, int(positions[-1]) + 2), positions - first


def interpolated(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Reads rows between rows, linearly.

    Without a matrix product, whose threads wait for those of other processes that decode images.

    Args:
        values: [n, m], the rows at 0, 1, ..., n - 1; beyond them all is 0.
        positions: float [k].

    Returns:
        float32 [k, m].
    """
    padded = np.pad(np.asarray(values, np.float32), ((1, 2), (0, 0)))
    positions = positions.clip(-1, len(values)) + 1
    before = positions.astype(int)
    share = (positions - before).astype(np.float32)[:, None]
    return (1 - share) * padded[before] + share * padded[before + 1]

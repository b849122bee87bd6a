"""Pictures of images with boxes and masks: the ground truth left, what was detected right."""

import colorsys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax import files

_SMALL = 300  # pixels; images with a shorter side are drawn twice as large
_FONT = 12  # pixels
_GAP = 8  # pixels between the two halves
_NUM_COLOURS = 24
_OPACITY = 0.45  # of a mask


class Boxes(NamedTuple):
    """What is drawn on an image.

    Attributes:
        boxes: float [k, 4], x1, y1, x2, y2 in pixels of the image.
        labels: integers [k].
        scores: float [k], written behind the class; None: there are none.
        masks: bool [k, H, W], of the image; None: there are none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


def class_colours(names: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Returns a colour (red, green, blue) for each class.

    It follows from the name, so that it is the same in pictures of other data; only where two names would
    share one, the later name takes the next that is free.
    """
    taken, found = set(), {}
    for name in sorted({*names}):
        first = zlib.crc32(name.encode("utf-8", errors="replace"))
        wanted = [(first + step) % _NUM_COLOURS for step in range(_NUM_COLOURS)]
        index = next((each for each in wanted if each not in taken), wanted[0])
        taken.add(index)
        # Neighbours differ in brightness, so that the next colour is not mistaken for the first.
        value, saturation = ((1.0, 0.75), (0.8, 0.75), (1.0, 0.4))[index % 3]
        red_green_blue = colorsys.hsv_to_rgb(index / _NUM_COLOURS, saturation, value)
        found[name] = tuple(round(255 * each) for each in red_green_blue)
    return found


def draw_pair(
    image: np.ndarray,
    truth: Boxes,
    detected: Boxes,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draws an image twice side by side: with the ground truth, and with what was detected.

    Args:
        image: uint8 [H, W, C], C 1 or 3.
        truth: the objects.
        detected: the detections, already chosen by their scores.
        class_names: of all classes.
        path: of the PNG file.
    """
    from PIL import Image

    colours = class_colours(class_names)
    halves = [draw(image, each, class_names, colours) for each in (truth, detected)]
    width, height = halves[0].size
    pair = Image.new("RGB", (2 * width + _GAP, height), "white")
    pair.paste(halves[0], (0, 0))
    pair.paste(halves[1], (width + _GAP, 0))
    with files.writing(path) as temporary:
        pair.save(temporary, "png")


def draw(
    image: np.ndarray,
    objects: Boxes,
    class_names: Sequence[str],
    colours: dict[str, tuple[int, int, int]],
) -> Any:
    """Draws objects on an image, twice as large where it is small, the highest score on top.

    Args:
        image: uint8 [H, W, C], C 1 or 3.
        objects: what is drawn.
        class_names: of all classes.
        colours: see `class_colours`.

    Returns:
        A Pillow image in RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    scale = 2 if min(picture.size) < _SMALL else 1
    if scale > 1:
        picture = picture.resize((scale * picture.width, scale * picture.height))
    scores = objects.scores
    order = range(len(objects.labels)) if scores is None else np.argsort(scores, kind="stable")
    if objects.masks is not None:
        pixels = np.array(picture)
        for index in order:
            mask = objects.masks[index].repeat(scale, 0).repeat(scale, 1)
            _cover(pixels, mask, colours[class_names[objects.labels[index]]])
        picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    corners = scale * np.asarray(objects.boxes, np.float64).reshape(-1, 4)
    for x1, y1, x2, y2, label in [(*corners[i].tolist(), objects.labels[i]) for i in order]:
        # The outline lies inside of the box; one of less than a pixel is still a point.
        inner = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(inner, outline=colours[class_names[label]], width=2)
    for index in order:  # above all boxes, so that none is struck through
        name = class_names[objects.labels[index]]
        text = name if scores is None else f"{name} {scores[index]:.2f}"
        _write(pen, font, text, colours[name], corners[index], picture.size)
    return picture


def _cover(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Lays a mask, bool [H, W], with its outline over pixels, uint8 [H, W, 3]."""
    around = np.pad(mask, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    covered = (1 - _OPACITY) * pixels[mask] + _OPACITY * np.array(colour)
    pixels[mask] = np.round(covered).astype(np.uint8)
    pixels[mask & ~inner] = colour


def _write(pen, font, text: str, colour, box: np.ndarray, size: tuple[int, int]) -> None:
    """Writes a label above a box; where there is no room, inside of it, or below if it is small."""
    x1, y1, _, y2 = box.tolist()
    width, height = round(font.getlength(text)) + 2, sum(font.getmetrics()) + 1
    x, y = min(max(0, x1), max(0, size[0] - width)), y1 - height
    if y < 0:
        y = y1 if y2 - y1 > 2 * height else min(y2, size[1] - height)
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    red, green, blue = colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luminance of ITU-R BT.601
    pen.text((x + 1, y), text, fill="black" if bright else "white", font=font)

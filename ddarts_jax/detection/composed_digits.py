"""The embedded detection data: real digits pasted on real photographs, composed here.

scikit-learn's 1,797 handwritten digits (8x8) and its two sample photographs come with the package. Each
canvas is a crop of a photograph, made grey and half as bright, with 1 to 5 digits in white that do not
overlap. Everything follows from fixed seeds; no digit of a test canvas is in a training canvas. It is
made for trying things out, and is no benchmark.
"""

from typing import NamedTuple

import numpy as np

from ddarts_jax.data import decoding
from ddarts_jax.data.splits import HOLD_OUT_SEED
from ddarts_jax.detection.instances import Instances
from ddarts_jax.detection.outlines import rle_of, tight_box

SIDE = 96  # pixels of a canvas
NUM_TRAIN, NUM_TEST = 2048, 200
_MOST_DIGITS = 5
_DIGIT_SIDES = (12, 36)  # least and most pixels of the square that a digit is enlarged to
_CROP_SIDES = (96, 288)  # least and most pixels of the square that is cut out of a photograph
_TEST_SHARE = 0.2  # of the digits
_INK = 64  # of 255; a pixel with more belongs to the digit
_TRIES = 30  # places drawn for a digit until one is free


class Canvas(NamedTuple):
    """A composed image.

    Attributes:
        image: uint8 [SIDE, SIDE].
        masks: bool [k, SIDE, SIDE], where each digit has ink.
        labels: int32 [k].
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def load() -> tuple[Instances, Instances]:
    """Composes the training and the test canvases, which takes seconds."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    images = decoding.to_uint8(digits.images, 16)
    photographs = [_grey(photograph) for photograph in load_sample_images().images]
    order = np.random.RandomState(HOLD_OUT_SEED).permutation(len(images))
    held_out = round(_TEST_SHARE * len(images))
    splits = (("train", NUM_TRAIN, order[held_out:]), ("test", NUM_TEST, order[:held_out]))
    return tuple(
        instances_of(
            [
                compose((number, part), images[own], digits.target[own], photographs)
                for part in range(count)
            ],
            name=f"digits ({split})",
            class_names=tuple(str(name) for name in digits.target_names),
        )
        for number, (split, count, own) in enumerate(splits)
    )


def compose(
    seeds: tuple[int, ...],
    digits: np.ndarray,
    labels: np.ndarray,
    photographs: list[np.ndarray],
) -> Canvas:
    """Composes a canvas.

    A digit for which no free place is found is left out, but for the first one, so that there is at least
    one.

    Args:
        seeds: of all that is drawn.
        digits: uint8 [n, 8, 8], of which some are drawn.
        labels: integers [n].
        photographs: uint8 [H, W] each.
    """
    draws = np.random.RandomState(seeds)
    image = _crop(draws, photographs[draws.randint(len(photographs))])
    count = draws.randint(1, _MOST_DIGITS + 1)
    taken = np.zeros((SIDE, SIDE), bool)
    masks, found = [], []
    for digit in draws.randint(len(digits), size=count):
        side = draws.randint(_DIGIT_SIDES[0], _DIGIT_SIDES[1] + 1)
        for y, x in draws.randint(SIDE - side + 1, size=(_TRIES, 2)):
            place = np.s_[y : y + side, x : x + side]
            if not taken[place].any():
                break
        else:
            continue
        taken[place] = True
        ink = _resized(digits[digit], side)
        image[place] = (1 - ink / 255) * image[place] + ink
        mask = np.zeros((SIDE, SIDE), bool)
        mask[place] = ink > _INK
        masks.append(mask)
        found.append(labels[digit])
    return Canvas(np.round(image).astype(np.uint8), np.array(masks), np.array(found, np.int32))


def instances_of(canvases: list[Canvas], name: str, class_names: tuple[str, ...]) -> Instances:
    """Describes composed canvases: each mask is an object, in its tight box."""
    masks = np.concatenate([canvas.masks for canvas in canvases])
    return Instances(
        name=name,
        images=tuple(canvas.image[..., None] for canvas in canvases),
        image_ids=np.arange(1, len(canvases) + 1),
        sizes=np.full((len(canvases), 2), SIDE, np.int32),
        category_ids=np.arange(len(class_names)),
        class_names=class_names,
        owners=np.repeat(np.arange(len(canvases)), [len(canvas.masks) for canvas in canvases]),
        boxes=np.array([tight_box(mask) for mask in masks], np.float64),
        labels=np.concatenate([canvas.labels for canvas in canvases]),
        crowd=np.zeros(len(masks), bool),
        ignore=np.zeros(len(masks), bool),
        areas=masks.sum((1, 2)).astype(np.float64),
        segmentations=tuple(map(rle_of, masks)),
    )


def _grey(photograph: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(photograph).convert("L"))


def _crop(draws: np.random.RandomState, photograph: np.ndarray) -> np.ndarray:
    """Cuts a square out of a photograph and makes it a canvas, float64 [SIDE, SIDE].

    Half as bright, so that white ink can be read everywhere.
    """
    side = draws.randint(_CROP_SIDES[0], _CROP_SIDES[1] + 1)
    y, x = (draws.randint(room - side + 1) for room in photograph.shape)
    return _resized(photograph[y : y + side, x : x + side], SIDE) / 2


def _resized(square: np.ndarray, side: int) -> np.ndarray:
    return decoding.resize(square[None, ..., None], side)[0, ..., 0]

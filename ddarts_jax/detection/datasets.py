"""The images and objects that a config's section `data` names, and how they reach a detector."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax.detection import canvases, coco_json, composed_digits
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.instances import (
    Classes,
    Instances,
    in_classes_of,
    pixel_statistics,
    white_of_some,
)
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

_DIGITS, _COCO = "digits", "coco"
_TRAIN, _TEST = ("train_annotations", "train_images"), ("test_annotations", "test_images")
PATHS = _TRAIN + _TEST  # keys of the section that say where files are


class Pixels(NamedTuple):
    """How pixels reach a detector: the same in its training, its evaluation and its use.

    Attributes:
        channels: 1 for grey, 3 for RGB.
        mean: float32 [C], in units of [0, 1].
        std: float32 [C], likewise.
        white: value of white in images of 16 bits, see `decoding.white_of`; 0: there are none.
    """

    channels: int
    mean: np.ndarray
    std: np.ndarray
    white: int


def load(settings) -> tuple[Instances, Instances]:
    """Returns the training and the test images, both with the classes of the training.

    Args:
        settings: section `data` of a config.

    Raises:
        UserError: it names no data, or they cannot be used, see `coco_json.read` and `in_classes_of`.
    """
    if _is_digits(settings):
        return composed_digits.load()
    return coco_json.read_pair(*_paths(settings, PATHS))


def load_test(settings, classes: Classes) -> Instances:
    """Returns the test images alone, for a detector that knows some classes; see `load`."""
    if _is_digits(settings):
        return in_classes_of(classes, composed_digits.load()[1])
    return in_classes_of(classes, coco_json.read(*_paths(settings, _TEST)))


def _is_digits(settings) -> bool:
    if settings.name not in (_DIGITS, _COCO):
        raise UserError(f"config.data.name is {settings.name!r}; it must be 'digits' or 'coco'.")
    if settings.name == _DIGITS and (settings.root or any(settings[key] for key in PATHS)):
        raise UserError(
            "config.data.name is 'digits', which are composed here: leave config.data.root and the "
            "paths of annotations and images empty, or set config.data.name=coco."
        )
    return settings.name == _DIGITS


def _paths(settings, needed: tuple[str, ...]) -> list[str]:
    """Returns the paths of the keys `needed`, which a root or all of these keys must give."""
    given = [settings[key] for key in needed]
    if settings.root and not any(settings[key] for key in PATHS):
        below = dict(zip(PATHS, coco_json.paths_of_2017(settings.root)))
        return [below[key] for key in needed]
    if settings.root or not all(given):
        raise UserError(
            "Name either config.data.root, the folder of COCO 2017, or all of "
            f"{', '.join(f'config.data.{key}' for key in needed)}."
        )
    return given


def pixels_of(settings, train: Instances, learnt: Mapping[str, Any]) -> Pixels:
    """Chooses how pixels reach a detector: as those that its backbone has learnt.

    Args:
        settings: section `data` of a config.
        train: the training images, whose pixels count where the backbone has learnt none.
        learnt: facts of the images that the backbone was trained on, see `facts.of_data`; or empty.

    Raises:
        UserError: an image cannot be read, or the backbone takes images that are neither grey nor RGB.
    """
    channels = learnt["image_shape"][2] if learnt else train.channels
    if channels not in (1, 3):
        raise UserError(
            f"The backbone takes images of {channels} channels, but a detector's are grey or RGB: use "
            "a network that was trained on such images."
        )
    if channels < train.channels:
        _logger.warning(
            "detect: the backbone takes grey images, so those of the data are made grey"
        )
    white = settings.white or learnt.get("white") or white_of_some(train)
    if learnt:
        mean, std = (np.asarray(learnt[key], np.float32) for key in ("mean", "std"))
    else:
        mean, std = pixel_statistics(train, channels, white=white)
    return Pixels(channels, mean, std, white)


def training_stream(config, train: Instances, pixels: Pixels) -> CanvasStream:
    """Opens the training images; for the errors see `CanvasStream` and `canvases.deal`."""
    sizes = train.sizes[train.trained_images] if len(train.trained_images) else train.sizes
    return _stream(config, train, sizes, pixels, config.train.batch_images, training=True)


def test_stream(config, test: Instances, pixels: Pixels) -> CanvasStream:
    """Opens the test images, in batches of the training's size that all devices can share evenly."""
    batch_size = sharding.divisible(config.train.batch_images)
    return _stream(config, test, test.sizes, pixels, batch_size, training=False)


def _stream(config, instances, sizes, pixels, batch_size, training) -> CanvasStream:
    settings = config.data
    sides = tuple(settings.short_side)
    return CanvasStream(
        instances=instances,
        batch_size=batch_size,
        sides=settings.canvases or canvases.default_canvases(sizes, max(sides), settings.long_side),
        short_side=sides,
        long_side=settings.long_side,
        channels=pixels.channels,
        training=training,
        seed=config.seed,
        flip=settings.flip,
        max_objects=settings.max_objects,
        num_workers=settings.num_workers if instances.on_disk else 0,
        white=pixels.white,
    )

"""The images and objects that a config's section `data` names, and how they reach a detector."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ddarts_jax.data.sources.tfds import UnknownName
from ddarts_jax.detection import canvases, cityscapes, coco_json, composed_digits, tfds_boxes
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

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_DIGITS, _COCO, _CITYSCAPES = "digits", "coco", "cityscapes"
_TRAIN, _TEST = ("train_annotations", "train_images"), ("test_annotations", "test_images")
PATHS = _TRAIN + _TEST  # keys of the section that say where files are
PLACES = ("root", *PATHS, "data_dir")  # all that say where the data are


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


def with_masks(config) -> bool:
    """Tells whether the detector of a config learns and finds masks."""
    return config.get("detector") == "mask_rcnn"


def load(settings, masks: bool = False) -> tuple[Instances, Instances]:
    """Returns the training and the test images, both with the classes of the training.

    Args:
        settings: section `data` of a config.
        masks: whether every object needs a mask; without, outlines are not kept.

    Raises:
        UserError: it names no data, or they cannot be used, see `coco_json.read`, `cityscapes.read`,
            `tfds_boxes.read_pair` and `in_classes_of`, or have no masks.
    """
    _check_places(settings)
    if settings.name == _DIGITS:
        train, test = composed_digits.load()
    elif settings.name == _COCO:
        train, test = coco_json.read_pair(*_paths(settings, PATHS), masks)
    elif settings.name == _CITYSCAPES:
        train, test = cityscapes.read_pair(_root(settings))
    else:
        train, test = _of_tfds(tfds_boxes.read_pair, settings, masks)
    return (train, test) if masks else (_bare(train), _bare(test))


def load_test(settings, classes: Classes, masks: bool = False) -> Instances:
    """Returns the test images alone, for a detector that knows some classes; see `load`."""
    _check_places(settings)
    if settings.name == _DIGITS:
        test = composed_digits.load()[1]
    elif settings.name == _COCO:
        test = coco_json.read(*_paths(settings, _TEST), masks)
    elif settings.name == _CITYSCAPES:
        test = cityscapes.read_test(_root(settings))
    else:
        test = _of_tfds(tfds_boxes.read_test, settings, masks)
    test = in_classes_of(classes, test)
    return test if masks else _bare(test)


def _bare(instances: Instances) -> Instances:
    """Returns images and objects without outlines, which are gigabytes for COCO."""
    return dataclasses.replace(instances, segmentations=())


def places_of(name: str) -> tuple[str, ...]:
    """Returns the keys of section `data` that say where the data of a name are."""
    places = {_DIGITS: (), _COCO: ("root", *PATHS), _CITYSCAPES: ("root",)}
    return places.get(name, ("data_dir",))


def _check_places(settings) -> None:
    """Raises UserError for a place of other data than those that the section names."""
    name = settings.name
    kinds = {
        _DIGITS: "which are composed here",
        _COCO: "which are files as COCO's",
        _CITYSCAPES: "which is the folder config.data.root",
    }
    kind = kinds.get(name, "a set of TensorFlow Datasets")
    for key in PLACES:
        if settings[key] and key not in places_of(name):
            other = (
                " to a set of TensorFlow Datasets, as coco/2017"
                if key == "data_dir"
                else f"={_COCO}"
            )
            raise UserError(
                f"config.data.{key} is {settings[key]!r}, but config.data.name is {name!r}, {kind}: "
                f"leave it empty, or set config.data.name{other}."
            )


def _of_tfds(read: Callable[[str, str], _T], settings, masks: bool) -> _T:
    """Reads a set of TensorFlow Datasets; a name that it does not know becomes a UserError."""
    if masks:
        raise UserError(
            f"config.data.name={settings.name!r} would be of TensorFlow Datasets, which have boxes but "
            f"no masks: for a detector of masks use files as COCO's (config.data.name={_COCO}) or the "
            f"folder of Cityscapes (config.data.name={_CITYSCAPES})."
        )
    try:
        return read(settings.name, settings.data_dir)
    except UnknownName as error:
        ours = (_DIGITS, _COCO, _CITYSCAPES)
        raise UserError(
            f"{error.sentence(ours)} Use {', '.join(map(repr, ours))} or a name of TensorFlow Datasets."
        ) from error


def _root(settings) -> str:
    """Returns the folder of Cityscapes."""
    if settings.root:
        return settings.root
    raise UserError("Name config.data.root, the folder of Cityscapes with leftImg8bit and gtFine.")


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
        masks=training and with_masks(config),
        num_workers=settings.num_workers if instances.on_disk else 0,
        white=pixels.white,
    )

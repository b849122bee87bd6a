"""Every key of the detection's configs with its default."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax.configuration.values import flatten
from ddarts_jax.errors import UserError

DETECTORS = ("retinanet", "faster_rcnn", "mask_rcnn")
# Sections of the config that only some detectors use.
_OWNERS = {
    **dict.fromkeys(("anchor", "head"), DETECTORS[:1]),
    **dict.fromkeys(("rpn", "roi"), DETECTORS[1:]),
}


def detection_config() -> ConfigDict:
    """Returns the keys of all configs of detectors, locked: RetinaNet on COCO, as in the article."""
    config = ConfigDict()
    config.task = "detect"  # 'detect' (train, evaluate); 'detect_evaluate': the workdir's detector
    # 'retinanet' (boxes in one stage), 'faster_rcnn' (boxes in two), 'mask_rcnn' (with masks).
    config.detector = "retinanet"
    # Of 'detect_evaluate': folder of an exported detector, which is evaluated in place of the workdir's.
    config.export = ""
    config.seed = 0  # determines all randomness
    # Compute dtype of convolutions. Boxes, scores and losses are always float32.
    config.dtype = "auto"  # 'float32', 'bfloat16'; 'auto': bfloat16 on accelerators

    config.backbone = ConfigDict()
    config.backbone.run = ""  # workdir of a training, whose network it is, with its weights
    # Without a run: a network with random weights, named as config.genotype of a training.
    config.backbone.genotype = ""
    config.backbone.channels = 64  # of its first cell
    config.backbone.stem = "half"  # 'plain' (small images), 'half', 'strided'
    config.backbone.stem_multiplier = 3  # the plain stem has this many times `channels`
    # Cells to read, by position (-1: the stem); empty: the last ones of strides 8, 16 and 32, and of 4
    # for proposals.
    config.backbone.levels = ()
    # Sizes of features, from the stem on, that are not trained; random weights must be, so 0 there.
    config.backbone.frozen_levels = 1
    # BatchNorm: 'frozen' (statistics of the run, never updated), 'batch'; 'auto': frozen with a run.
    config.backbone.norm = "auto"

    config.fpn = ConfigDict()
    config.fpn.channels = 256  # of every level of the pyramid
    config.fpn.levels = 5  # of the pyramid: what `backbone.levels` are short of it is made on top
    config.anchor = ConfigDict()  # RetinaNet's
    config.anchor.scale = 4.0  # side of the smallest anchors, in strides
    config.head = ConfigDict()  # RetinaNet's
    config.head.convs = 4  # hidden convolutions of each tower
    config.head.prior = 0.01  # probability of each class at the start
    config.rpn = rpn_config()  # of Faster and Mask R-CNN: the network that proposes boxes
    config.roi = roi_config()  # of Faster and Mask R-CNN: what looks at the proposals

    config.data = data_config()  # images with objects

    config.train = ConfigDict()  # SGD
    config.train.epochs = 12  # of the training
    config.train.batch_images = 16  # images per step, over all devices
    config.train.learning_rate = 0.01  # for a batch of that size
    config.train.decay_epochs = (8, 11)  # after which the learning rate is a tenth
    config.train.warmup_steps = 500  # in which it rises linearly from a thousandth
    config.train.momentum = 0.9  # not Nesterov's
    config.train.weight_decay = 1e-4  # as L2 in the gradient
    config.train.clip = 0.0  # largest global norm of the gradient; 0: any

    config.evaluate = ConfigDict()
    config.evaluate.every = 1  # epochs between two evaluations; the last epoch is always evaluated
    config.test = ConfigDict()  # which boxes count as detections
    config.test.score = 0.05  # probability above which a box counts
    config.test.nms = 0.5  # overlap (IoU) above which the worse of two boxes of a class is dropped
    config.test.per_level = 1000  # boxes of each level that are looked at, or that become proposals
    config.test.limit = 100  # detections of an image

    config.chunk_steps = 50  # steps between two looks at the losses
    config.profile = False  # trace the second chunk, print its most expensive scopes
    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 10.0  # between two checkpoints within an epoch
    config.checkpoint.keep_last = 2  # newest checkpoints that are kept
    return config.lock()


def data_config() -> ConfigDict:
    """Returns section `data`."""
    config = ConfigDict()
    # 'digits': real digits on real photographs, composed here; 'coco': files as COCO's; 'cityscapes':
    # its folder; others are those of TFDS, such as 'coco/2017'.
    config.name = "coco"
    # COCO 2017 or Cityscapes as they unpack; empty: the following four are given.
    config.root = ""
    config.train_annotations = ""  # COCO's JSON of the training
    config.train_images = ""  # the folder of its images
    config.test_annotations = ""  # COCO's JSON of the test
    config.test_images = ""  # the folder of its images
    config.data_dir = ""  # where TFDS has prepared its data; empty: its default
    # Pixels of the resized image's shorter side, or the least and the most, drawn anew for each epoch;
    # 0: images keep their size.
    config.short_side = (800,)
    config.long_side = 1333  # the most pixels of the longer side
    config.canvases = ()  # (height, width) that images are padded to; empty: by the images' shapes
    config.flip = True  # mirror half of the images
    config.max_objects = 100  # of an image that train; of more, the largest
    config.white = 0  # value of white in images of 16 bits; 0: as their brightest needs
    config.num_workers = 2  # processes that decode; 0: only the program's own
    return config


def rpn_config() -> ConfigDict:
    """Returns section `rpn`."""
    config = ConfigDict()
    config.scale = 8.0  # side of its anchors, in strides
    config.samples = 256  # anchors of an image that are trained, at most half with an object
    config.least = 0.3  # overlap (IoU) from which on an object's best anchor is trained to find it
    config.beta = 0.0  # up to which difference the loss of boxes is a parabola; 0: none
    config.nms = 0.7  # overlap (IoU) above which the worse of two boxes of a level is dropped
    config.per_level = 2000  # boxes of each level that are looked at in training
    config.limit = 1000  # proposals of an image
    return config


def roi_config() -> ConfigDict:
    """Returns section `roi`."""
    config = ConfigDict()
    config.width = 1024  # of the two hidden layers of boxes
    config.samples = 512  # proposals of an image that are trained, at most a quarter with an object
    # Side, in strides of the finest level, from twice which on a proposal reads the second level.
    config.finest = 14.0
    config.beta = 0.0  # as config.rpn.beta
    return config


def check(values: Mapping[str, Any]) -> None:
    """Checks what a range of single values does not tell, in a detector's config.

    Raises:
        UserError: the sides or the decays make no sense, or an option of another detector is set.
    """
    sides = tuple(values.get("data.short_side", (0,)))
    if (
        len(sides) not in (1, 2)
        or min(sides) < 0
        or (len(sides) == 2 and not 0 < sides[0] <= sides[1])
    ):
        raise UserError(
            f"config.data.short_side is {sides}; it must be (pixels,), or (least, most), or (0,) for "
            "images as they are."
        )
    if max(sides) > values.get("data.long_side", max(sides)):
        raise UserError(
            f"config.data.short_side is {sides}, more than config.data.long_side, which is "
            f"{values['data.long_side']}: make one of them larger."
        )
    for canvas in values.get("data.canvases", ()):
        if len(canvas) != 2 or not all(isinstance(side, int) for side in canvas):
            raise UserError(
                f"config.data.canvases has {canvas}; each must be (height, width) in pixels."
            )
    decays = tuple(values.get("train.decay_epochs", ()))
    if any(a >= b for a, b in zip((0, *decays), decays)):
        raise UserError(
            f"config.train.decay_epochs is {decays}; they must be ascending and 1 or more."
        )
    _check_detector(values)


def _check_detector(values: Mapping[str, Any]) -> None:
    """Raises UserError if options of another detector are set."""
    chosen = values.get("detector")
    if chosen is None:
        return
    defaults = flatten(detection_config())
    for key, value in values.items():
        owners = _OWNERS.get(key.partition(".")[0], (chosen,))
        if chosen not in owners and value != defaults[key]:
            raise UserError(
                f"config.{key} is {value!r}, but config.detector is {chosen!r}, which does not use it: "
                f"leave it at {defaults[key]!r}, or set config.detector={owners[-1]}."
            )

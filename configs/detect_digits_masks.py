"""Mask R-CNN on real handwritten digits, pasted on photographs: boxes and masks in minutes.

    python -m ddarts_jax.main --config configs/detect_digits_masks.py

Images and backbone are those of configs/detect_digits.py; the mask of a digit is its ink.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "detect_digits.py").unlock()
    config.detector = "mask_rcnn"
    default = dd.detection_config()
    config.anchor, config.head = default.anchor, default.head  # RetinaNet's

    config.rpn.scale = 3.5
    config.rpn.samples = 128
    config.rpn.per_level = 300
    config.rpn.limit = 100
    config.roi.width = 128
    config.roi.samples = 32
    config.roi.finest = 5.0
    config.test.per_level = 200
    return config.lock()

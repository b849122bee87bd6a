"""A detector on real handwritten digits, pasted on photographs: the quick start of detection.

    python -m ddarts_jax.main --config configs/detect_digits.py

A published network as the backbone, from random weights, and RetinaNet above it. The images are composed
from what comes with scikit-learn, see detection/composed_digits.py; they are no benchmark. Box AP 67.6,
59.3 and 66.5 with the seeds 0 to 2, AP50 86.1, 76.8 and 85.9; 8 minutes from nothing on 2 CPU cores. With
`--config.backbone.run=RUN` the backbone is the network of a training on grey images: AP 59.8, AP50 78.7
with DARTS_V2 trained on the digits (16 channels, half stem, 32x32), whose BatchNorm stays as it is.
"""

import ddarts_jax as dd


def get_config():
    config = dd.detection_config()
    config.data.name = "digits"
    config.data.short_side = (0,)
    config.data.flip = False  # digits are not what they look like in a mirror

    config.backbone.genotype = "DARTS_V2"
    config.backbone.channels = 16
    config.backbone.stem = "half"
    config.backbone.levels = (1, 4, 7)  # strides 4, 8 and 16
    config.backbone.frozen_levels = 0

    config.fpn.channels = 48
    config.fpn.levels = 4
    config.anchor.scale = 2.5
    config.head.convs = 2

    config.train.epochs = 5
    config.train.learning_rate = 0.02
    config.train.decay_epochs = (4,)
    config.train.warmup_steps = 100
    config.train.clip = 10.0
    return config

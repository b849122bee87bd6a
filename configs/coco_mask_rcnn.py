"""Mask R-CNN on COCO 2017 above a network that this program has trained.

    python -m ddarts_jax.main --config configs/coco_mask_rcnn.py \
        --config.backbone.run=RUN --config.data.root=/data/coco

RUN is the workdir of a training, such as that of configs/imagenet_dartopti.py. The recipe is
MMDetection's 1x: 12 epochs of batches of 16 images of 800 x 1333 pixels. It has not been run at full
size yet, so no AP is given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "coco_retinanet.py").unlock()
    config.detector = "mask_rcnn"
    config.train.learning_rate = 0.02
    return config

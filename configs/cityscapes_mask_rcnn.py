"""Mask R-CNN on Cityscapes above a network that this program has trained (article, section 5.7).

    python -m ddarts_jax.main --config configs/cityscapes_mask_rcnn.py \
        --config.backbone.run=RUN --config.data.root=/data/cityscapes

RUN is the workdir of a training, such as that of configs/imagenet_dartopti.py. The recipe is
MMDetection's, but it starts from a network trained on ImageNet, not from a detector of COCO: 64 epochs of
batches of 8 images, whose shorter side is drawn from 800 to 1024 pixels. It has not been run at full
size yet, so no AP is given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "coco_mask_rcnn.py").unlock()
    config.data.name = "cityscapes"
    config.data.short_side = (800, 1024)
    config.data.long_side = 2048
    config.data.canvases = ((1024, 2048),)

    config.roi.beta = 1.0
    config.train.epochs = 64
    config.train.batch_images = 8
    config.train.learning_rate = 0.01
    config.train.decay_epochs = (56,)
    return config

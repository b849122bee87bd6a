"""RetinaNet on COCO 2017 above a network that this program has trained (article, section 5.7).

    python -m ddarts_jax.main --config configs/coco_retinanet.py \
        --config.backbone.run=RUN --config.data.root=/data/coco

RUN is the workdir of a training, such as that of configs/imagenet_dartopti.py. The recipe is
MMDetection's 1x: 12 epochs of batches of 16 images of 800 x 1333 pixels, for one GPU or several. It has
not been run at full size yet, so no AP is given (the article: box AP 34.2 with DO-2-ResNet18).
"""

import ddarts_jax as dd


def get_config():
    return dd.detection_config().unlock()

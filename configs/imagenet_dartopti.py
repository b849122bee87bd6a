r"""DARTOpti on ImageNet: trains what a search from ResNet18, ResNet50 or Xception found, 64 channels.

    python -m ddarts_jax.main --config configs/imagenet_dartopti.py --config.genotype=PATH \
        --config.data.name=folder:/path

The paper's networks were searched on CIFAR-100: PATH is what configs/cifar100_resnet18.py, _resnet50.py
or _xception.py found. `--config.task=pipeline --config.data.batch_size=96
--config.search.start.genotype=ResNet50` without a genotype searches on ImageNet itself, with 32
channels. The recipe is that of configs/imagenet_train.py, but the stem, of which only the first and the
third convolution are strided, is that of the authors' network: with it DO-2-ResNet18 has the paper's
8.6 billion multiply-accumulates, and 2.3 without. Made for GPUs; the whole training has not been
run yet, so no accuracy is given (the paper: DO-2-ResNet18 77.0%, DO-2-ResNet50 76.3%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "imagenet_search.py")
    config.task = "train"
    config.data.batch_size = 128
    config.search.space = "dartopti"
    config.search.channels = 32
    config.search.start.genotype = "ResNet18"
    config.train.channels = 64
    config.train.stem = "half"
    # As on CIFAR. At a ResNet's last reduction cell the head would have room, at Xception's it has none.
    config.train.auxiliary_weight = 0.0
    return config

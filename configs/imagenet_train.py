r"""The training of a derived network on ImageNet: 250 epochs as in the paper, the recipe of DARTS.

    python -m ddarts_jax.main --config configs/imagenet_train.py --config.genotype=PATH \
        --config.data.name=folder:/path

48 channels, batch 128, SGD 0.1 to 0 after 5 epochs of warm-up, label smoothing 0.1, auxiliary head 0.4.
Data as for imagenet_search.py, streamed. `--config.train.augment.auto_augment=imagenet` adds AutoAugment.
Made for GPUs; the whole training has not been run yet, so no accuracy is given (the paper: DD-7, 75.5%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.task = "train"
    config.data.name = "imagenet2012"
    config.data.stream = True
    config.data.num_workers = 8
    config.data.image_size = 224

    config.train.epochs = 250
    config.train.channels = 48
    config.train.stem = "strided"
    config.train.learning_rate = 0.1
    config.train.warmup_epochs = 5
    config.train.weight_decay = 3e-5
    config.train.label_smoothing = 0.1
    config.train.drop_path = 0.0
    config.train.augment.crop_padding = 0
    config.train.augment.cutout = 0
    config.train.augment.resized_crop = 0.08
    config.train.augment.color_jitter = 0.4
    return config

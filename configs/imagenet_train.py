r"""The training of a derived network on ImageNet: 250 epochs as in the paper, the recipe of DARTS.

    python -m ddarts_jax.main --config configs/imagenet_train.py --config.genotype=PATH \
        --config.data.name=folder:/path

Source: cnn/train_imagenet.py of quark0/darts. SGD 0.1, times 0.97 after every epoch, weight decay 3e-5,
label smoothing 0.1, no drop path, auxiliary head 0.4, batch 128, 48 channels; crops resized, flipped,
brightness, contrast and saturation changed by 0.4, hue by 0.2. Other schedules are those of
imagenet_train_authors.py and imagenet_train_cosine.py. Data as for imagenet_search.py, streamed.
`--config.train.augment.auto_augment=imagenet` adds AutoAugment. Made for GPUs; the whole training has
not been run yet, so no accuracy is given (the paper: DD-7, 75.5%).
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
    config.train.schedule = "exponential"
    config.train.decay = 0.97
    config.train.weight_decay = 3e-5
    config.train.label_smoothing = 0.1
    config.train.drop_path = 0.0
    config.train.augment.crop_padding = 0
    config.train.augment.cutout = 0
    config.train.augment.resized_crop = 0.08
    config.train.augment.color_jitter = 0.4
    config.train.augment.hue = 0.2
    return config

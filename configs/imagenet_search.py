"""The paper's search on ImageNet: 8 cells, batch 96, a stem that leaves a quarter of the size.

    python -m ddarts_jax.main --config configs/imagenet_search.py --config.data.name=folder:/path

A folder with `train/` and `val/`, one folder a class in each, or `imagenet2012` prepared by
tensorflow-datasets as ArrayRecord. Images are streamed. `--config.task=pipeline` also trains what was
found, by the recipe of configs/imagenet_train.py but with batch 96. Made for GPUs; the whole search has
not been run yet, so no accuracy is given (the paper: DD-7, 75.5% after full training).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "imagenet_train.py")
    config.task = "search"
    config.data.batch_size = 96

    config.search.stem = "strided"
    config.search.augment.crop_padding = 0
    config.search.augment.resized_crop = 0.08
    config.search.augment.color_jitter = 0.4
    config.search.augment.hue = 0.2
    return config

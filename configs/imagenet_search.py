"""The paper's search on ImageNet: 8 cells, batch 96, a stem that leaves a quarter of the size.

    python -m ddarts_jax.main --config configs/imagenet_search.py --config.data.name=folder:/path

A folder with `train/` and `val/`, one folder a class in each, or `imagenet2012` prepared by
tensorflow-datasets as ArrayRecord. Images are streamed. Made for GPUs; the whole search has not been run
yet, so no accuracy is given (the paper: DD-7, 75.5% after full training).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.task = "search"
    config.data.name = "imagenet2012"
    config.data.stream = True
    config.data.num_workers = 8
    config.data.image_size = 224
    config.data.batch_size = 96

    config.search.stem = "strided"
    config.search.augment.crop_padding = 0
    config.search.augment.resized_crop = 0.08
    config.search.augment.color_jitter = 0.4
    return config

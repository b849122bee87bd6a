"""Search, train and evaluate on your own photographs: some dozens to some thousands of each class.

    python -m ddarts_jax.main --config configs/photos.py --config.data.name=folder:/path/to/photos

PATH holds a folder per class. Photographs of any size become 64x64 pixels. Small data fill few batches,
and the alphas move once at each: 16 images per batch and 60 epochs are 360 steps for 240 photographs.
With ten times as many, a tenth of the epochs is as long: --config.search.epochs=6.
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.data.name = "folder:photos"
    config.data.image_size = 64
    config.data.batch_size = 16

    config.search.epochs = 60
    config.search.num_cells = 5
    config.search.num_nodes = 2
    config.search.channels = 8
    config.search.weights.learning_rate = 0.05
    config.search.alphas.learning_rate = 0.05
    config.search.alphas.final_learning_rate = 0.02
    config.search.augment.crop_padding = 8

    config.train.epochs = 100
    config.train.channels = 16
    config.train.drop_path = 0.1
    config.train.auxiliary_weight = 0.0
    config.train.augment.crop_padding = 8
    config.train.augment.cutout = 0
    return config

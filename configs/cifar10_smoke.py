"""The search, training and evaluation on CIFAR-10 shrunk to a few steps: a first try, real images.

    python -m ddarts_jax.main --config configs/cifar10_smoke.py [--config.data.data_dir=DIR]

3 cells of 1 node, 4 channels, 40 images of each class: two minutes on 2 cores, nearly all of it
compiling. The accuracy means nothing.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "cifar10_train.py")
    config.task = "pipeline"
    config.data.images_per_class = 40
    config.data.batch_size = 50

    config.search.epochs = 2
    config.search.num_cells = 3
    config.search.num_nodes = 1
    config.search.channels = 4
    config.parse.method = "darts"  # a few steps decide no primitive, so there is no threshold

    config.train.epochs = 2
    config.train.channels = 4
    config.chunk_steps = 2
    return config

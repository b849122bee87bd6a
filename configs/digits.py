"""Search, train and evaluate on scikit-learn's handwritten digits: the quick start.

    python -m ddarts_jax.main --config configs/digits.py

5 cells of 2 nodes on 8x8 images; 3 minutes on 2 CPU cores, half of it compiling; 98.05 ± 0.56% on the
test split (seeds 0 to 2).
"""

import ddarts_jax as dd


def get_config():
    config = dd.default_config()
    config.data.name = "digits"
    config.data.batch_size = 64

    config.search.epochs = 12
    config.search.num_cells = 5
    config.search.num_nodes = 2
    config.search.channels = 8
    config.search.stem_multiplier = 3
    config.search.weights.learning_rate = 0.1
    config.search.weights.final_learning_rate = 0.01
    config.search.alphas.learning_rate = 0.05
    config.search.alphas.final_learning_rate = 0.02
    dd.without_augmentation(config.search.augment)

    config.train.epochs = 14
    config.train.channels = 16
    config.train.learning_rate = 0.1
    config.train.drop_path = 0.0
    config.train.auxiliary_weight = 0.0
    dd.without_augmentation(config.train.augment)
    return config

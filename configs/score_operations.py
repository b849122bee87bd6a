"""Operation scores on your own images, by the paper's protocol; `distance` takes them for Table 1's.

    python -m ddarts_jax.main --config configs/score_operations.py [--config.data.name=folder:/path]

12 primitives in 12 places of a ResNet18 of 3 blocks, each network trained 4 times. The sizes here are for
the handwritten digits on 2 CPU cores: 25 minutes, nearly all of them compiling the 144 networks. On a GPU
and CIFAR: `--config.train.channels=16 --config.data.name=cifar10`.
"""

from ddarts_jax.configuration import score_config, without_augmentation


def get_config():
    config = score_config()
    config.data.name = "digits"
    config.data.batch_size = 64
    config.train.channels = 4
    config.train.epochs = 4
    config.train.learning_rate = 0.1
    without_augmentation(config.train.augment)
    return config

r"""The training on ImageNet as the authors' program does it: a cosine from 0.025, drop path to 0.2.

    python -m ddarts_jax.main --config configs/imagenet_train_authors.py --config.genotype=PATH \
        --config.data.name=folder:/path

Source: README.md of aheuillet/D-DARTS (the columns lr and DP of its ImageNet table) and the defaults of
its train.py, weight decay 3e-4 among them. All else, augmentation included, is that of
configs/imagenet_train.py, which is DARTS's. The whole training has not been run yet, so no accuracy is
given (that README: DD-7, 75.6%).
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "imagenet_train.py")
    config.train.learning_rate = 0.025
    config.train.schedule = "cosine"
    config.train.weight_decay = 3e-4
    config.train.drop_path = 0.2
    return config

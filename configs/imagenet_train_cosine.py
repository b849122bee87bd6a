r"""The training on ImageNet with DARTS's rate and the authors' cosine: 5 epochs of warm-up, 0.1 to 0.

    python -m ddarts_jax.main --config configs/imagenet_train_cosine.py --config.genotype=PATH \
        --config.data.name=folder:/path

Source: the cosine is that of train.py of aheuillet/D-DARTS, all else that of configs/imagenet_train.py;
the warm-up is in neither program. The whole training has not been run yet, so no accuracy is given.
"""

import ddarts_jax as dd


def get_config():
    config = dd.based_on(__file__, "imagenet_train.py")
    config.train.schedule = "cosine"
    config.train.warmup_epochs = 5
    return config

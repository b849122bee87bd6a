"""Every key of the configs with its default, by task."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax.configuration.values import flatten, to_json
from ddarts_jax.errors import UserError

# The options of each search method, {dotted key: default}.
METHODS: dict[str, dict[str, Any]] = {
    "ddarts": {
        "zero_one_weight": 7.0,  # w_01, weight of the zero-one loss (FairDARTS)
        "ablation": {
            "weight": 0.5,  # w_AB, weight of the ablation loss
            "gradient": "full",  # 'none': report the loss, differentiate nothing
            # 'full': as printed; 'stopped': the mean of the contributions counts as a constant.
            "mean_gradient": "full",
            "removal": "zero",  # a removed cell's output; 'random': randomly scaled
        },
        "share_cells": False,  # one architecture for normal cells, one for reduction cells
        "microbatch": 0,  # ablated networks that run at once: fewer take less memory; 0: all
    },
    "darts": {},
    "fairdarts": {"zero_one_weight": 7.0},
    "authors_program": {
        "zero_one_weight": 7.0,
        "ablation": {"weight": 0.5, "removal": "random"},  # reported only
        "microbatch": 0,
    },
    "random": {"candidates": 4},  # random networks that share the epochs of the search
}


# {former dotted key: today's}. Whoever renames a key adds a line: flags and older runs keep working.
FORMER_NAMES: dict[str, str] = {
    "search.zero_one_weight": "search.ddarts.zero_one_weight",
    "search.ablation.weight": "search.ddarts.ablation.weight",
    "search.ablation.gradient": "search.ddarts.ablation.gradient",
    "search.ablation.removal": "search.ddarts.ablation.removal",
    "search.share_cells": "search.ddarts.share_cells",
    "search.microbatch": "search.ddarts.microbatch",
}


def add_method(name: str, options: Mapping[str, Any]) -> None:
    """Adds a search method and its group of options; see `searching.methods.register`.

    Raises:
      UserError: the name cannot be used.
    """
    taken = {*METHODS, *_plain_search_keys()}
    if not name.isidentifier() or name.startswith("_") or name in taken:
        raise UserError(
            f"A search method cannot be named {name!r}: it must be an identifier other than "
            f"{', '.join(sorted(taken))}."
        )
    METHODS[name] = dict(options)


def _plain_search_keys() -> set[str]:
    return set(default_config().search) - set(METHODS)


def default_config() -> ConfigDict:
    """Returns every key with its default, locked: the search is D-DARTS' own on CIFAR-10."""
    config = ConfigDict()
    config.task = "pipeline"  # 'pipeline' (search, train, evaluate), 'search', 'train', 'evaluate'
    config.seed = 0  # everything random follows from it
    # Of the computation; parameters, statistics, losses and alphas are float32 at least.
    config.dtype = "auto"  # 'float32', 'bfloat16', 'float64'; 'auto': bfloat16 on accelerators
    # Used by tasks 'train' and 'evaluate' alone; if empty, the workdir's own files are used.
    config.genotype = ""  # a genotype.json, the authors' text, or a handcrafted network's name
    config.weights = ""  # a network.npz to evaluate, or to begin the training with

    config.data = _data()
    config.search = _search()
    config.parse = ConfigDict()  # from alphas to a genotype
    config.parse.method = "sparse"  # 'sparse', 'edge', 'complete' (D-DARTS), 'darts' (DARTS)
    config.parse.threshold = 0.85  # least sigmoid(alpha) of a kept primitive; 'darts' has none

    config.train = _train()
    config.evaluate = ConfigDict()
    config.evaluate.batch_sizes = (1, 64)  # whose speed task 'evaluate' measures

    config.chunk_steps = 50  # training steps in one compiled scan
    config.profile = False  # trace the second chunk of each phase, print its most expensive scopes
    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 10.0  # between two checkpoints inside an epoch
    config.checkpoint.keep_last = 2  # checkpoints kept besides the best
    return config.lock()


def _data() -> ConfigDict:
    """The images."""
    data = ConfigDict()
    data.name = "cifar10"  # 'digits', a TFDS name, 'folder:/path' or 'npz:/path'
    data.data_dir = ""  # where TFDS has prepared its data; empty: its default
    data.batch_size = 128  # images a step, on all devices together
    data.image_size = 0  # pixels a side, resized to; 0: as stored
    data.images_per_class = 0  # used of each split, for a quick trial; 0: all
    data.test_fraction = 0.2  # held out for the test where the data bring no test split

    data.stream = False  # from disk while it runs, for sets that do not fit into memory
    data.num_workers = 2  # processes that decode a stream; 0: none but the program's own
    return data


def _search() -> ConfigDict:
    """The search."""
    search = ConfigDict()
    search.epochs = 50
    # The candidate primitives: 'darts' (7), 'dartopti' (12), or names separated by commas.
    search.space = "darts"
    search.num_cells = 8  # N; the cells at N//3 and 2N//3 are reduction cells
    search.num_nodes = 4  # intermediate nodes in a cell
    search.channels = 16  # of the first cell; doubled by each reduction cell
    search.stem = "plain"  # 'strided', for large images: a quarter of the size
    search.stem_multiplier = 3  # the plain stem has this many times `channels`
    search.unroll = 1  # edges in one iteration of the scan; 1 compiles fastest
    search.remat = True  # backward passes compute edges again: less memory, more time
    # Images of the architecture split on which the discretisation gap is measured; 0: not measured.
    search.gap_images = 1000

    search.start = ConfigDict()  # DARTOpti: from a network in place of random alphas
    # 'ResNet18', 'ResNet50', 'Xception', 'InceptionV4', 'authors/...', or a genotype's file. It says
    # how many cells and nodes there are, whatever num_cells and num_nodes say; empty: none.
    search.start.genotype = ""
    search.start.strength = 2.0  # alphas of its primitives; those of all others: -strength
    search.start.epochs = 5  # before the others, with alphas fixed: the weights settle

    search.stop = ConfigDict()  # early, when the distance to the start is stable
    search.stop.patience = 5  # epochs in a row without change; 0: never
    search.stop.from_epoch = 10  # the first that counts; those with fixed alphas are counted too
    search.stop.tolerance = 1e-3  # largest difference from the present distance that counts as none

    # Which architectures there are and what their alphas follow: 'ddarts', 'darts', 'fairdarts',
    # 'authors_program', 'random', or one that is registered. Options of a method are in its own group.
    search.method = "ddarts"
    for method, options in METHODS.items():
        if options:
            search[method] = ConfigDict(options)

    search.alphas = ConfigDict()  # Adam, one for each cell
    search.alphas.learning_rate = 3e-3  # at the first step, cosine from there
    search.alphas.final_learning_rate = 1e-3  # at the last step
    # One rate at the first step for each distinct cell; empty: `learning_rate` for all. The last
    # rate scales alike: rate * final_learning_rate / learning_rate.
    search.alphas.cell_learning_rates = ()
    search.alphas.weight_decay = 1e-3  # as L2 in the gradient
    search.alphas.b1 = 0.9
    search.alphas.b2 = 0.999

    search.weights = ConfigDict()  # SGD
    search.weights.learning_rate = 0.005  # at the first step, cosine from there
    search.weights.final_learning_rate = 0.001  # at the last step
    search.weights.momentum = 0.9
    search.weights.weight_decay = 3e-4  # as L2 in the gradient
    search.weights.clip = 5.0  # largest global norm of the gradient

    search.augment = ConfigDict()
    search.augment.crop_padding = 4  # pixels of zeros around the image before a random crop
    search.augment.flip = True  # left to right, half of the images
    search.augment.cutout = 0  # pixels a side of the erased square; 0: none
    search.augment.resized_crop = 0.0  # least share of the area of a random crop; 0: none
    search.augment.auto_augment = ""  # policy 'cifar10' or 'imagenet' of AutoAugment
    search.augment.color_jitter = 0.0  # of brightness, contrast and saturation
    search.augment.hue = 0.0  # largest turn of the colour circle, up to 0.5; DARTS on ImageNet: 0.2
    return search


def _train() -> ConfigDict:
    """The training of the derived network, as DARTS trains its own."""
    train = ConfigDict()
    train.epochs = 600
    train.num_cells = 0  # more than searched: expanded by Algorithm 1; 0: as searched
    train.channels = 36
    train.stem = "plain"  # 'strided', for large images: a quarter and an eighth of the size
    train.stem_multiplier = 3  # the plain stem has this many times `channels`
    train.learning_rate = 0.025  # at the first step, or after the warm-up
    # From there 'cosine' down to `final_learning_rate`, or 'exponential': times `decay` after every
    # epoch, as DARTS trains on ImageNet.
    train.schedule = "cosine"
    train.final_learning_rate = 0.0  # at the last step of a cosine
    train.decay = 0.97  # read by the schedule 'exponential' alone
    train.momentum = 0.9
    train.weight_decay = 3e-4  # as L2 in the gradient
    train.clip = 5.0  # largest global norm of the gradient
    train.drop_path = 0.2  # probability at the last epoch, rising linearly from 0
    train.auxiliary_weight = 0.4  # of the auxiliary head's loss; 0: no such head
    train.label_smoothing = 0.0
    train.warmup_epochs = 0  # in which the learning rate rises linearly from 0
    train.average = 0.0  # decay a step of the weights' moving average, which is evaluated; 0: off
    train.accumulate = 1  # parts of a batch whose gradients are added up: less memory

    train.augment = ConfigDict()
    train.augment.crop_padding = 4
    train.augment.flip = True
    train.augment.cutout = 16
    train.augment.resized_crop = 0.0
    train.augment.auto_augment = ""
    train.augment.color_jitter = 0.0
    train.augment.hue = 0.0
    return train


def distance_config() -> ConfigDict:
    """Returns the keys of configs/distance.py, locked.

    A network is a genotype.json, the authors' text, or a handcrafted network's name.
    """
    config = ConfigDict()
    config.task = "distance"
    config.a = ""  # two networks to compare cell by cell,
    config.b = ""
    config.networks = ()  # or any number of them, each with each
    config.scores = ""  # a scores.json of task 'score_operations'; empty: Table 1 of the paper
    return config.lock()


def compare_config() -> ConfigDict:
    """Returns the keys of configs/compare.py, locked."""
    config = ConfigDict()
    config.task = "compare"
    config.runs = ""  # workdirs of at least two runs, separated by commas
    return config.lock()


def import_config() -> ConfigDict:
    """Returns the keys of configs/import.py, locked."""
    config = ConfigDict()
    config.task = "import"
    config.genotype = ""  # the authors' genotype text
    config.checkpoint = (
        ""  # weights of its network: .pth.tar (needs torch), or an .npz; empty: none
    )
    config.reductions = ()  # positions of the reduction cells, as 2,5; empty: those of the text
    return config.lock()


def score_config() -> ConfigDict:
    """Returns the keys of configs/score_operations.py, locked."""
    config = default_config().unlock()
    for key in ("genotype", "weights", "search", "parse", "evaluate", "checkpoint"):
        del config[key]
    config.task = "score_operations"
    del config.data["stream"], config.data["num_workers"]
    config.train.num_cells = 3  # ResNet18's block, this many times
    config.train.channels = 16
    config.train.epochs = 10
    config.train.drop_path = 0.0
    config.train.auxiliary_weight = 0.0
    config.score = ConfigDict()
    config.score.seeds = 4  # trainings of each network, of which the best counts
    config.score.primitives = ()  # to measure; empty: all of the 12
    return config.lock()


def seeds_config() -> ConfigDict:
    """Returns the keys of configs/seeds.py, locked."""
    config = ConfigDict()
    config.task = "seeds"
    config.run = "configs/digits.py"  # the config file to repeat
    config.seeds = (0, 1, 2)
    config.overrides = ()  # of that config, as ('search.epochs=3', 'train.channels=8')
    config.parallel = 0  # runs at a time; 0: one for each GPU, on a CPU two
    return config.lock()


def export_config() -> ConfigDict:
    """Returns the keys of configs/export.py, locked."""
    config = ConfigDict()
    config.task = "export"
    config.run = ""  # workdir of a trained network
    config.output = ""  # the folder to write
    return config.lock()


TASKS = {
    **dict.fromkeys(("pipeline", "search", "train", "evaluate"), default_config),
    "distance": distance_config,
    "compare": compare_config,
    "import": import_config,
    "export": export_config,
    "seeds": seeds_config,
    "score_operations": score_config,
}


def without_augmentation(section: ConfigDict) -> None:
    """Switches all of an `augment` section off: small or upright images are best left alone."""
    for key, value in section.items():
        section[key] = type(value)()


def defaults(task: str) -> dict[str, Any]:
    """Returns {dotted key: default} of the config of a task, as JSON says the values."""
    return flatten(json.loads(to_json(TASKS[task]())))

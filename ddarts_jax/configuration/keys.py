"""Every key of the configs with its default, by task."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax.configuration.detection import detection_config
from ddarts_jax.configuration.values import flatten, to_json
from ddarts_jax.errors import UserError

# The comments beside and above keys, here and in detection.py, are their meanings on the page that lists
# all keys. An option without a comment means what it does where it is first.

# A search in stages (P-DARTS).
_STAGES = {
    "stages": (),  # cells of each supernet before the last; each is searched for `search.epochs`
    "keep": (),  # candidates that an edge has left after each of these stages
    "skip_dropout": (),  # rates of the dropout of skip connections, one for each stage and for the last
}

# The options of each search method, {dotted key: default}.
METHODS: dict[str, dict[str, Any]] = {
    "ddarts": {
        "zero_one_weight": 7.0,  # w_01, weight of the zero-one loss (FairDARTS)
        "ablation": {
            "weight": 0.5,  # w_AB, weight of the ablation loss; 'authors_program' only reports it
            "gradient": "full",  # 'none': report the loss without differentiating it
            # 'full': as in the article; 'stopped': the mean contribution is treated as a constant.
            "mean_gradient": "full",
            # A removed cell's output; 'bypass': its inputs are handed on; 'random': randomly scaled.
            "removal": "zero",
            # Cells of the mean contribution; 'but_last': all but the last, which contributes most.
            "mean_of": "all",
            "relative_to": "mean",  # what the distance from the mean is divided by; or 'spread'
        },
        "share_cells": False,  # one architecture for all normal cells, one for all reduction cells
        "microbatch": 0,  # ablated networks run at once: fewer need less memory; 0: all
        "partial_channels": 1,  # K: one of every K channels is mixed (PC-DARTS)
        "edge_strengths": False,  # gates are multiplied by a softmax over a node's edges (PC-DARTS)
        # Gates are multiplied by the shares of the pairs of a node's edges that hold the edge (DOTS).
        "pairs": False,
        "temperature": 10.0,  # between pairs of edges, in the first epoch with moving alphas
        "final_temperature": 0.02,  # in the last epoch; between them it falls by the same factor
        "auxiliary_skip": 0.0,  # gate of a further skip connection at first, linear to 0 (DARTS-)
        "beta_decay_weight": 0.0,  # of beta decay at the end, linear from 0 (beta-DARTS)
        **_STAGES,
    },
    "darts": {"none": True},  # whether the absence of an edge is a candidate
    "darts_second": {
        "none": True,
        "difference": 0.01,  # of the weights, for the finite difference; 0: exact, at 3 times the cost
    },
    "pc_darts": {"none": True, "partial_channels": 4, "edge_strengths": True},
    "fairdarts": {"zero_one_weight": 5.0},
    "p_darts": {"none": True, "stages": (5, 11), "keep": (5, 3), "skip_dropout": (0.0, 0.4, 0.7)},
    "darts_minus": {"none": True, "auxiliary_skip": 1.0},
    "beta_darts": {"none": False, "beta_decay_weight": 50.0},
    "gdas": {
        "none": True,
        "temperature": 10.0,  # of the softmax at the first epoch
        "final_temperature": 0.1,  # at the end, linear from `temperature`
    },
    "drnas": {
        "none": False,
        "kl_weight": 0.0,  # of the divergence from a flat distribution; 0: the weight decay alone
        "partial_channels": 1,
        "stages": (),
        "keep": (),
        "earlier_partial_channels": (),  # K of the supernets before the last, if they have others
    },
    "dots": {
        "none": True,
        # Of the search for operations, the first stage; `search.epochs` and so on are of the second.
        "operations": {
            "epochs": 30,  # of the first stage
            "warmup_epochs": 15,  # the first of these, in which the alphas are fixed
            "b1": 0.9,  # Adam's decay of the mean, of the alphas
        },
        "temperature": 10.0,  # between pairs of edges, in the first epoch with moving alphas
        "final_temperature": 0.02,  # in the last epoch; between them it falls by the same factor
    },
    "sdarts_rs": {
        "none": False,
        "first_noise": 0.03,  # the largest change of a share that the weights see, at the first epoch
        "noise": 0.3,  # the same at the end, linear from `first_noise`
    },
    "authors_program": {
        "zero_one_weight": 7.0,
        "ablation": {"weight": 0.5, "removal": "random"},
        "microbatch": 0,
    },
    "random": {"candidates": 4},  # random networks, which share the epochs of the search
}


def options_of(search: ConfigDict) -> Mapping[str, Any]:
    """Returns the options of the chosen method, given section `search`; empty if it has none."""
    return search.get(search.method) or {}


# {former dotted key: present one}. Add a line for a renamed key: flags and older runs keep working.
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
    """Returns every key with its default, locked: the D-DARTS search on CIFAR-10."""
    config = ConfigDict()
    config.task = "pipeline"  # 'pipeline' (search, train, evaluate), 'search', 'train', 'evaluate'
    config.seed = 0  # determines all randomness
    # Compute dtype. Parameters, statistics, losses and alphas are always at least float32.
    config.dtype = "auto"  # 'float32', 'bfloat16', 'float64'; 'auto': bfloat16 on accelerators
    # Whose images BatchNorm averages over on several devices: 'global', all, as on one device; 'local',
    # each device's own, which exchanges nothing but gradients and gives other results.
    config.batch_norm = "global"
    # Of tasks 'train' and 'evaluate': a file, text, or a network's name, see docs/zoo.md; empty: the
    # workdir's own.
    config.genotype = ""
    # Of these tasks: a network.npz to evaluate, or to start the training from; empty: the workdir's own.
    config.weights = ""

    config.data = _data()
    config.search = _search()

    config.parse = ConfigDict()  # from alphas to a genotype
    # 'sparse', 'edge', 'complete' (D-DARTS), 'darts' (DARTS), 'pairs' (pairs of edges: DOTS)
    config.parse.method = "sparse"
    # Lowest sigmoid(alpha) of a kept primitive; unused by 'darts' and 'pairs'.
    config.parse.threshold = 0.85
    # Skip connections that a normal cell may have (P-DARTS: 2); -1: any number.
    config.parse.max_skips = -1

    config.train = _train()

    config.evaluate = ConfigDict()
    config.evaluate.batch_sizes = (1, 64)  # for the speed measurement of task 'evaluate'

    config.chunk_steps = 50  # training steps in one compiled scan
    config.profile = False  # trace the second chunk of each phase, print its most expensive scopes
    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 10.0  # between two checkpoints within an epoch
    config.checkpoint.keep_last = 2  # newest checkpoints that are kept
    return config.lock()


def _data() -> ConfigDict:
    """The images."""
    data = ConfigDict()
    data.name = "cifar10"  # 'digits', a TFDS name, 'folder:/path' or 'npz:/path'
    data.data_dir = ""  # where TFDS has prepared its data; empty: its default
    data.batch_size = 128  # images per step, over all devices
    data.image_size = 0  # resize to this many pixels per side; 0: as stored
    # Value of white in images of 16 bits; 0: 255, 1023, 4095, 16383 or 65535, as their brightest needs.
    data.white = 0
    data.images_per_class = 0  # images used per class and split, for a quick trial; 0: all
    data.test_fraction = 0.2  # held out for testing if the dataset has no test split

    data.stream = False  # read from disk during the run, for datasets that do not fit in memory
    data.num_workers = 2  # processes that decode a stream; 0: only the program's own process
    return data


def _search() -> ConfigDict:
    """The search."""
    search = ConfigDict()
    search.epochs = 50  # of the search; of each of its stages, if it has several
    search.warmup_epochs = 0  # the first of these epochs, in which the alphas are fixed
    # The candidate primitives: 'darts' (7), 'dartopti' (12), or names separated by commas.
    search.space = "darts"
    search.num_cells = 8  # N; the cells at N//3 and 2N//3 are reduction cells
    search.num_nodes = 4  # intermediate nodes in a cell
    search.channels = 16  # channels of the first cell; doubled by each reduction cell
    search.stem = "plain"  # 'strided', for large images: a quarter of the size
    search.stem_multiplier = 3  # the plain stem has this many times `channels`
    search.unroll = 1  # edges in one iteration of the scan; 1 compiles fastest
    search.remat = True  # backward passes recompute edges: less memory, more time
    # Images of the architecture split on which the discretisation gap is measured; 0: not measured.
    search.gap_images = 1000

    # What the result keeps: 'alphas', the most probable, see `parse`; 'perturbation', what the supernet
    # misses most on `gap_images` when it is removed (DARTS-PT, without tuning).
    search.selection = "alphas"

    search.start = ConfigDict()  # DARTOpti: start from a network instead of random alphas
    # As config.genotype: 'ResNet18', 'authors/ResNet18', 'DARTS_V2', a genotype file; empty: none.
    # It defines the numbers of cells and nodes and overrides num_cells and num_nodes.
    search.start.genotype = ""
    search.start.strength = 2.0  # alphas of its primitives; those of all others: -strength
    search.start.epochs = 5  # additional epochs at first, with fixed alphas: the weights settle

    search.stop = ConfigDict()  # early stop, when the distance to the start is stable
    search.stop.patience = 5  # consecutive epochs without change; 0: never stop early
    search.stop.from_epoch = 10  # the window's first epoch; those with fixed alphas are counted
    search.stop.tolerance = 1e-3  # distances within this of the present one count as unchanged

    # The search method: 'ddarts', 'darts', 'darts_second', 'pc_darts', 'fairdarts', 'darts_minus',
    # 'beta_darts', 'p_darts', 'gdas', 'drnas', 'dots', 'sdarts_rs', 'authors_program', 'random', or a
    # registered one. It defines relaxation and gradient of the alphas; its options are in its own group.
    search.method = "ddarts"
    for method, options in METHODS.items():
        if options:
            search[method] = ConfigDict(options)

    # Limits of the network that is trained; 0: none. The search is penalised for what it expects to be
    # above them, and the network that it finds keeps to them.
    search.budget = ConfigDict()
    search.budget.params = 0.0  # millions of trainable parameters
    search.budget.macs = 0.0  # millions of multiply-accumulates per image
    # Milliseconds that `table` says for the primitives together. Stem, preprocessing and classifier are
    # not in it.
    search.budget.latency = 0.0
    search.budget.table = ""  # a latency.json of task 'latency', or a file like it
    search.budget.weight = 1.0  # of the penalty, which is the share by which the limit is exceeded

    search.alphas = ConfigDict()  # one Adam per cell
    search.alphas.learning_rate = 3e-3  # at the first step, then a cosine
    search.alphas.final_learning_rate = 1e-3  # at the last step
    # One rate at the first step per distinct cell; empty: `learning_rate` for all. The final rate
    # scales accordingly: rate * final_learning_rate / learning_rate.
    search.alphas.cell_learning_rates = ()
    search.alphas.weight_decay = 1e-3  # as L2 in the gradient
    search.alphas.b1 = 0.9  # Adam's decay of the mean
    search.alphas.b2 = 0.999  # Adam's decay of the mean square
    search.alphas.clip = 0.0  # largest global norm of the gradient of all alphas; 0: any

    search.weights = ConfigDict()  # SGD
    search.weights.learning_rate = 0.005  # at the first step, then a cosine
    search.weights.final_learning_rate = 0.001  # at the last step
    search.weights.momentum = 0.9  # not Nesterov's
    search.weights.weight_decay = 3e-4  # as L2 in the gradient
    search.weights.clip = 5.0  # largest global norm of the gradient; 0: any

    search.augment = _augment()
    return search


def _augment() -> ConfigDict:
    """The augmentation of training images, with that of the search."""
    augment = ConfigDict()
    augment.crop_padding = 4  # pixels of zero padding before a random crop
    augment.flip = True  # flip horizontally, half of the images
    augment.cutout = 0  # side of the erased square in pixels; 0: none
    augment.resized_crop = 0.0  # smallest fraction of the area in a random crop; 0: none
    augment.auto_augment = ""  # AutoAugment policy, 'cifar10' or 'imagenet'; empty: none
    augment.color_jitter = 0.0  # strength, for brightness, contrast and saturation
    augment.hue = 0.0  # largest rotation of the hue, up to 0.5; DARTS on ImageNet: 0.2
    return augment


def _train() -> ConfigDict:
    """The training of the derived network, with the recipe of DARTS."""
    train = ConfigDict()
    train.epochs = 600  # of the training
    train.num_cells = 0  # if more than searched, expand by Algorithm 1; 0: as searched
    train.channels = 36  # channels of the first cell; doubled by each reduction cell
    # 'plain' for small images. For large ones 'half', a half and a quarter of the size (the authors'
    # networks for ImageNet with three reduction cells), or 'strided', a quarter and an eighth (DARTS).
    train.stem = "plain"
    train.stem_multiplier = 3  # the plain stem has this many times `channels`
    train.learning_rate = 0.025  # at the first step, or after the warm-up
    # Then 'cosine' down to `final_learning_rate`, or 'exponential': times `decay` after every epoch,
    # as in DARTS on ImageNet.
    train.schedule = "cosine"
    train.final_learning_rate = 0.0  # at the last step of a cosine
    train.decay = 0.97  # used only by the schedule 'exponential'
    train.momentum = 0.9  # not Nesterov's
    train.weight_decay = 3e-4  # as L2 in the gradient
    train.clip = 5.0  # largest global norm of the gradient; 0: any
    train.drop_path = 0.2  # probability in the last epoch, rising linearly from 0
    train.auxiliary_weight = 0.4  # weight of the auxiliary head's loss; 0: no such head
    train.label_smoothing = 0.0  # fraction of the target that is spread evenly over all classes
    train.warmup_epochs = 0  # first epochs, in which the learning rate rises linearly from 0
    train.average = 0.0  # decay per step of the weights' moving average, which is evaluated; 0: off
    train.accumulate = 1  # parts of a batch with accumulated gradients: more need less memory

    train.augment = _augment()
    train.augment.cutout = 16
    return train


def distance_config() -> ConfigDict:
    """Returns the keys of configs/distance.py, locked.

    A network is a genotype file, text, or a network's name, see genotypes.lookup.find_genotype.
    """
    config = ConfigDict()
    config.task = "distance"  # the only one of this config
    config.a = ""  # a network to compare, cell by cell,
    config.b = ""  # with this one
    config.networks = ()  # instead of two: any number of networks to compare pairwise
    config.scores = ""  # a scores.json of task 'score_operations'; empty: Table 1 of the paper
    return config.lock()


def compare_config() -> ConfigDict:
    """Returns the keys of configs/compare.py, locked."""
    config = ConfigDict()
    config.task = "compare"  # the only one of this config
    config.runs = ""  # workdirs of at least two runs, separated by commas
    return config.lock()


def import_config() -> ConfigDict:
    """Returns the keys of configs/import.py, locked."""
    config = ConfigDict()
    config.task = "import"  # the only one of this config
    config.genotype = ""  # as config.genotype of a run; here mostly the authors' text
    # Weights of its network: .pth.tar (needs torch), or an .npz; empty: none.
    config.checkpoint = ""
    config.reductions = ()  # positions of the reduction cells, such as 2,5; empty: those of the text
    # Stem of a network for large images, which its weights do not tell: 'half' or 'strided'; empty:
    # 'half' where there are three reduction cells or more, else 'strided'.
    config.stem = ""
    return config.lock()


def score_config() -> ConfigDict:
    """Returns the keys of configs/score_operations.py, locked."""
    config = default_config().unlock()
    unused = ("genotype", "weights", "search", "parse", "evaluate", "checkpoint")
    for key in (*unused, "batch_norm", "profile"):
        del config[key]
    config.task = "score_operations"  # the only one of this config
    del config.data["stream"], config.data["num_workers"]
    config.train.num_cells = 3  # ResNet18's block, this many times
    config.train.channels = 16
    config.train.epochs = 10
    config.train.drop_path = 0.0
    config.train.auxiliary_weight = 0.0
    config.score = ConfigDict()
    config.score.seeds = 4  # trainings per network; the best one counts
    config.score.primitives = ()  # primitives to measure; empty: all 12
    return config.lock()


def latency_config() -> ConfigDict:
    """Returns the keys of configs/latency.py, locked."""
    config = ConfigDict()
    config.task = "latency"  # the only one of this config
    config.run = "digits"  # the config of a search, whose trained network's primitives are measured
    config.overrides = ()  # overrides of that config, such as ('train.channels=8',)
    config.dtype = "auto"  # 'float32', 'bfloat16', 'float64'; 'auto': bfloat16 on accelerators
    config.batch_size = 1  # images that a primitive gets at once
    config.repeats = 50  # measurements of each primitive; their median counts
    return config.lock()


def sweep_config() -> ConfigDict:
    """Returns the keys of configs/sweep.py, locked."""
    config = ConfigDict(convert_dict=False)  # a mapping in it is a value, not a group of keys
    config.task = "sweep"  # the only one of this config
    config.run = "configs/digits.py"  # the config file to repeat
    config.seeds = (0, 1, 2)  # a run for each
    config.overrides = ()  # overrides of that config, such as ('search.epochs=3', 'train.channels=8')
    # Keys of that config and the values that they take, {'train.channels': (8, 16)}: every combination is
    # run with every seed.
    config.grid = {}
    config.launcher = "local"  # 'slurm': each run is a job, submitted by submitit
    config.parallel = 0  # runs at a time; 0: one per GPU, two on a CPU, of jobs any number

    config.slurm = ConfigDict(convert_dict=False)  # of a job
    config.slurm.partition = ""  # empty: the cluster's default
    config.slurm.gpus_per_node = 1  # 0: none
    config.slurm.timeout_min = 240  # a run that takes longer is saved, queued again and continued
    # What else submitit's AutoExecutor takes, {'cpus_per_task': 8, 'slurm_account': 'vision'}.
    config.slurm.parameters = {}
    return config.lock()


def seeds_config() -> ConfigDict:
    """Returns the keys of configs/seeds.py, locked: a sweep without a grid."""
    config = sweep_config().unlock()
    config.task = "seeds"  # the only one of this config
    del config.grid
    return config.lock()


def export_config() -> ConfigDict:
    """Returns the keys of configs/export.py, locked."""
    config = ConfigDict()
    config.task = "export"  # the only one of this config
    config.run = ""  # workdir of a trained network or detector
    config.output = ""  # the folder to write
    # data.name of the training's images, if they have moved (a detector: data.root); empty: as it was
    config.data = ""
    config.data_dir = ""  # their data.data_dir, likewise
    return config.lock()


TASKS = {
    **dict.fromkeys(("pipeline", "search", "train", "evaluate"), default_config),
    "distance": distance_config,
    "compare": compare_config,
    "import": import_config,
    "export": export_config,
    "seeds": seeds_config,
    "sweep": sweep_config,
    "score_operations": score_config,
    "latency": latency_config,
    **dict.fromkeys(("detect", "detect_evaluate"), detection_config),
}


def without_augmentation(section: ConfigDict) -> None:
    """Disables everything in an `augment` section, as is best for small or upright images."""
    for key, value in section.items():
        section[key] = type(value)()


def defaults(task: str) -> dict[str, Any]:
    """Returns {dotted key: default} of the config of a task, with the values as JSON gives them."""
    return flatten(json.loads(to_json(TASKS[task]())))

"""The configuration: its keys and defaults, the command line that changes them, and their checks.

A file in configs/ returns `default_config()` with some values changed; flags change more:

    python -m ddarts_jax.main --config configs/digits.py --config.search.epochs=3 --workdir DIR
"""

import argparse
import difflib
import json
import logging
import math
import os
import runpy
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces

# The options of each search method, {dotted key: default}.
METHODS: dict[str, dict[str, Any]] = {
    "ddarts": {
        "zero_one_weight": 7.0,  # w_01, weight of the zero-one loss (FairDARTS)
        "ablation": {
            "weight": 0.5,  # w_AB, weight of the ablation loss
            "gradient": "full",  # 'none': report the loss, differentiate nothing
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

    config.data = ConfigDict()
    config.data.name = "cifar10"  # 'digits', a TFDS name, 'folder:/path' or 'npz:/path'
    config.data.data_dir = ""  # where TFDS has prepared its data; empty: its default
    config.data.batch_size = 128  # images a step, on all devices together
    config.data.image_size = 0  # pixels a side, resized to; 0: as stored
    config.data.images_per_class = 0  # used of each split, for a quick trial; 0: all
    config.data.test_fraction = 0.2  # held out for the test where the data bring no test split

    config.data.stream = False  # from disk while it runs, for sets that do not fit into memory
    config.data.num_workers = 2  # processes that decode a stream; 0: none but the program's own

    config.search = ConfigDict()
    config.search.epochs = 50
    # The candidate primitives: 'darts' (7), 'dartopti' (12), or names separated by commas.
    config.search.space = "darts"
    config.search.num_cells = 8  # N; the cells at N//3 and 2N//3 are reduction cells
    config.search.num_nodes = 4  # intermediate nodes in a cell
    config.search.channels = 16  # of the first cell; doubled by each reduction cell
    config.search.stem = "plain"  # 'strided', for large images: a quarter of the size
    config.search.stem_multiplier = 3  # the plain stem has this many times `channels`
    config.search.unroll = 1  # edges in one iteration of the scan; 1 compiles fastest
    config.search.remat = True  # backward passes compute edges again: less memory, more time
    # Images of the architecture split on which the discretisation gap is measured; 0: not measured.
    config.search.gap_images = 1000

    config.search.start = ConfigDict()  # DARTOpti: from a network in place of random alphas
    # 'ResNet18', 'ResNet50', 'Xception', 'InceptionV4', 'authors/...', or a genotype's file. It says
    # how many cells and nodes there are, whatever num_cells and num_nodes say; empty: none.
    config.search.start.genotype = ""
    config.search.start.strength = 2.0  # alphas of its primitives; those of all others: -strength
    config.search.start.epochs = 5  # before the others, with alphas fixed: the weights settle

    config.search.stop = ConfigDict()  # early, when the distance to the start is stable
    config.search.stop.patience = 5  # epochs in a row without change; 0: never
    config.search.stop.from_epoch = 10  # the first that counts, epochs with fixed alphas aside
    config.search.stop.tolerance = 1e-3  # largest change between two epochs that counts as none

    # Which architectures there are and what their alphas follow: 'ddarts', 'darts', 'fairdarts',
    # 'authors_program', 'random', or one that is registered. Options of a method are in its own group.
    config.search.method = "ddarts"
    for method, options in METHODS.items():
        if options:
            config.search[method] = ConfigDict(options)

    config.search.alphas = ConfigDict()  # Adam, one for each cell
    config.search.alphas.learning_rate = 3e-3  # at the first step, cosine from there
    config.search.alphas.final_learning_rate = 1e-3  # at the last step
    # One rate at the first step for each distinct cell; empty: `learning_rate` for all. The last
    # rate scales alike: rate * final_learning_rate / learning_rate.
    config.search.alphas.cell_learning_rates = ()
    config.search.alphas.weight_decay = 1e-3  # as L2 in the gradient
    config.search.alphas.b1 = 0.9
    config.search.alphas.b2 = 0.999

    config.search.weights = ConfigDict()  # SGD
    config.search.weights.learning_rate = 0.005  # at the first step, cosine from there
    config.search.weights.final_learning_rate = 0.001  # at the last step
    config.search.weights.momentum = 0.9
    config.search.weights.weight_decay = 3e-4  # as L2 in the gradient
    config.search.weights.clip = 5.0  # largest global norm of the gradient

    config.search.augment = ConfigDict()
    config.search.augment.crop_padding = 4  # pixels of zeros around the image before a random crop
    config.search.augment.flip = True  # left to right, half of the images
    config.search.augment.cutout = 0  # pixels a side of the erased square; 0: none
    config.search.augment.resized_crop = 0.0  # least share of the area of a random crop; 0: none
    config.search.augment.auto_augment = ""  # policy 'cifar10' or 'imagenet' of AutoAugment
    config.search.augment.color_jitter = 0.0  # of brightness, contrast and saturation

    config.parse = ConfigDict()  # from alphas to a genotype
    config.parse.method = "sparse"  # 'sparse', 'edge', 'complete' (D-DARTS), 'darts' (DARTS)
    config.parse.threshold = 0.85  # least sigmoid(alpha) of a kept primitive; 'darts' has none

    config.train = ConfigDict()  # of the derived network, as DARTS trains its own
    config.train.epochs = 600
    config.train.num_cells = 0  # more than searched: expanded by Algorithm 1; 0: as searched
    config.train.channels = 36
    config.train.stem = "plain"  # 'strided', for large images: a quarter and an eighth of the size
    config.train.stem_multiplier = 3  # the plain stem has this many times `channels`
    config.train.learning_rate = 0.025  # at the first step, cosine from there
    config.train.final_learning_rate = 0.0  # at the last step
    config.train.momentum = 0.9
    config.train.weight_decay = 3e-4  # as L2 in the gradient
    config.train.clip = 5.0  # largest global norm of the gradient
    config.train.drop_path = 0.2  # probability at the last epoch, rising linearly from 0
    config.train.auxiliary_weight = 0.4  # of the auxiliary head's loss; 0: no such head
    config.train.label_smoothing = 0.0
    config.train.warmup_epochs = 0  # in which the learning rate rises linearly from 0
    config.train.average = (
        0.0  # decay a step of the weights' moving average, which is evaluated; 0: off
    )
    config.train.accumulate = 1  # parts of a batch whose gradients are added up: less memory

    config.train.augment = ConfigDict()
    config.train.augment.crop_padding = 4
    config.train.augment.flip = True
    config.train.augment.cutout = 16
    config.train.augment.resized_crop = 0.0
    config.train.augment.auto_augment = ""
    config.train.augment.color_jitter = 0.0

    config.evaluate = ConfigDict()
    config.evaluate.batch_sizes = (1, 64)  # whose speed task 'evaluate' measures

    config.chunk_steps = 50  # training steps in one compiled scan
    config.profile = False  # trace the second chunk of each phase, print its most expensive scopes
    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 10.0  # between two checkpoints inside an epoch
    config.checkpoint.keep_last = 2  # checkpoints kept besides the best
    return config.lock()


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


_TASKS = {
    **dict.fromkeys(("pipeline", "search", "train", "evaluate"), default_config),
    "distance": distance_config,
    "compare": compare_config,
    "import": import_config,
    "export": export_config,
    "seeds": seeds_config,
    "score_operations": score_config,
}

_CHOICES = {
    "search.stem": ("plain", "strided"),
    "train.stem": ("plain", "strided"),
    "dtype": ("auto", "float32", "bfloat16", "float64"),
    "search.augment.auto_augment": ("", "cifar10", "imagenet"),
    "train.augment.auto_augment": ("", "cifar10", "imagenet"),
    "search.ddarts.ablation.gradient": ("full", "none"),
    "search.ddarts.ablation.removal": ("zero", "random"),
    "search.authors_program.ablation.removal": ("zero", "random"),
    "parse.method": ("sparse", "edge", "complete", "darts"),
}

# By key or its last part: the allowed values in words, and their test.
_POSITIVE = ("greater than 0", lambda value: value > 0)
_NOT_NEGATIVE = ("0 or more", lambda value: value >= 0)
_BELOW_ONE = ("at least 0 and less than 1", lambda value: 0 <= value < 1)
_FRACTION = ("from 0 to 1", lambda value: 0 <= value <= 1)
_RANGES = {
    "seed": ("from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    "parallel": _NOT_NEGATIVE,
    "test_fraction": ("greater than 0 and less than 1", lambda value: 0 < value < 1),
    "search.start.epochs": _NOT_NEGATIVE,
    **dict.fromkeys(("batch_size", "epochs", "channels", "stem_multiplier", "unroll"), _POSITIVE),
    **dict.fromkeys(("num_nodes", "clip", "chunk_steps", "keep_last", "score.seeds"), _POSITIVE),
    **dict.fromkeys(("strength", "from_epoch", "candidates"), _POSITIVE),
    **dict.fromkeys(("patience", "tolerance"), _NOT_NEGATIVE),
    "search.num_cells": _POSITIVE,
    "train.num_cells": _NOT_NEGATIVE,
    **dict.fromkeys(
        ("image_size", "images_per_class", "crop_padding", "cutout", "every_minutes"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("learning_rate", "final_learning_rate", "weight_decay"), _NOT_NEGATIVE),
    **dict.fromkeys(("zero_one_weight", "auxiliary_weight"), _NOT_NEGATIVE),
    "weight": _NOT_NEGATIVE,
    **dict.fromkeys(("momentum", "b1", "b2", "drop_path", "label_smoothing"), _BELOW_ONE),
    "average": _BELOW_ONE,
    "accumulate": _POSITIVE,
    **dict.fromkeys(("warmup_epochs", "color_jitter", "num_workers"), _NOT_NEGATIVE),
    **dict.fromkeys(("threshold", "resized_crop"), _FRACTION),
    **dict.fromkeys(("gap_images", "microbatch"), _NOT_NEGATIVE),
}

# Pairs of values that exclude each other, or of which one would be ignored. For each key the values that
# are meant, or _SET: any but the default; then why they exclude each other, and what to do.
_SET = None
_CONFLICTS = (
    (
        {"search.method": ("random",), "search.start.genotype": _SET},
        "a random search starts from nothing; leave search.start.genotype empty, or choose another "
        "search.method",
    ),
    (
        {"search.method": ("random",), "search.alphas.cell_learning_rates": _SET},
        "a random search trains no supernet; leave the rates empty, or choose another search.method",
    ),
    (
        {"search.start.genotype": _SET, "search.ddarts.share_cells": _SET},
        "the start says itself which cells share an architecture; set search.ddarts.share_cells=False, "
        "or leave search.start.genotype empty",
    ),
    (
        {"task": ("pipeline", "search"), "genotype": _SET},
        "a search finds its genotype; set config.task=train to train this one, or begin the search with "
        "it by search.start.genotype",
    ),
    (
        {"task": ("pipeline", "search"), "weights": _SET},
        "the weights of a network that is still to be found cannot be given; set config.task=train or "
        "evaluate, or leave config.weights empty",
    ),
)


def validate(config: ConfigDict) -> None:
    """Checks every value that has a range or a choice, and that no two exclude each other.

    Raises:
      UserError: a value is not allowed; names the key, the value and what is.
    """
    values = flatten(config)
    tasks = tuple(task for task in _TASKS if set(flatten(_TASKS[task]())) <= set(values))
    if config.task not in tasks:
        raise UserError(f"config.task is {config.task!r}; it must be one of {tasks}.")
    for key, value in values.items():
        if value is None:  # which ml_collections allows whatever the type
            raise UserError(
                f"config.{key} is None; give it a value, as its default "
                f"{flatten(_TASKS[config.task]()).get(key)!r}."
            )
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"config.{key} is {value!r}; it must be one of {_CHOICES[key]}.")
        allowed = _RANGES.get(key) or _RANGES.get(key.rpartition(".")[2])
        if allowed and not (math.isfinite(value) and allowed[1](value)):
            raise UserError(f"config.{key} is {value!r}; it must be {allowed[0]}.")
    rates = values.get("search.alphas.cell_learning_rates", ())
    if not all(isinstance(r, int | float) and math.isfinite(r) and r >= 0 for r in rates):
        raise UserError(
            f"config.search.alphas.cell_learning_rates is {rates}; each rate must be 0 or more."
        )
    seeds = values.get("seeds", (0,))
    known = all(isinstance(seed, int) and _RANGES["seed"][1](seed) for seed in seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not known:
        raise UserError(
            f"config.seeds is {seeds}; it must be one or more different numbers "
            f"{_RANGES['seed'][0]}."
        )
    sizes = values.get("evaluate.batch_sizes", ())
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"config.evaluate.batch_sizes is {sizes}; each size must be 1 or more.")
    warmup, epochs = values.get("train.warmup_epochs", 0), values.get("train.epochs", 1)
    if warmup >= epochs:
        raise UserError(
            f"config.train.warmup_epochs is {warmup}; it must be less than config.train.epochs, which "
            f"is {epochs}."
        )
    if "search.space" in values:
        spaces.primitives_of(values["search.space"])
    _check_method(values)
    _refuse_conflicts(values)


def _check_method(values: Mapping[str, Any]) -> None:
    """Raises UserError if there is no such search method, or if another one's options are set."""
    chosen = values.get("search.method")
    if chosen is None:
        return
    if chosen not in METHODS:
        raise UserError(f"config.search.method is {chosen!r}; it must be one of {tuple(METHODS)}.")
    defaults = flatten(default_config())
    for key, value in values.items():
        owner = key.split(".")[1] if key.startswith("search.") else None
        if owner in METHODS and owner != chosen and value != defaults.get(key, value):
            raise UserError(
                f"config.{key} is {value!r}, but config.search.method is {chosen!r}, which does not "
                f"read it: leave it at {defaults[key]!r}, or set config.search.method={owner}."
            )


def _refuse_conflicts(values: Mapping[str, Any]) -> None:
    """Raises UserError if two values {dotted key: value} are a pair of `_CONFLICTS`."""
    defaults = flatten(default_config())

    def counts(key: str, those: Sequence[Any] | None) -> bool:
        if key not in values:
            return False
        return values[key] != defaults[key] if those is _SET else values[key] in those

    for pair, why in _CONFLICTS:
        if all(counts(key, those) for key, those in pair.items()):
            named = " and ".join(f"config.{key} is {values[key]!r}" for key in pair)
            raise UserError(f"{named}: {why}.")


def based_on(file: str, name: str) -> ConfigDict:
    """Returns the configuration of the file `name` that lies beside the config file `file`."""
    return runpy.run_path(str(Path(file).with_name(name)))["get_config"]()


def without_augmentation(section: ConfigDict) -> None:
    """Switches all of an `augment` section off: small or upright images are best left alone."""
    for key, value in section.items():
        section[key] = type(value)()


def parse_flags(argv: Sequence[str]) -> tuple[ConfigDict, str]:
    """Reads the command line.

    Args:
      argv: the program's name and its arguments: `--config FILE`, `--workdir DIR`, and any number
        of overrides `--config.key=value` (a tuple as `'(1, 2)'`).

    Returns:
      The validated, locked configuration and the workdir.

    Raises:
      UserError: the config file cannot be used, a key does not exist (names the nearest one), or a
        value has the wrong type or range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ddarts_jax.main",
        description="D-DARTS: searches, trains and evaluates a network.",
        epilog="Any value of the config is changed by --config.key=value.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a file as in configs/")
    parser.add_argument(
        "--workdir",
        default="",
        metavar="DIR",
        help="where everything is written; an interrupted run in it is continued "
        "(default: runs/<config name>-<time>)",
    )
    arguments, overrides = parser.parse_known_args(list(argv[1:]))
    config = _load(arguments.config)
    overrides = [_renamed(argument) for argument in overrides]
    _check_keys(config, overrides)
    flag_values = flags.FlagValues()
    argv = [argv[0], *overrides]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=flag_values, sys_argv=argv, lock_config=True
        )
        surplus = flag_values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(f"{error}") from error
    if surplus:
        raise UserError(f"Unknown argument {surplus[0]!r}; overrides are --config.key=value.")
    validate(config)
    default = f"runs/{Path(arguments.config).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return config, arguments.workdir or default


def load(name: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Loads a config and changes some of its values.

    Args:
      name: of a config that comes with the package, or a path.
      overrides: {dotted key: value}; `search.space` may be a tuple of names of primitives.

    Returns:
      The validated, locked configuration.

    Raises:
      UserError: the config file cannot be used, a key does not exist (names the nearest one), or a
        value has the wrong type or range.
    """
    config = _load(name)
    for key, value in (overrides or {}).items():
        key = FORMER_NAMES.get(key, key)
        _check_keys(config, [f"--config.{key}"])
        if key == "search.space" and not isinstance(value, str):
            value = ",".join(value)
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise UserError(
                f"config.{key} is {value!r}; it must be of the type of its default, "
                f"{flatten(config)[key]!r}."
            ) from error
    validate(config)
    return config.lock()


def shipped() -> dict[str, Path]:
    """Returns the configs that come with the package, by name."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")  # installed, or in the repository
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def nearest_key(config: ConfigDict, key: str) -> str:
    """Returns the dotted key of `config` (value or group) that looks most like `key`."""

    def likeness(candidate: str) -> float:
        # The last part counts twice: 'serach.epochs' is about epochs, and so is a bare 'epochs'.
        last, wanted = candidate.rpartition(".")[2], key.rpartition(".")[2]
        return _ratio(candidate, key) + _ratio(last, wanted)

    return max(_all_keys(config), key=likeness)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of a nested mapping."""
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping | ConfigDict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Returns 'dotted.key: value in a, value in b' of every key in which two mappings differ."""
    a, b = flatten(a), flatten(b)
    missing = object()

    def show(value: Any) -> str:
        return "absent" if value is missing else repr(value)

    pairs = {key: (a.get(key, missing), b.get(key, missing)) for key in sorted({*a, *b})}
    return [f"{key}: {show(x)}, {show(y)}" for key, (x, y) in pairs.items() if x != y]


def defaults(task: str) -> dict[str, Any]:
    """Returns {dotted key: default} of the config of a task, as JSON says the values."""
    return flatten(json.loads(to_json(_TASKS[task]())))


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns a copy with another seed."""
    copy = config.copy_and_resolve_references()
    copy.seed = seed
    return copy


def to_json(config: ConfigDict) -> str:
    """Returns the configuration as indented JSON with sorted keys."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def save(config: ConfigDict, path: str | os.PathLike) -> None:
    """Writes the configuration to a JSON file."""
    Path(path).write_text(to_json(config))


def _load(name: str | os.PathLike) -> ConfigDict:
    """Runs a config file, named by its path or as in `shipped`, and returns its config."""
    path = str(name)
    if not Path(path).is_file():
        if path not in shipped():
            raise UserError(
                f"No config file {path!r}; the configs that come with the package are "
                f"{', '.join(shipped())}."
            )
        path = str(shipped()[path])
    try:
        config = runpy.run_path(path).get("get_config", lambda: None)()
    except Exception as error:
        raise UserError(_config_file_error(path, error)) from error
    task = config.get("task") if isinstance(config, ConfigDict) else None
    if task not in _TASKS or not set(flatten(_TASKS[task]())) <= set(flatten(config)):
        raise UserError(
            f"Config file {path!r} must define get_config() that returns default_config(), or "
            "that of another task as in configs/, with some values changed."
        )
    return config


def _config_file_error(path: str, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), "?")
    if isinstance(error, AttributeError | KeyError) and error.args:
        # ml_collections adds advice in further lines.
        error = type(error)(str(error.args[0]).splitlines()[0])
    message = f"Config file {path!r} fails in line {line}: {type(error).__name__}: {error}"
    for former, name in FORMER_NAMES.items():
        if isinstance(error, AttributeError | KeyError) and former.split(".")[1] in str(error):
            return f"{message} (config.{former} is now config.{name})"
    return message


def _renamed(argument: str) -> str:
    """Returns an override with today's name of its key."""
    flag, equals, value = argument.partition("=")
    key = flag.removeprefix("--config.")
    if key == flag or key not in FORMER_NAMES:
        return argument
    logging.warning("config.%s is now config.%s", key, FORMER_NAMES[key])
    return f"--config.{FORMER_NAMES[key]}{equals}{value}"


def _check_keys(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Raises UserError unless every flag among `overrides` names a value of the config."""
    for argument in overrides:
        if not argument.startswith("-") or _is_number(argument):
            continue  # the value of the flag before it
        key = argument.partition("=")[0].lstrip("-")
        if not key.startswith("config."):
            raise UserError(f"Unknown flag --{key}; overrides are --config.key=value.")
        key = key.removeprefix("config.")
        if key not in _all_keys(config):
            nearest = nearest_key(config, key)
            raise UserError(f"No key {key!r} in the config; did you mean {nearest!r}?")
        if key not in flatten(config):
            names = ", ".join(k for k in flatten(config) if k.startswith(f"{key}."))
            raise UserError(f"config.{key} is a group of keys; name one of {names}.")


def _all_keys(config: ConfigDict) -> list[str]:
    """Returns the dotted keys of all values and of all groups."""
    keys = list(flatten(config))
    groups = {key[:i] for key in keys for i in range(len(key)) if key[i] == "."}
    return [*keys, *sorted(groups)]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

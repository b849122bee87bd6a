"""Checks of a config's values, individually and in combination."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax.configuration import detection, stages
from ddarts_jax.configuration.keys import METHODS, TASKS, default_config, sweep_config
from ddarts_jax.configuration.values import flatten
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces

_CHOICES = {
    "search.stem": ("plain", "strided"),
    "detector": detection.DETECTORS,
    "backbone.stem": ("plain", "half", "strided"),
    "backbone.norm": ("auto", "frozen", "batch"),
    "search.selection": ("alphas", "perturbation"),
    "train.stem": ("plain", "half", "strided"),
    "stem": ("", "half", "strided"),  # of an import
    "train.schedule": ("cosine", "exponential"),
    "batch_norm": ("global", "local"),
    "dtype": ("auto", "float32", "bfloat16", "float64"),
    "search.augment.auto_augment": ("", "cifar10", "imagenet"),
    "train.augment.auto_augment": ("", "cifar10", "imagenet"),
    "search.ddarts.ablation.gradient": ("full", "none"),
    "search.ddarts.ablation.mean_gradient": ("full", "stopped"),
    "search.ddarts.ablation.removal": ("zero", "bypass", "random"),
    "search.ddarts.ablation.mean_of": ("all", "but_last"),
    "search.ddarts.ablation.relative_to": ("mean", "spread"),
    "search.authors_program.ablation.removal": ("zero", "bypass", "random"),
    "parse.method": ("sparse", "edge", "complete", "darts", "pairs"),
    "launcher": ("local", "slurm"),
}


# Values that are choices of a similar key: why they are none of this one.
_WHY_NOT = {
    (
        "search.stem",
        "half",
    ): ": a supernet has no second stem, and 'strided' already gives its cells the "
    "quarter of the size that they have in a network whose config.train.stem is 'half'"
}


# By key or its last part: the allowed values in words, and a test for them.
_POSITIVE = ("greater than 0", lambda value: value > 0)


_NOT_NEGATIVE = ("0 or more", lambda value: value >= 0)


_BELOW_ONE = ("at least 0 and less than 1", lambda value: 0 <= value < 1)


_FRACTION = ("from 0 to 1", lambda value: 0 <= value <= 1)


_BUDGETS = ("params", "macs", "latency")


_RANGES = {
    "seed": ("from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    "parallel": _NOT_NEGATIVE,
    "slurm.gpus_per_node": _NOT_NEGATIVE,
    "slurm.timeout_min": _POSITIVE,
    "test_fraction": ("greater than 0 and less than 1", lambda value: 0 < value < 1),
    "search.start.epochs": _NOT_NEGATIVE,
    **dict.fromkeys(("batch_size", "epochs", "channels", "stem_multiplier", "unroll"), _POSITIVE),
    **dict.fromkeys(("num_nodes", "chunk_steps", "keep_last", "score.seeds"), _POSITIVE),
    "clip": _NOT_NEGATIVE,
    **dict.fromkeys(("strength", "from_epoch", "candidates"), _POSITIVE),
    **dict.fromkeys(("patience", "tolerance"), _NOT_NEGATIVE),
    "data.white": ("from 0 to 65535", lambda value: 0 <= value <= 65535),
    "search.num_cells": _POSITIVE,
    "parse.max_skips": ("-1 or more", lambda value: value >= -1),
    "train.num_cells": _NOT_NEGATIVE,
    **dict.fromkeys(
        ("image_size", "images_per_class", "crop_padding", "cutout", "every_minutes"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("learning_rate", "final_learning_rate", "weight_decay"), _NOT_NEGATIVE),
    **dict.fromkeys(("zero_one_weight", "auxiliary_weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("beta_decay_weight", "difference", "auxiliary_skip"), _NOT_NEGATIVE),
    "kl_weight": _NOT_NEGATIVE,
    **dict.fromkeys(("partial_channels", "temperature", "final_temperature"), _POSITIVE),
    **dict.fromkeys(("first_noise", "noise"), _NOT_NEGATIVE),
    **dict.fromkeys((f"search.budget.{kind}" for kind in _BUDGETS), _NOT_NEGATIVE),
    "repeats": _POSITIVE,
    "weight": _NOT_NEGATIVE,
    # Of detectors.
    **dict.fromkeys(
        ("fpn.levels", "anchor.scale", "batch_images", "every", "per_level"), _POSITIVE
    ),
    **dict.fromkeys(("max_objects", "long_side", "limit"), _POSITIVE),
    **dict.fromkeys(("frozen_levels", "head.convs", "warmup_steps"), _NOT_NEGATIVE),
    "head.prior": ("greater than 0 and less than 1", lambda value: 0 < value < 1),
    **dict.fromkeys(("test.score", "test.nms", "rpn.least", "rpn.nms"), _FRACTION),
    **dict.fromkeys(("rpn.scale", "roi.width", "roi.finest"), _POSITIVE),
    **dict.fromkeys(("rpn.beta", "roi.beta"), _NOT_NEGATIVE),
    **dict.fromkeys(("rpn.samples", "roi.samples"), ("4 or more", lambda value: value >= 4)),
    **dict.fromkeys(("momentum", "b1", "b2", "drop_path", "label_smoothing"), _BELOW_ONE),
    "average": _BELOW_ONE,
    "decay": ("greater than 0 and at most 1", lambda value: 0 < value <= 1),
    "hue": ("from 0 to 0.5", lambda value: 0 <= value <= 0.5),
    "accumulate": _POSITIVE,
    **dict.fromkeys(("warmup_epochs", "color_jitter", "num_workers"), _NOT_NEGATIVE),
    **dict.fromkeys(("threshold", "resized_crop"), _FRACTION),
    **dict.fromkeys(("gap_images", "microbatch"), _NOT_NEGATIVE),
}


# What the tuples hold.
_NUMBER, _TEXT = ((int, float), "a number"), (str, "a text")
_ELEMENTS = {
    "seeds": (int, "a whole number"),
    "evaluate.batch_sizes": (int, "a whole number"),
    **{
        f"search.{method}.{key}": kind
        for method in ("ddarts", "p_darts", "drnas")
        for key, kind in (
            ("stages", (int, "a whole number")),
            ("keep", (int, "a whole number")),
            ("skip_dropout", _NUMBER),
            ("earlier_partial_channels", (int, "a whole number")),
        )
    },
    "search.alphas.cell_learning_rates": _NUMBER,
    **dict.fromkeys(("networks", "overrides", "score.primitives"), _TEXT),
    **dict.fromkeys(
        ("backbone.levels", "data.short_side", "train.decay_epochs"), (int, "a whole number")
    ),
    "data.canvases": ((tuple, list), "a pair (height, width)"),
}


# Pairs of values that exclude each other, or one of which would be ignored. For each key the values
# concerned, or _SET (any but the default); then why they exclude each other, and what to do.
_SET = None


_CONFLICTS = (
    (
        {"search.method": ("random",), "search.start.genotype": _SET},
        "a random search starts from nothing; leave config.search.start.genotype empty, or choose "
        "another config.search.method",
    ),
    (
        {"search.selection": ("perturbation",), "search.method": ("random",)},
        "a random search has no supernet to remove anything from; set config.search.selection=alphas, "
        "or choose another config.search.method",
    ),
    (
        {
            "search.selection": ("perturbation",),
            "parse.method": ("sparse", "edge", "complete"),
        },
        "a selection by perturbation keeps two edges of each node and has no threshold; set "
        "config.parse.method=darts, or config.search.selection=alphas",
    ),
    (
        {"search.selection": ("perturbation",), "search.gap_images": (0,)},
        "a selection by perturbation needs images to measure on; set config.search.gap_images, or "
        "config.search.selection=alphas",
    ),
    (
        {"search.method": ("random",), "search.alphas.clip": _SET},
        "a random search has no gradient to clip; leave config.search.alphas.clip at 0, or choose "
        "another config.search.method",
    ),
    *(
        (
            {"search.method": ("random", "authors_program"), f"search.budget.{kind}": _SET},
            f"this method knows no budget; leave config.search.budget.{kind} at 0, or choose another "
            "config.search.method",
        )
        for kind in _BUDGETS
    ),
    (
        {"search.budget.latency": _SET, "search.budget.table": ("",)},
        "a latency follows from a table; name one that configs/latency.py has measured in "
        "config.search.budget.table, or set config.search.budget.latency=0",
    ),
    (
        {"search.budget.table": _SET, "search.budget.latency": (0,)},
        "without a limit the table is not read; set config.search.budget.latency, or leave the table "
        "empty",
    ),
    (
        {"search.method": ("random",), "search.warmup_epochs": _SET},
        "a random search has no alphas that could be fixed; set config.search.warmup_epochs=0, or "
        "choose another config.search.method",
    ),
    (
        {"search.method": ("random",), "search.alphas.cell_learning_rates": _SET},
        "a random search does not train a supernet; leave the rates empty, or choose another "
        "config.search.method",
    ),
    (
        {"search.start.genotype": _SET, "search.ddarts.share_cells": _SET},
        "the start itself defines which cells share an architecture; set "
        "config.search.ddarts.share_cells=False, or leave config.search.start.genotype empty",
    ),
    *(
        (
            {f"search.ddarts.{key}": _SET, "search.ddarts.pairs": (False,)},
            "only pairs of edges have a temperature; set config.search.ddarts.pairs=True, or leave it at "
            "its default",
        )
        for key in ("temperature", "final_temperature")
    ),
    (
        {
            "search.ddarts.ablation.gradient": ("none",),
            "search.ddarts.ablation.mean_gradient": ("stopped",),
        },
        "an ablation loss without a gradient has none through the mean either; leave one of them at "
        "'full'",
    ),
    (
        {"task": ("pipeline", "search"), "genotype": _SET},
        "a search finds its own genotype; set config.task=train to train this one, or use "
        "config.search.start.genotype to start the search from it",
    ),
    (
        {"task": ("pipeline", "search"), "weights": _SET},
        "the weights of a network that is still to be found cannot be given; set config.task=train or "
        "evaluate, or leave config.weights empty",
    ),
    (
        {"task": ("detect",), "export": _SET},
        "an exported detector is not trained; set config.task=detect_evaluate, or leave config.export "
        "empty",
    ),
    (
        {"task": ("seeds",), "grid": _SET},
        "several seeds of one config have no grid; leave it empty, or set config.task=sweep",
    ),
    *(
        (
            {"launcher": ("local",), f"slurm.{key}": _SET},
            f"processes on this machine do not use it; leave config.slurm.{key} at its default, or set "
            "config.launcher=slurm",
        )
        for key in ("partition", "gpus_per_node", "timeout_min", "parameters")
    ),
    (
        {"task": ("score_operations",), "train.num_cells": (0,)},
        "the network that is measured needs cells; set config.train.num_cells to 1 or more",
    ),
    (
        {"checkpoint": ("",), "stem": ("half", "strided")},
        "without weights nothing is imported that has a stem; set config.checkpoint, or leave "
        "config.stem empty",
    ),
    (
        {"train.schedule": ("cosine",), "train.decay": _SET},
        "a cosine does not use the decay; leave it at its default, or set "
        "config.train.schedule=exponential",
    ),
    (
        {"train.schedule": ("exponential",), "train.final_learning_rate": _SET},
        "the final rate of an exponential schedule follows from its decay; leave the final rate at 0, "
        "or set config.train.schedule=cosine",
    ),
)


def validate(config: ConfigDict) -> None:
    """Checks every value that has a range or a choice, and that no two values exclude each other.

    Raises:
      UserError: a value is not allowed; the message names the key, the value and the allowed values.
    """
    values = flatten(config)
    tasks = tuple(task for task in TASKS if set(flatten(TASKS[task]())) <= set(values))
    if config.task not in tasks:
        raise UserError(f"config.task is {config.task!r}; it must be one of {tasks}.")
    for key, value in values.items():
        if value is None:  # ml_collections allows it for any type
            raise UserError(
                f"config.{key} is None; give it a value, as its default "
                f"{flatten(TASKS[config.task]()).get(key)!r}."
            )
        if key in _CHOICES and value not in _CHOICES[key]:
            why = _WHY_NOT.get((key, value), "")
            raise UserError(f"config.{key} is {value!r}; it must be one of {_CHOICES[key]}{why}.")
        allowed = _RANGES.get(key) or _RANGES.get(key.rpartition(".")[2])
        if allowed and not (_is_finite(value) and allowed[1](value)):
            raise UserError(f"config.{key} is {value!r}; it must be {allowed[0]}.")
        kind, words = _ELEMENTS.get(key, (object, ""))
        if isinstance(value, tuple | list) and not all(isinstance(each, kind) for each in value):
            raise UserError(f"config.{key} is {value}; each of its values must be {words}.")
    rates = values.get("search.alphas.cell_learning_rates", ())
    if not all(isinstance(r, int | float) and math.isfinite(r) and r >= 0 for r in rates):
        raise UserError(
            f"config.search.alphas.cell_learning_rates is {rates}; each rate must be 0 or more."
        )
    primitives = values.get("score.primitives", ())
    if unknown := set(primitives) - set(spaces.DARTOPTI_PRIMITIVES):
        raise UserError(
            f"config.score.primitives names {', '.join(sorted(unknown))}: use only "
            f"{', '.join(spaces.DARTOPTI_PRIMITIVES)}."
        )
    seeds = values.get("seeds", (0,))
    known = all(isinstance(seed, int) and _RANGES["seed"][1](seed) for seed in seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not known:
        raise UserError(
            f"config.seeds is {seeds}; it must be one or more different numbers "
            f"{_RANGES['seed'][0]}."
        )
    for key, taken in values.get("grid", {}).items():
        if not (isinstance(key, str) and isinstance(taken, tuple | list) and taken):
            raise UserError(
                f"config.grid has {key!r}: {taken!r}; give each key a tuple of one or more values, as "
                "{'train.channels': (8, 16)}."
            )
    detection.check(values)
    sizes = values.get("evaluate.batch_sizes", ())
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"config.evaluate.batch_sizes is {sizes}; each size must be 1 or more.")
    for phase in ("search", "search.dots.operations", "train"):
        warmup, epochs = (
            values.get(f"{phase}.{key}", least)
            for key, least in (("warmup_epochs", 0), ("epochs", 1))
        )
        if warmup >= epochs:
            raise UserError(
                f"config.{phase}.warmup_epochs is {warmup}; it must be less than "
                f"config.{phase}.epochs, which is {epochs}."
            )
    if "search.space" in values:
        spaces.primitives_of(values["search.space"])
    every = detection.detection_config(), sweep_config(), default_config()
    defaults = dict(item for config in every for item in flatten(config).items())
    _check_method(values, defaults)
    stages.check(values)
    _refuse_conflicts(values, defaults)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _check_method(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises UserError if there is no such search method, or if options of another method are set."""
    chosen = values.get("search.method")
    if chosen is None:
        return
    if chosen not in METHODS:
        raise UserError(f"config.search.method is {chosen!r}; it must be one of {tuple(METHODS)}.")
    for key, value in values.items():
        owner = key.split(".")[1] if key.startswith("search.") else None
        if owner in METHODS and owner != chosen and value != defaults.get(key, value):
            raise UserError(
                f"config.{key} is {value!r}, but config.search.method is {chosen!r}, which does not "
                f"use it: leave it at {defaults[key]!r}, or set config.search.method={owner}."
            )


def _conflicts_of_pairs(values: Mapping[str, Any]) -> Sequence[tuple[Mapping[str, Any], str]]:
    """Rows as of `_CONFLICTS`, for a method that compares pairs of edges and for one that does not."""
    method = values.get("search.method")
    option = f"search.{method}.pairs"
    if method != "dots" and not values.get(option):
        instead = f", or config.{option}=True" if option in values else ""
        why = f"nothing compares pairs of edges here; set config.parse.method=darts{instead}"
        return [({"parse.method": ("pairs",)}, why)]
    decided = "what is kept of a node is its best pair of edges; set config."
    others = tuple(each for each in _CHOICES["parse.method"] if each != "pairs")
    alone = "pairs of edges do not start from a network; leave config.search.start.genotype empty"
    once = "an edge has one strength, its own or that of its pairs; set one of them to False"
    pairs = {"search.method": ("dots",)} if method == "dots" else {option: (True,)}
    return [
        (pairs | {"search.selection": ("perturbation",)}, f"{decided}search.selection=alphas"),
        (pairs | {"parse.method": others}, f"{decided}parse.method=pairs"),
        (pairs | {"search.start.genotype": _SET}, alone),
        (pairs | {f"search.{method}.edge_strengths": (True,)}, once),
    ]


def _refuse_conflicts(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises UserError if two values {dotted key: value} are a pair of `_CONFLICTS`."""

    def counts(key: str, those: Sequence[Any] | None) -> bool:
        if key not in values:
            return False
        return values[key] != defaults[key] if those is _SET else values[key] in those

    for pair, why in (*_conflicts_of_pairs(values), *_CONFLICTS):
        if all(counts(key, those) for key, those in pair.items()):
            named = " and ".join(f"config.{key} is {values[key]!r}" for key in pair)
            raise UserError(f"{named}: {why}.")

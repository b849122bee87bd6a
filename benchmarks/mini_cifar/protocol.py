"""What the parts of mini-CIFAR share: methods, factors, results, networks of equal cost."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json

NETWORKS = 24  # random ones, whose accuracies are compared with what a supernet says of them


class Size(NamedTuple):
    """What the same methods run on.

    Attributes:
        config: file of the config.
        results: folder of the results.
        runs: folder of the runs, below the repository's root, where all commands start.
        images: file of the images, as the config has it; None: tensorflow-datasets has them.
        params: of every network that is trained, as nearly as whole channels allow.
        changes: {method: {dotted key: value}}, where this size needs another than `ALL` says.
    """

    config: Path
    results: Path
    runs: Path
    images: Path | None
    params: int
    changes: dict[str, dict[str, Any]]


_HERE, _RUNS = Path(__file__).parent, Path("runs/mini_cifar")
MINI = Size(
    _HERE / "config.py", _HERE / "results", _RUNS, _RUNS / "images.npz", params=40_000, changes={}
)
# The article's, for a GPU. Random search's epochs take by estimate the 23 minutes of the 50 epochs of
# D-DARTS on an H100; PC-DARTS waits for 15 epochs, as published; the parameters are those of DD-1.
FULL = Size(
    _HERE / "full.py",
    _HERE / "results" / "full",
    _RUNS / "full",
    None,
    params=3_300_000,
    changes={
        "random_search": {"search.epochs": 115},
        "pc_darts": {"search.warmup_epochs": 15},
        "ddarts_warm": {"search.warmup_epochs": 5},
        "alphas_slow": {"search.alphas.learning_rate": 0.0015},
        "alphas_fast": {"search.alphas.learning_rate": 0.006},
    },
)
SIZE = MINI  # that of this process


def select(full: bool) -> None:
    """Chooses the size for all that this process does."""
    global SIZE
    SIZE = FULL if full else MINI


class Method(NamedTuple):
    """A way to find a network.

    Attributes:
        title: for tables.
        changes: {dotted key: value} of the config; of a factor, of the config of `BASE`.
    """

    title: str
    changes: dict[str, Any]


# The reference is one network drawn as random search draws its candidates, and what random search draws
# first with the same seed. Random search's epochs take, by estimate, the seconds of a D-DARTS search, not
# counted what compiling its candidates takes; each candidate has as many as a training.
CHANCE = "random"
POOLED = "random_pooled"  # whose max pooling the anatomy of the first networks made worth a test
METHODS = {
    CHANCE: Method("chance", {}),
    POOLED: Method("chance, max pooling for every skip and average", {}),
    "random_search": Method(
        "random search",
        {"search.method": "random", "search.epochs": 60, "search.random.candidates": 5},
    ),
    "darts": Method("DARTS", {"search.method": "darts", "parse.method": "darts"}),
    "fairdarts": Method("FairDARTS", {"search.method": "fairdarts"}),
    "pc_darts": Method(
        "PC-DARTS",
        {"search.method": "pc_darts", "parse.method": "darts", "search.warmup_epochs": 1},
    ),
    "ddarts": Method("D-DARTS", {}),
    "ddarts_warm": Method("D-DARTS, alphas fixed in the first epoch", {"search.warmup_epochs": 1}),
    "ddarts_no_ablation": Method(
        "D-DARTS, no ablation loss", {"search.ddarts.ablation.weight": 0.0}
    ),
    "ddarts_program": Method(
        "the authors' program", {"search.method": "authors_program", "parse.method": "darts"}
    ),
    "ddarts_partial": Method(
        "D-DARTS, partial channels",
        {"search.ddarts.partial_channels": 4, "search.ddarts.edge_strengths": True},
    ),
}

# What of D-DARTS makes it so: one change at a time of this method, with which they are compared. Its
# alphas stand still in the first epoch, as without that no form of the losses decides anything here: that
# change alone is D-DARTS itself, whose results stand in both tables.
BASE = "ddarts_warm"
COMPARED = (BASE, "ddarts")  # the methods in the table of the factors


def _factor(title: str, key: str, value: Any) -> Method:
    return Method(title, {f"search.{key}": value})


_ABLATION = "ddarts.ablation"
FACTORS = {
    "bypass": _factor("a removed cell hands its inputs on", f"{_ABLATION}.removal", "bypass"),
    "but_last": _factor("a mean without the last cell", f"{_ABLATION}.mean_of", "but_last"),
    "mean_stopped": _factor("the mean is a constant", f"{_ABLATION}.mean_gradient", "stopped"),
    "spread": _factor("relative to the spread", f"{_ABLATION}.relative_to", "spread"),
    **{
        f"ablation_{weight:g}": _factor(f"w_AB = {weight:g}", f"{_ABLATION}.weight", weight)
        for weight in (0.0, 0.25, 1.0)  # and 0.5
    },
    **{
        f"zero_one_{weight:g}": _factor(f"w_01 = {weight:g}", "ddarts.zero_one_weight", weight)
        for weight in (0.0, 0.5, 1.0, 3.0)  # and 7
    },
    # At the end the rate is the same for all.
    "alphas_slow": _factor("half the alphas' rate", "alphas.learning_rate", 0.01),
    "alphas_fast": _factor("twice the alphas' rate", "alphas.learning_rate", 0.04),
}
ALL = METHODS | FACTORS


def changes_of(method: str) -> dict[str, Any]:
    """Returns what a key of `ALL` changes in the config of the size, {dotted key: value}."""
    base = changes_of(BASE) if method in FACTORS else {}
    return base | ALL[method].changes | SIZE.changes.get(method, {})


def config_of(method: str, seed: int, changes: dict[str, Any] | None = None) -> ConfigDict:
    """Returns the config of a method.

    Args:
        method: key of `ALL`.
        seed: of all randomness; of one seed all methods see the same halves and the same order of images.
        changes: {dotted key: value} besides.
    """
    return configuration.load(SIZE.config, changes_of(method) | {"seed": seed} | (changes or {}))


def fingerprint() -> str:
    """Returns a hash of what the results have in common, without which they cannot be compared.

    It covers those values that are not defaults, so that a new key of a later version changes nothing.
    """
    defaults = configuration.flatten(configuration.default_config())
    own = configuration.flatten(configuration.load(SIZE.config))
    changed = {key: value for key, value in own.items() if value != defaults[key]}
    text = json.dumps(changed | {"params": SIZE.params}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_current(result: dict) -> bool:
    """Whether a result is of the present protocol, and of the method as it is now."""
    changes = changes_of(result["method"]) if result["method"] in ALL else None
    return (result["protocol"], result["changes"]) == (fingerprint(), changes)


def nearest_channels(params_of: Callable[[int], int]) -> int:
    """Returns the channels with which a network's parameters come nearest to `SIZE.params`.

    Args:
        params_of: `(channels) -> parameters`, which rise; without the auxiliary head.
    """
    fewer, more = 0, params_of(1)
    channels = 1
    while more < SIZE.params:
        channels += 1
        fewer, more = more, params_of(channels)
    return channels - 1 if fewer and SIZE.params - fewer <= more - SIZE.params else channels


def result_file(method: str, seed: int) -> Path:
    """Returns where the result of a method with a seed is, once there is one."""
    folder = SIZE.results / "factors" if method in FACTORS else SIZE.results
    return folder / f"{method}_{seed}.json"


def read_results() -> dict[str, dict[int, dict]]:
    """Reads all results.

    Returns:
        {method: {seed: result}}, in the order of `ALL`; methods without a result are left out.

    Raises:
        UserError: they are not all of the present protocol, or not of the same images.
    """
    paths = sorted([*SIZE.results.glob("*.json"), *SIZE.results.glob("factors/*.json")])
    found = {path: read_json(path, "Result") for path in paths}
    if former := [path for path, result in found.items() if not is_current(result)]:
        raise UserError(f"{former[0]} is of another protocol than the present one: delete it.")
    if len(images := {result["images"] for result in found.values()}) > 1:
        raise UserError(
            f"The results in {SIZE.results} are of different images (checksums "
            f"{', '.join(sorted(images))}), so they cannot be compared: delete those of one."
        )
    grouped = {method: {} for method in ALL}
    for each in found.values():
        grouped[each["method"]][each["seed"]] = each
    return {method: dict(sorted(own.items())) for method, own in grouped.items() if own}

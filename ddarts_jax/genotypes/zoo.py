"""Published networks by name: `zoo.json`, with the source and the exact cost of each.

The file has one network a line. Cells are lists of [primitive, node, source]; `costs` are [parameters,
MACs] by the settings at the top of the file, counted with the authors' programs, without the auxiliary
head. docs/zoo.md is the table for readers.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import two_cells
from ddarts_jax.genotypes.genotype import Genotype


@dataclasses.dataclass(frozen=True)
class Published:
    """What was published of a network.

    Attributes:
        paper: name of the method, authors and year.
        arxiv: number of the paper.
        repository: on GitHub, from which the cells are.
        commit: of the repository.
        file: in the repository.
        licence: of the repository.
        name_there: the network's name in the file, or its file.
        searched_on: data set of the search.
        reported: figures and who reports each: accuracies in per cent, millions of parameters and MACs.
        costs: {setting: (parameters, MACs)}, counted; a setting is {argument of `models.cost.cost`:
            value} and the number of `cells`, see `settings`. Empty where there are no such counts.
    """

    paper: str
    arxiv: str
    repository: str
    commit: str
    file: str
    licence: str
    name_there: str
    searched_on: str
    reported: tuple[Mapping[str, Any], ...]
    costs: Mapping[str, tuple[int, int]]


@functools.cache
def _content() -> dict:
    return json.loads(
        resources.files("ddarts_jax.genotypes").joinpath("zoo.json").read_text("utf-8")
    )


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the names that `load` knows; some networks have two, ours and that of their program."""
    networks = _content()["networks"]
    there = (fields["name_there"] for fields in networks.values() if "normal" in fields)
    return tuple(dict.fromkeys([*networks, *there]))


def settings() -> dict[str, dict]:
    """Returns the settings in which costs were counted, by name.

    Each has the arguments `channels`, `num_classes`, `image_size` and `stem` of `models.cost.cost`,
    and `cells`, the depth; where they are absent, the default and the genotype's own depth.
    """
    return _content()["settings"]


@functools.cache
def load(name: str) -> Genotype:
    """Returns a published network: two shared cells in 8 positions, or the cells of D-DARTS.

    Args:
        name: one of `names`.

    Raises:
        UserError: there is no such network, or a `Genotype` cannot express it.

    Example:
        >>> zoo.load("DARTS_V2").expand(20).num_cells
        20
    """
    key, fields = _fields(name)
    if "genes" in fields:
        genes, reductions = fields["genes"], fields["reductions"]
        nodes = {node for cell in genes for _, node, _ in cell}
        return Genotype(genes, reductions, range(2, max(nodes) + 1))
    try:
        return two_cells.combine(
            *(fields[part] for part in ("normal", "normal_concat", "reduce", "reduce_concat"))
        )
    except UserError as error:
        raise UserError(f"The published network {key} cannot be built here: {error}") from error


def published(name: str) -> Published:
    """Returns the source, the reported figures and the counted costs of a network.

    Args:
        name: one of `names`.

    Raises:
        UserError: there is no such network.
    """
    _, fields = _fields(name)
    repository = _content()["repositories"][fields["repository"]]
    own = ("paper", "arxiv", "repository", "name_there", "searched_on")
    return Published(
        **{key: fields[key] for key in own},
        **repository,
        reported=tuple(fields["reported"]),
        costs={setting: tuple(counts) for setting, counts in fields["costs"].items()},
    )


def _fields(name: str) -> tuple[str, dict]:
    """The key of the network in the file, and what the file has for it."""
    networks = _content()["networks"]
    for key, fields in networks.items():
        if name in (key, fields["name_there"]):
            return key, fields
    raise UserError(f"There is no published network {name!r}: use one of {', '.join(networks)}.")

"""Checks of the options of a search in stages."""

from collections.abc import Mapping
from typing import Any

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import spaces


def check(values: Mapping[str, Any]) -> None:
    """Refuses options of a search in stages that do not fit each other.

    Args:
        values: {dotted key: value} of a config.

    Raises:
        UserError: the message names the key.
    """
    group = f"search.{values.get('search.method')}"
    stages, keep, rates = (
        tuple(values.get(f"{group}.{key}", ())) for key in ("stages", "keep", "skip_dropout")
    )
    depths = (*stages, values.get("search.num_cells", 3)) if stages else ()
    if not all(cells >= 3 for cells in depths):
        raise UserError(
            f"config.{group}.stages is {stages}, before {depths[-1]} cells in the last one: each stage "
            "must have at least 3 cells, of both kinds."
        )
    if len(keep) != len(stages) or len(rates) not in (0, len(stages) + 1):
        raise UserError(
            f"config.{group}.stages, keep and skip_dropout have {len(stages)}, {len(keep)} and "
            f"{len(rates)} values: keep needs one for each stage, skip_dropout one more, or none."
        )
    parts = tuple(values.get(f"{group}.earlier_partial_channels", ()))
    if len(parts) not in (0, len(stages)):
        raise UserError(
            f"config.{group}.earlier_partial_channels is {parts}; it needs one number for each of the "
            f"{len(stages)} stages before the last, or none."
        )
    channels = values.get("search.channels", 0)
    for each in (*parts, values.get(f"{group}.partial_channels", 1)):
        if each < 1 or channels % each:
            raise UserError(
                f"config.{group} mixes one of every {each} channels, but config.search.channels is "
                f"{channels}: it must be a multiple of that."
            )
    if not all(0 <= rate < 1 for rate in rates):
        raise UserError(
            f"config.{group}.skip_dropout is {rates}; each rate must be at least 0 and less than 1."
        )
    individual = not values.get(f"{group}.share_cells", True)
    if stages and individual and values["search.alphas.cell_learning_rates"]:
        raise UserError(
            "config.search.alphas.cell_learning_rates names rates of individual cells, whose number is "
            f"another in each of config.{group}.stages: leave one of them empty."
        )
    if stages and (values["search.start.genotype"] or values["search.selection"] != "alphas"):
        raise UserError(
            f"config.{group}.stages is {stages}, but a search in stages neither starts from a network "
            "nor selects by perturbation: leave config.search.start.genotype empty and "
            "config.search.selection=alphas, or leave the stages empty."
        )
    if stages:
        count = len(spaces.primitives_of(values["search.space"])) + values.get(f"{group}.none", 0)
        if not all(a > b > 0 for a, b in zip((count, *keep), keep)):
            raise UserError(
                f"config.{group}.keep is {keep}; of {count} candidates each stage must leave fewer, and "
                "at least one."
            )

"""Configs that an older version wrote, with the present names of their keys."""

from collections.abc import Mapping
from typing import Any

from ddarts_jax.configuration.keys import FORMER_NAMES, defaults
from ddarts_jax.configuration.values import flatten


def up_to_date(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} of a config, flat or nested, with the present names of its keys."""
    flat = {FORMER_NAMES.get(key, key): value for key, value in flatten(values).items()}
    return _with_none(_with_method(flat))


def _with_none(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a run of DARTS with what it searched before `none` was a candidate.

    Only of a whole config, of which the key of a retained default is one; not of a few flags.
    """
    if flat.get("search.method") == "darts" and {"search.remat", "search.unroll"} <= set(flat):
        return {"search.darts.none": False} | flat
    return flat


def _with_method(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a run older than `search.method`, with that key added.

    The method then followed from five keys; options that it did not use are dropped.
    """
    if "search.method" in flat or "search.relaxation" not in flat:
        return flat
    candidates = flat.pop("search.random", 0)
    accumulated = flat.pop("search.accumulated_gradients", False)
    relaxation = flat.pop("search.relaxation")
    alone = flat.get("search.ddarts.share_cells") and not flat["search.ddarts.ablation.weight"]
    if candidates:
        method, flat["search.random.candidates"] = "random", candidates
    elif accumulated:
        method = "authors_program"
    elif relaxation == "softmax":
        method = "darts"
    else:
        method = "fairdarts" if alone else "ddarts"
    known = defaults("pipeline")
    own, former = f"search.{method}.", "search.ddarts."
    if method != "ddarts":
        renamed = {key.replace(former, own): v for key, v in flat.items() if key.startswith(former)}
        flat = {key: value for key, value in flat.items() if not key.startswith(former)}
        flat |= {key: value for key, value in renamed.items() if key in known}
    return flat | {"search.method": method}

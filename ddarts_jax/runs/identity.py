"""The identity of a run: the values that define it, and the claim of a folder with them.

A folder that contains the state or the results of a run keeps the run's identity in a JSON file. A run
is continued there only if its own identity is the same, so that files of different runs are never mixed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.configuration import differences, flatten
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json

# Keys that do not change the result of a run, except for rounding.
INCIDENTAL = {
    "data.data_dir",
    "data.num_workers",
    "search.unroll",
    "search.remat",
    "search.ddarts.microbatch",
    "search.authors_program.microbatch",
    "search.gap_images",
    "evaluate.batch_sizes",
    "profile",
    "checkpoint.every_minutes",
    "checkpoint.keep_last",
}


def defining(config: ConfigDict, phase: str, num_images: int) -> dict[str, Any]:
    """Returns the settings that identify a phase: its checkpoints are resumed only if they match.

    Args:
        config: the whole config.
        phase: 'search' or 'train', which is also the name of its section.
        num_images: number of images in the training split, on which the length of an epoch depends.
    """
    whole = config.to_dict()
    kept = {key: whole[key] for key in ("seed", "dtype", "data", "chunk_steps", phase)}
    return kept | {"num_images": num_images}


def up_to_date(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} of a config, flat or nested, with the present names of its keys."""
    return _with_method(
        {configuration.FORMER_NAMES.get(key, key): value for key, value in flatten(values).items()}
    )


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
    known = configuration.defaults("pipeline")
    own, former = f"search.{method}.", "search.ddarts."
    if method != "ddarts":
        renamed = {key.replace(former, own): v for key, v in flat.items() if key.startswith(former)}
        flat = {key: value for key, value in flat.items() if not key.startswith(former)}
        flat |= {key: value for key, value in renamed.items() if key in known}
    return flat | {"search.method": method}


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns 'dotted.key: value found, value wanted' for every essential key in which two runs differ.

    Args:
        found: identity or config of the existing run, perhaps of an older version: a missing key has
            its present default.
        wanted: identity or config of the run that is to continue.
    """
    found, wanted = up_to_date(found), flatten(json.loads(json.dumps(wanted)))
    defaults = configuration.defaults(wanted.get("task", "pipeline"))
    found |= {key: defaults[key] for key in defaults if key in wanted and key not in found}
    if "images" not in found:  # an older version did not record which images they were
        wanted.pop("images", None)
    return differences(_essential(found), _essential(wanted))


def claim(path: Path, wanted: Mapping[str, Any], content: str) -> None:
    """Writes the identity of a folder's run, or checks that it is the same.

    Args:
        path: the JSON file; its folder is created if needed.
        wanted: identity of the run.
        content: name of the folder's content in messages, such as "checkpoints".

    Raises:
        UserError: the folder cannot be used, or belongs to another run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, wanted)
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except OSError as error:
        raise UserError(
            f"Cannot keep {content} in {path.parent}: {error}; use another --workdir."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is corrupt; use another --workdir.") from error
    if different := differing(found, wanted):
        raise UserError(
            f"{path.parent} holds {content} of another config (there, here): {'; '.join(different)}. "
            "Use the same values, or another --workdir."
        )


def _essential(flat: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key not in INCIDENTAL}

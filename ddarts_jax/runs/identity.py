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
from ddarts_jax.configuration import differences, flatten, up_to_date
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.runs import layout

# Keys that do not change the result of a run, except for rounding.
INCIDENTAL = {
    "data.data_dir",
    "data.num_workers",
    "search.unroll",
    "search.remat",
    "search.ddarts.microbatch",
    "search.authors_program.microbatch",
    "search.gap_images",
    "search.budget.table",  # what it says for the search is compared, see searching.budget
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
    kept = {
        key: whole[key] for key in ("seed", "dtype", "batch_norm", "data", "chunk_steps", phase)
    }
    return kept | {"num_images": num_images}


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
    for key in ("images", "test_images"):
        if key not in found:  # an older version did not record which images they were
            wanted.pop(key, None)
    if "images" in found and found["images"] == wanted.get(
        "images"
    ):  # the same images, wherever they are today
        found["data.name"] = wanted.get("data.name")
    return differences(_essential(found), _essential(wanted))


def begun(workdir: Path, phase: str) -> bool:
    """Whether a run has a checkpoint of a phase, so that there is something to continue or to lose."""
    folders = [workdir / "checkpoints" / phase]
    if phase == "search":  # of a random search, which trains its candidates
        candidates = workdir / "candidates"
        found = candidates.iterdir() if candidates.is_dir() else ()
        folders += [folder / "checkpoints" / "train" for folder in found]
    return any(map(holds_checkpoints, folders))


def holds_checkpoints(directory: Path) -> bool:
    """Whether there is a finished checkpoint in a directory, intact or corrupt."""
    return directory.is_dir() and any(path.name.isdecimal() for path in directory.iterdir())


def check_phase(workdir: Path, phase: str, wanted: Mapping[str, Any]) -> None:
    """Refuses settings with which a phase of a run cannot be continued, before anything is written.

    Args:
        workdir: of the run; one without a checkpoint of the phase is free.
        phase: "search", "train" or "detect".
        wanted: see `defining`; which images they are is checked elsewhere.

    Raises:
        UserError: the phase began with other settings.
    """
    path = workdir / "checkpoints" / phase / layout.CONFIG
    if not begun(workdir, phase) or not path.is_file():
        return
    found = up_to_date(_read(path))
    asked = flatten(json.loads(json.dumps(wanted))) | {"data.name": found.get("data.name")}
    sections = {key.partition(".")[0] for key in asked}
    _refuse(path, {k: v for k, v in found.items() if k.partition(".")[0] in sections}, asked)


def check_parsing(workdir: Path, parse: Mapping[str, Any]) -> None:
    """Refuses another section `parse` once the network that it gave is being trained, or has been.

    Raises:
        UserError: the training began with another one.
    """
    path = workdir / layout.CONFIG
    if begun(workdir, "train") and begun(workdir, "search") and path.is_file():
        found = {k: v for k, v in up_to_date(_read(path)).items() if k.startswith("parse.")}
        _refuse(path, found, {f"parse.{key}": value for key, value in parse.items()})


def claim(path: Path, wanted: Mapping[str, Any], content: str, *, empty: bool = False) -> None:
    """Writes the identity of a folder's run, or checks that it is the same.

    Args:
        path: the JSON file; its folder is created if needed.
        wanted: identity of the run.
        content: name of the folder's content in messages, such as "checkpoints".
        empty: whether the folder has nothing of a run yet, so that any run may have it.

    Raises:
        UserError: the folder cannot be used, or belongs to another run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if empty or not path.exists():
            write_json(path, wanted)
            return
    except OSError as error:
        raise UserError(
            f"Cannot keep {content} in {path.parent}: {error}; use another --workdir."
        ) from error
    _refuse(path, _read(path), wanted, content)


def _read(path: Path) -> dict[str, Any]:
    """Reads an identity; UserError if it is corrupt."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; use another --workdir.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is corrupt; use another --workdir.") from error
    return found


def _refuse(
    path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], content: str = "checkpoints"
) -> None:
    """Raises UserError where `wanted` is another run than the one with the identity `found`."""
    different = differing(found, wanted)
    if not different:
        return
    advice = "Use the same values, or another --workdir."
    keys = [line.partition(":")[0] for line in different]
    if keys == ["train.epochs"] and path.parts[-3:-1] == ("checkpoints", "train"):
        workdir = path.parents[2]
        network, genotype = workdir / layout.NETWORK, workdir / layout.NETWORK_GENOTYPE
        advice = (
            "Use the same value; a longer training is a new run, which can begin with these weights: "
            f"--workdir=NEW --config.task=train --config.genotype={genotype} "
            f"--config.weights={network}."
        )
    raise UserError(
        f"{path.parent} holds {content} of another config (there, here): {'; '.join(different)}. "
        f"{advice}"
    )


def _essential(flat: dict[str, Any]) -> dict[str, Any]:
    # The images of the gap decide what a selection by perturbation keeps.
    selecting = flat.get("search.selection") == "perturbation"
    incidental = INCIDENTAL - {"search.gap_images"} if selecting else INCIDENTAL
    return {key: value for key, value in flat.items() if key not in incidental}

"""The points of a sweep: their runs, started, continued or skipped, and what these have measured.

A point is a combination of the grid's values. Its runs differ only in the seed, so they have a mean.
"""

import itertools
import json
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import digest, read_json
from ddarts_jax.reports.comparison import Column
from ddarts_jax.runs import facts, identity, layout, metrics
from ddarts_jax.runs.run import Run, read_run
from ddarts_jax.runs.workdir import PHASES, check_apart
from ddarts_jax.tasks import launch

_logger = logging.getLogger(__name__)

_SUMMED_UP = (*PHASES, "detect")  # tasks that write a summary
_PROGRAM = (sys.executable, "-m", "ddarts_jax.main")
# Characters of a value and of a whole name, of a folder, which may have 255 bytes.
_LONGEST_VALUE, _LONGEST_NAME = 40, 160


def _seconds(run: Run) -> float | None:
    """The seconds of all epochs, which may be of several starts and, in a search, of several stages."""
    phases = ("search", "random", "train", "detect")
    rows = [row for phase in phases for row in run.rows_of_all_stages(phase)]
    return sum(row.get("seconds") or 0 for row in rows) if rows else None


MEASURES = (
    Column("test_accuracy", "test accuracy, %", lambda run: run.outcome("test_accuracy"), 100, 2),
    Column("box_ap", "box AP, %", lambda run: run.outcome("box_ap"), 100, 2),
    Column("params", "parameters", lambda run: run.outcome("params")),
    Column("macs", "MACs", lambda run: run.outcome("macs")),
    Column("seconds", "seconds of all epochs", _seconds, digits=1),
    Column("latency", "latency of one image, ms", lambda run: run.latency, digits=2),
)


class Point(NamedTuple):
    """A combination of the grid's values.

    Attributes:
        values: {dotted key of the run's config: value}; empty without a grid.
        folder: name of the folder with its runs, in the workdir of the sweep; empty without a grid.
        runs: {seed: run}; of `run_all` those that have finished.
    """

    values: dict[str, Any]
    folder: str
    runs: dict[int, Run]


def run_all(config, workdir: Path) -> tuple[list[Point], dict[str, str]]:
    """Runs every point with every seed, but skips what has finished; what was interrupted continues.

    Args:
        config: see `configuration.sweep_config`.
        workdir: an existing folder; a run has its workdir in it, `seed_K` in the folder of its point.

    Returns:
        The points with their finished runs, and {name of a run: why it failed}.

    Raises:
        UserError: a run's config cannot be used, or the runs of a point had different data.
        Stopped: a signal ended the task.
    """
    planned = plan(config, workdir)
    everything = [run for _, _, runs in planned for run in runs.values()]
    waiting = [
        run
        for _, wanted, runs in planned
        for seed, run in runs.items()
        if not _finished(run.workdir, configuration.with_seed(wanted, seed))
    ]
    _logger.info(
        "%s: %s, %d runs, %d of them finished",
        *(config.task, config.run, len(everything), len(everything) - len(waiting)),
    )
    failed = launch.run(waiting, config, workdir)
    points = []
    for point, _, runs in planned:
        ended = {seed: run.workdir for seed, run in runs.items() if run.name not in failed}
        _check_data(workdir / point.folder, ended)
        points.append(point._replace(runs={seed: read_run(path) for seed, path in ended.items()}))
    return points, failed


def check_none_failed(failed: Mapping[str, str], total: int) -> None:
    """Raises UserError that names the runs that failed, of `total`, if any did."""
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {total} runs failed ({reasons}): once this is fixed, the same command "
            "with the same --workdir runs only those."
        )


def plan(config, workdir: Path) -> list[tuple[Point, Any, dict[int, launch.Planned]]]:
    """Returns each point without runs, its config with the first seed, and {seed: run to start}.

    Raises:
        UserError: the config of a point cannot be used, or a point is there twice.
    """
    former = configuration.FORMER_NAMES
    grid = {former.get(key, key): taken for key, taken in config.get("grid", {}).items()}
    _check_keys(grid, config.overrides)
    planned = []
    for combination in itertools.product(*grid.values()):
        flags = [f"--config.{override}" for override in config.overrides]
        flags += [f"--config.{key}={_flag(value)}" for key, value in zip(grid, combination)]
        wanted = _parsed([f"--config={config.run}", *flags], config.seeds[0], combination, grid)
        if wanted.task not in _SUMMED_UP:
            raise UserError(
                f"config.run={config.run} is of task {wanted.task!r}, whose runs have no summary to "
                f"compare: name a config of one of the tasks {', '.join(_SUMMED_UP)}."
            )
        flat = configuration.flatten(wanted)
        values = {key: flat[key] for key in grid}
        folder = folder_name(values) if grid else ""
        runs = {}
        for seed in config.seeds:
            place = workdir / folder / f"seed_{seed}"
            own = f"--config={config.run}", f"--workdir={place}", *flags, f"--config.seed={seed}"
            runs[seed] = launch.Planned(f"{folder} seed {seed}".strip(), place, _PROGRAM + own)
        planned.append((Point(values, folder, {}), wanted, runs))
    folders = [point.folder for point, _, _ in planned]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(
            f"config.grid has the point {twice[0]} twice: give each value of a key once."
        )
    return planned


def _check_keys(grid: Mapping[str, Any], overrides: tuple[str, ...]) -> None:
    """Refuses keys of the grid or of the overrides that something else sets."""
    former = configuration.FORMER_NAMES
    set_by_all = {override.partition("=")[0].strip() for override in overrides}
    for key, taken in (("grid", set(grid)), ("overrides", set_by_all)):
        if "seed" in taken:
            raise UserError(f"config.{key} has the key 'seed': name the seeds in config.seeds.")
    if both := sorted({former.get(key, key) for key in set_by_all} & set(grid)):
        raise UserError(
            f"config.grid and config.overrides both set {both[0]}: leave it out of one of them."
        )


def _flag(value: Any) -> str:
    """Returns a value of the grid as a flag has it."""
    value = tuple(value) if isinstance(value, list) else value
    return value if isinstance(value, str) else repr(value)


def _parsed(arguments: list[str], seed: int, combination: tuple, grid: Mapping[str, Any]):
    """Returns the validated config of a point; UserError, which names the point, if it is not valid."""
    try:
        wanted, _ = configuration.parse_flags(["main", *arguments, f"--config.seed={seed}"])
    except UserError as error:
        if not grid:
            raise
        point = ", ".join(f"{key}={value}" for key, value in zip(grid, combination))
        raise UserError(f"config.grid at {point}: {error}") from error
    return wanted


def folder_name(values: Mapping[str, Any]) -> str:
    """Returns the name of a point's folder, as "channels=16+epochs=25".

    It follows from the keys and this point's values alone, so the folders of a sweep stay as they are
    when values are added. A value that no file name could hold, or a long one, is shortened and told
    apart by a hash.

    Args:
        values: {dotted key: value}.
    """
    names = configuration.short_keys(values)
    name = "+".join(f"{names[key]}={_as_name(values[key])}" for key in sorted(values))
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{digest(name)}"


def _as_name(value: Any) -> str:
    text = str(value)
    plain = re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII)
    if plain == text and len(text) <= _LONGEST_VALUE:
        return text
    return f"{plain[-_LONGEST_VALUE:].strip('_')}-{digest(text)}"


def _finished(directory: Path, wanted) -> bool:
    """Whether a run has finished; refuses one of another config."""
    if "data" in wanted:
        check_apart(directory, wanted.data.name)
    if not (directory / layout.SUMMARY).is_file():
        return False
    found = read_json(directory / layout.CONFIG, "Configuration")
    if different := identity.differing(found, json.loads(configuration.to_json(wanted))):
        raise UserError(
            f"{directory} holds a run of another config (there, here): {'; '.join(different)}. "
            "Use another --workdir."
        )
    return True


def _check_data(folder: Path, workdirs: Mapping[int, Path]) -> None:
    """Refuses a mean over runs on different data, which were changed between two starts."""
    found: dict[str, list[int]] = {}
    for seed, workdir in workdirs.items():
        own = facts.of_run(workdir) or {}
        keys = ("train_checksum", "test_checksum", "class_names", "train", "test")
        found.setdefault(json.dumps([own.get(key) for key in keys]), []).append(seed)
    if len(found) > 1:
        apart = "; ".join(f"seed {', '.join(map(str, some))}" for some in found.values())
        raise UserError(
            f"The runs in {folder} had different data ({apart}), so they have no common mean: delete "
            "the folders of the outdated ones, or use another --workdir."
        )


def record(run: Run) -> dict[str, float]:
    """Returns {key of a measure: value} of a finished run."""
    found = {column.key: column.of(run) for column in MEASURES}
    return {key: value for key, value in found.items() if value is not None}


def statistics(runs: Mapping[int, Run]) -> dict[str, dict]:
    """Returns mean, sample standard deviation (None for one run) and n of each measure."""
    found = {}
    for column in MEASURES:
        values = [value for run in runs.values() if (value := column.of(run)) is not None]
        if values:
            mean, spread = metrics.mean_and_spread(values)
            found[column.key] = {"mean": mean, "spread": spread, "n": len(values)}
    return found

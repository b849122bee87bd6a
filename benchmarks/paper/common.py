"""What the paper's experiments share: settings and runs, statistics and verdicts, tables and figures.

An experiment is a dictionary {label: `Setting`} and a function that turns the runs of each into
`Findings` (see `command.experiment`). A setting's runs are in `<--runs>/<its name>/seed_<k>`, and
experiments that need the same runs share them.
"""

import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from ddarts_jax import configuration, main
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype, existing_nodes
from ddarts_jax.reports import comparison, markdown
from ddarts_jax.reports.comparison import Column
from ddarts_jax.reports.palette import COLOURS
from ddarts_jax.runs import facts, identity, metrics
from ddarts_jax.runs.rows import series
from ddarts_jax.runs.run import Run, read_run

CONFIGS = Path(__file__).parents[2] / "configs"
RESULTS = Path(__file__).parent / "results"
COLUMNS = {column.key: column for column in comparison.COLUMNS}

HELD, FAILED, OPEN = "held", "did not hold", "cannot be told"
RULE = (
    "With a spread: mean ± sample standard deviation over n seeds; a search that ends in a cell which "
    "keeps nothing makes no network and has no accuracy. A difference of means counts when Student's t "
    "test (two-sided, pooled variance; against a number of no spread the test of one sample) gives "
    "p < 0.05: beyond the limit that is given with it."
)

Groups = dict[str, list[Run]]


# ---------------------------------------------------------------- settings


@dataclasses.dataclass(frozen=True)
class Setting:
    """A config whose runs have a place.

    Attributes:
        name: of the folder below `--runs`.
        config: but for the seed.
    """

    name: str
    config: ConfigDict

    def but(self, suffix: str, changes: dict[str, Any]) -> "Setting":
        """Returns the setting with other values.

        Args:
            suffix: of the name.
            changes: {dotted key: value}. If nothing differs the setting itself is returned, so that
                its runs serve.
        """
        present = configuration.flatten(self.config)
        if all(present[key] == value for key, value in changes.items()):
            return self
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        return Setting(f"{self.name}_{suffix}", config)


def whole(full: bool) -> Setting:
    """Returns D-DARTS as its config has it: on the digits, or (full) the paper's on CIFAR-10."""
    if not full:
        return Setting("digits", _load("digits.py"))
    config = _load("cifar10_search.py")
    config.train.update(_load("cifar10_train.py").train)
    config.task = "pipeline"
    return Setting("cifar10", config)


def sweep(full: bool) -> Setting:
    """Returns D-DARTS for sweeps over a weight: `whole` if full, else 3 narrow cells on the digits."""
    if full:
        return whole(full)
    small = {"search.num_cells": 3, "search.num_nodes": 2, "search.channels": 4}
    return whole(full).but("small", small)


def baseline(full: bool, name: str) -> Setting:
    """Returns `whole` with the differences of configs/digits_<name>.py from configs/digits.py."""
    plain = configuration.flatten(_load("digits.py"))
    changed = configuration.flatten(_load(f"digits_{name}.py"))
    changes = {key: value for key, value in changed.items() if value != plain[key]}
    return whole(full).but(name, changes)


def dartopti(full: bool, start: str = "ResNet18") -> Setting:
    """Returns the search that starts from a handcrafted network; the digits have only ResNet18's."""
    name = f"{'cifar10' if full else 'digits'}_{start.lower()}"
    config = _load(f"{name}.py")
    if full:
        config.train.augment.update(_load("cifar10_train.py").train.augment)
        config.task = "pipeline"
    return Setting(name, config)


def to_the_end(setting: Setting) -> Setting:
    """Returns the same search without its early stop."""
    return setting.but("all_epochs", {"search.stop.patience": 0})


def _load(name: str) -> ConfigDict:
    return configuration.based_on(str(CONFIGS / name), name)


# ---------------------------------------------------------------- runs


def run_seeds(setting: Setting, root: Path, seeds: int) -> list[Run]:
    """Runs a setting with seeds 0, 1 and so on, and reads what the runs left.

    A run that has ended is not repeated, one that was interrupted continues. A search whose genotype
    makes no network has ended too: such a run has no test accuracy.

    Raises:
        UserError: a folder holds a run of another config; or the run's own.
    """
    runs = []
    for seed in range(seeds):
        workdir = root / setting.name / f"seed_{seed}"
        config = configuration.with_seed(setting.config, seed)
        if not has_ended(workdir, config):
            print(f"--- {workdir}", flush=True)
            try:
                main.run(config, workdir)
            except UserError as error:
                if not _without_network(workdir):
                    raise
                print(f"--- {workdir} ends without a network: {error}", flush=True)
        runs.append(read_run(workdir))
    return runs


def has_ended(workdir: Path, config: ConfigDict) -> bool:
    """Returns whether nothing is left to do in `workdir`.

    Raises:
        UserError: it holds a run of another config.
    """
    if not (workdir / "config.json").exists():
        return False
    wanted = json.loads(configuration.to_json(config))
    if different := identity.differing(read_run(workdir).config, wanted):
        raise UserError(
            f"{workdir} holds a run of another config (there, here): {'; '.join(different)}. Name "
            "another folder by --runs."
        )
    return (workdir / "summary.json").exists() or _without_network(workdir)


def _without_network(workdir: Path) -> bool:
    """Returns whether the search has ended with a cell through which nothing passes."""
    path = workdir / "genotype.json"
    return path.exists() and any(
        existing_nodes(cell) <= {0, 1} for cell in Genotype.load(path).cells
    )


# ---------------------------------------------------------------- numbers and verdicts


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement and what the runs say about it.

    Attributes:
        text: the statement, as goes on after "that".
        verdict: HELD, FAILED or OPEN.
        why: the numbers.
    """

    text: str
    verdict: str
    why: str

    def sentence(self) -> str:
        """Returns the claim and its verdict as a sentence."""
        return f"That {self.text}: **{self.verdict}** at this setting ({self.why})."


def values(runs: list[Run], column: Column) -> list[float]:
    """Returns a number of every run that has it."""
    found = [column.of(run) for run in runs]
    return [value for value in found if value is not None]


def higher(text: str, groups: Groups, a: str, b: str, column: Column) -> Claim:
    """Judges by `RULE` whether group `a` has the higher mean than group `b`."""
    found = [values(groups[g], column) for g in (a, b)]
    said = [f"{g}: {_said(column, groups[g])}" for g in (a, b)]
    why = f"{column.title}, {', '.join(said)}"
    if min(map(len, found)) < 2:
        return Claim(text, OPEN, f"{why}; both groups need two such runs or more")
    difference, limit = difference_and_limit(*found)
    shown = f"{column.scale * difference:+.{column.digits}f}{column.unit}"
    allowed = f"{column.scale * limit:.{column.digits}f}"
    return Claim(text, _verdict(difference, limit), f"{why}; difference {shown}, limit {allowed}")


def difference_and_limit(a: list[float], b: list[float]) -> tuple[float, float]:
    """Returns mean(a) - mean(b), and the size beyond which it counts by `RULE`, of 2 values or more."""
    freedom = len(a) + len(b) - 2
    pooled = sum((len(x) - 1) * statistics.variance(x) for x in (a, b)) / freedom
    error = math.sqrt(pooled * (1 / len(a) + 1 / len(b)))
    return statistics.fmean(a) - statistics.fmean(b), _quantile(freedom) * error


def best(text: str, groups: Groups, favoured: str, column: Column) -> Claim:
    """Judges whether a group is higher than each other: it fails where one of them is higher."""
    others = [g for g in groups if g != favoured]
    claims = {g: higher("", groups, favoured, g, column) for g in others}
    few = [g for g in others if len(values(groups[g], column)) < 2]
    lists = {v: [g for g in others if claims[g].verdict == v] for v in (HELD, OPEN, FAILED)}
    verdict = FAILED if lists[FAILED] else OPEN if lists[OPEN] else HELD
    why = f"{column.title}, {favoured}: {_said(column, groups[favoured])}"
    for kind, words in (
        (HELD, "higher than"),
        (FAILED, "lower than"),
        (OPEN, "no clear difference to"),
    ):
        if named := [g for g in lists[kind] if g not in few]:
            why += f"; {words} {', '.join(named)}"
    if few:
        why += f"; fewer than two runs with such a value: {', '.join(few)}"
    return Claim(text, verdict, why)


def above(text: str, found: list[float], bound: float, name: str) -> Claim:
    """Judges whether the mean exceeds a number that has no spread, by `RULE`."""
    if len(found) < 2:
        return Claim(text, OPEN, f"{len(found)} runs; two or more are needed")
    mean, spread = metrics.mean_and_spread(found)
    limit = _quantile(len(found) - 1) * spread / math.sqrt(len(found))
    why = f"{mean:.3f} ± {spread:.3f}, n = {len(found)}, against {bound:.3f} of {name}; limit {limit:.3f}"
    return Claim(text, _verdict(mean - bound, limit), why)


def in_every_run(text: str, outcomes: list[bool]) -> Claim:
    """Judges whether it is true of all runs; fails if of none, and one run alone tells nothing."""
    why = f"true of {sum(outcomes)} of {len(outcomes)} runs"
    verdict = HELD if all(outcomes) else OPEN if any(outcomes) else FAILED
    return Claim(text, verdict if len(outcomes) > 1 else OPEN, why)


def _quantile(freedom: int) -> float:
    return float(scipy.stats.t.ppf(0.975, freedom))


def _verdict(difference: float, limit: float) -> str:
    if abs(difference) <= limit:
        return OPEN
    return HELD if difference > 0 else FAILED


def _said(column: Column, runs: list[Run]) -> str:
    found = values(runs, column)
    return f"{column.say(found, len(found)) or 'none'}, n = {len(found)}"


# ---------------------------------------------------------------- tables and figures


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        header: of the table.
        rows: of the table.
        numbers: for the JSON file.
        claims: judged.
        notes: sentences below the table: where the paper's values are from, what to keep in mind.
        figure: the picture.
    """

    header: list[str]
    rows: list[list]
    numbers: dict
    claims: list[Claim]
    notes: list[str]
    figure: Figure


def table(
    groups: Groups, columns: list[Column], paper: dict[str, str], title: str
) -> dict[str, Any]:
    """Makes the table of means and spreads next to the paper's values: fields of `Findings`.

    Args:
        groups: one per row.
        columns: our numbers.
        paper: the paper's value by label; where there is none the cell says so.
        title: of the paper's column.
    """
    header = ["", title, "n", *(column.title for column in columns)]
    rows = [
        [
            *(label, paper.get(label, "not given"), len(runs)),
            *(column.say(values(runs, column), len(runs)) or "none" for column in columns),
        ]
        for label, runs in groups.items()
    ]
    numbers = {
        label: {
            "paper": paper.get(label),
            "runs": ["/".join(run.workdir.parts[-2:]) for run in runs],
        }
        | {column.key: _statistics(values(runs, column)) for column in columns}
        for label, runs in groups.items()
    }
    return {"header": header, "rows": rows, "numbers": numbers}


def _statistics(found: list[float]) -> dict:
    mean, spread = metrics.mean_and_spread(found) if found else (None, None)
    return {"mean": mean, "std": spread, "n": len(found), "values": found}


def figure(*labels: tuple[str, str]) -> tuple[Figure, list[Axes]]:
    """Makes an empty figure with axes for each (label of x, label of y)."""
    drawn = Figure(figsize=(5.2 * len(labels), 3.8), facecolor="white", layout="constrained")
    every = drawn.subplots(1, len(labels), squeeze=False)[0]
    for axes, (x, y) in zip(every, labels):
        axes.set(xlabel=x, ylabel=y)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn, list(every)


def draw_curves(axes: Axes, groups: Groups, key: str, scale: float = 100) -> None:
    """Draws a metric of the search over its epochs: mean of the seeds, smallest to largest as a band.

    Where runs ended at different epochs, up to the earliest end.
    """
    styles = zip(COLOURS, itertools.cycle(("-", "--", "-.", ":")))
    for (label, runs), (colour, style) in zip(groups.items(), styles):
        rows = list(zip(*(series(run.search, key) for run in runs)))
        points = [(row["epoch"], v) for row, v in zip(runs[0].search, rows) if None not in v]
        if points:
            epochs, found = [epoch for epoch, _ in points], scale * np.array([v for _, v in points])
            axes.plot(epochs, found.mean(1), style, color=colour, label=label)
            axes.fill_between(epochs, found.min(1), found.max(1), color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)


def draw_values(axes: Axes, places: list[float], groups: Groups, column: Column) -> None:
    """Draws a number of every run as a dot, and a line through the means."""
    found = [(x, values(runs, column)) for x, runs in zip(places, groups.values())]
    found = [(x, column.scale * np.array(y)) for x, y in found if y]
    for x, y in found:
        axes.plot([x] * len(y), y, "o", color=COLOURS[0], mfc="white", ms=4)
    axes.plot([x for x, _ in found], [y.mean() for _, y in found], "-", color=COLOURS[0])
    axes.set_xticks(places)


def write(name: str, title: str, command: str, rule: str, findings: Findings) -> None:
    """Writes `<name>.json`, `.md`, `.svg` and `.png` into `RESULTS`, and prints the second.

    Args:
        name: of the files.
        title: of the experiment.
        command: that repeats it.
        rule: by which the claims were judged.
        findings: what to write.
    """
    RESULTS.mkdir(exist_ok=True)
    versions = facts.versions()
    content = {"title": title, "command": command, "versions": versions, "rule": rule}
    content |= {"claims": [dataclasses.asdict(claim) for claim in findings.claims]}
    write_json(RESULTS / f"{name}.json", content | {"results": findings.numbers})
    text = "\n".join(
        [
            f"# {title}\n\n    {command}\n",
            markdown.table(findings.header, findings.rows),
            "",
            *(f"- {claim.sentence()}" for claim in findings.claims),
            f"\n{' '.join([rule, *findings.notes])}",
            f"\nJAX {versions['jax']}, {versions['devices']} x {versions['device']}.",
            f"\n![{title}]({name}.svg)\n",
        ]
    )
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    # Text stays text. A fixed salt and no date: equal pictures, equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        findings.figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    findings.figure.savefig(RESULTS / f"{name}.png", dpi=150)
    print(text)

"""Comparison of several runs on one page: the task `compare`."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json, write_text
from ddarts_jax.genotypes import distance
from ddarts_jax.reports import charts, compared_curves, markdown, trade_offs
from ddarts_jax.reports.comparability import same_images, told_apart
from ddarts_jax.reports.findings import parameter_free_share
from ddarts_jax.reports.page import Page
from ddarts_jax.runs import identity, layout, rows
from ddarts_jax.runs.metrics import mean_and_spread
from ddarts_jax.runs.run import Run, read_run


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only by their seeds.

    Attributes:
        letter: short name, "A".
        differs: {dotted key: value} of the config values that distinguish the groups.
        runs: {number from 1 on: run}.
    """

    letter: str
    differs: dict[str, Any]
    runs: dict[int, Run]

    @property
    def name(self) -> str:
        """Its distinguishing values, "zero_one_weight=7.0"; keys are whole only if they must be."""
        names = configuration.short_keys(self.differs)
        parts = [f"{names[key]}={_said(value)}" for key, value in self.differs.items()]
        return ", ".join(parts) or "all runs"

    @property
    def label(self) -> str:
        """Name that fits into a legend on a phone."""
        label = f"{self.letter}: {self.name}"
        return label if len(label) <= 34 else f"group {self.letter}"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: a number that a run may have.

    Attributes:
        key: in `comparison.json`.
        title: of the column.
        of: reads it from a run; returns None if the run has none.
        scale: factor that it is multiplied by in the table.
        digits: number of decimals in the table.
        unit: text after the number in the table.
    """

    key: str
    title: str
    of: Callable[[Run], float | None]
    scale: float = 1
    digits: int = 0
    unit: str = ""

    def say(self, values: list[float], runs: int) -> str:
        """Formats the mean, and the sample standard deviation if there are two or more values."""
        if not values:
            return ""
        mean, spread = mean_and_spread(values)
        text = f"{self.scale * mean:,.{self.digits}f}"
        if spread is not None:
            text += f" ± {self.scale * spread:,.{self.digits}f}"
        return text + self.unit + (f" (n = {len(values)})" if len(values) < runs else "")


def _seconds(own: list[dict]) -> float | None:
    return sum(value or 0 for value in rows.series(own, "seconds")) if own else None


COLUMNS = (
    Column("test_accuracy", "test accuracy", lambda run: run.outcome("test_accuracy"), 100, 2, "%"),
    Column(
        "search_accuracy",
        "supernet's accuracy",
        lambda run: rows.last(run.search, "accuracy"),
        scale=100,
        digits=2,
        unit="%",
    ),
    Column(
        "discretisation_gap",
        "discretisation gap",
        lambda run: rows.last(run.search, "discretisation_gap"),
        scale=100,
        digits=2,
        unit="%",
    ),
    Column("decided", "decided", lambda run: rows.last(run.search, "decided"), 100, 1, "%"),
    Column(
        "parameter_free_share",
        "parameter-free",
        lambda run: parameter_free_share(run.network) if run.network else None,
        scale=100,
        digits=1,
        unit="%",
    ),
    Column("params", "parameters", lambda run: run.outcome("params")),
    Column("macs", "MACs", lambda run: run.outcome("macs")),
    Column("latency", "latency", lambda run: run.latency, digits=2, unit=" ms"),
    Column(
        "search_seconds",
        "search time",
        lambda run: _seconds(run.rows_of_all_stages("search") or run.candidates),
        unit=" s",
    ),
    Column("train_seconds", "training time", lambda run: _seconds(run.train), unit=" s"),
)


def run(config, workdir: Path) -> dict:
    """Compares the runs that the config names (see `config.compare_config`).

    Writes `report.html`, `comparison.json` and `comparison.md`, and prints the table of the latter.

    Returns:
        Content of `comparison.json`.

    Raises:
        UserError: fewer than two runs are named, a run is named twice, or one cannot be read.
    """
    names = [name.strip() for name in config.runs.split(",") if name.strip()]
    paths = {Path(name).resolve(): name for name in names}
    if len(paths) < 2:
        raise UserError(
            "Name the workdirs of at least two runs, separated by commas: --config.runs=a,b,c."
        )
    if len(paths) < len(names):
        raise UserError(f"A run is named twice in --config.runs={config.runs}: name each once.")
    runs = [read_run(name) for name in names]
    for found in runs:
        if not found.config:
            raise UserError(f"Run {found.workdir} has no config.json, which would identify it.")
        if found.is_detector:
            raise UserError(
                f"Run {found.workdir} is that of a detector, and only searches and trainings are "
                "compared: its numbers are in its summary.json and report.html."
            )
    groups, matrices = group(runs), _matrices(runs)
    comparison = {
        "comparable": same_images(runs_of(groups)),
        "groups": [_group_record(each) for each in groups],
        "networks": [number for number, found in enumerate(runs, 1) if found.network],
        **matrices,
    }
    header, lines = _table(groups)
    write_json(workdir / "comparison.json", comparison)
    write_text(workdir / "comparison.md", _markdown(header, lines))
    _write_page(workdir / layout.REPORT, groups, runs, header, lines, matrices)
    print(_markdown(header, lines), end="")
    for sentence in [] if comparison["comparable"] else _warnings(groups)[:1]:
        print(sentence)
    print(f"written to {workdir}: report.html, comparison.json, comparison.md")
    return comparison


def write_page(path: Path, runs: list[Run]) -> None:
    """Writes the page on runs of networks, none of them a detector."""
    groups = group(runs)
    _write_page(path, groups, runs, *_table(groups), _matrices(runs))


def _matrices(runs: list[Run]) -> dict[str, list[list[float]]]:
    """Returns both kinds of distances between the networks of the runs that have one."""
    networks = [found.network for found in runs if found.network]
    return {
        name: distance.distance_matrix(networks, None, function).tolist()
        for name, function in (
            ("distances", distance.architecture_distance),
            ("positional_distances", distance.positional_distance),
        )
    }


def group(runs: list[Run]) -> list[Group]:
    """Groups runs whose configs differ only by the seed, in order of appearance.

    A key that a run's config lacks, perhaps from an older version, has its default value.
    """
    defaults = configuration.defaults("pipeline")
    passing = identity.INCIDENTAL | {"seed"}
    configs = [
        {key: value for key, value in (defaults | found.config).items() if key not in passing}
        for found in runs
    ]
    distinct = [c for index, c in enumerate(configs) if c not in configs[:index]]
    keys = sorted({key for c in distinct for key in c})
    differing = [key for key in keys if any(c.get(key) != distinct[0].get(key) for c in distinct)]
    return [
        Group(
            _letter(index),
            {key: own.get(key) for key in differing},
            {number: found for number, found in enumerate(runs, 1) if configs[number - 1] == own},
        )
        for index, own in enumerate(distinct)
    ]


def runs_of(groups: list[Group]) -> dict[int, Run]:
    """Returns {number: run} of all groups, ascending."""
    return dict(sorted(pair for each in groups for pair in each.runs.items()))


def _values(column: Column, group: Group) -> list[float]:
    found = [column.of(run) for run in group.runs.values()]
    return [value for value in found if value is not None]


def _group_record(group: Group) -> dict:
    found = {}
    for column in COLUMNS:
        values = _values(column, group)
        if values:
            mean, spread = mean_and_spread(values)
            found[column.key] = {"mean": mean, "std": spread, "n": len(values)}
    return {
        "group": group.letter,
        "differs": group.differs,
        "runs": [
            {"run": number, "workdir": str(run.workdir), "seed": run.config.get("seed")}
            | {column.key: column.of(run) for column in COLUMNS}
            for number, run in group.runs.items()
        ],
        "statistics": found,
    }


def _table(groups: list[Group]) -> tuple[list[str], list[list]]:
    """Returns header and rows, one per group, without the columns that no run has."""
    present = [column for column in COLUMNS if any(_values(column, each) for each in groups)]
    header = ["group", "what differs", "n", *(column.title for column in present)]
    lines = [
        [
            each.letter,
            each.name,
            len(each.runs),
            *(column.say(_values(column, each), len(each.runs)) for column in present),
        ]
        for each in groups
    ]
    return header, lines


def _markdown(header: list[str], lines: list[list]) -> str:
    note = "Mean ± sample standard deviation over n runs that differ by their seeds."
    return f"{markdown.table(header, lines)}\n\n{note}\n"


def _write_page(path: Path, groups, runs, header, lines, matrices) -> None:
    """Writes the page of the comparison."""
    page = Page(f"{len(runs)} runs compared")
    page.sentences(_findings(groups))
    page.sentences(_warnings(groups), "warning")
    page.table(
        "Groups",
        "Mean ± sample standard deviation over the n runs of a group, which differ by their seeds. "
        "Times are sums over the epochs, of a search in stages over those of all stages, without "
        "compiling.",
        header,
        lines,
        wide=True,
    )
    page.table(
        "Runs",
        "The single runs.",
        ("run", "workdir", "group", "seed", "test accuracy", "parameters"),
        [
            (
                *(number, str(found.workdir), each.letter, found.config.get("seed")),
                _percent(found.outcome("test_accuracy")),
                found.outcome("params"),
            )
            for each in groups
            for number, found in each.runs.items()
        ],
        wide=True,
    )
    trade_offs.add(page, groups)
    page.heading("Curves")
    compared_curves.add(page, groups)
    _add_genotypes(page, runs)
    _add_distances(page, runs, matrices)
    page.write(path)


def _findings(groups: list[Group]) -> list[str]:
    """Returns the first sentences: how the runs form groups, and which group is best."""
    count = sum(len(each.runs) for each in groups)
    if len(groups) == 1:
        sentences = [f"The {count} runs differ only by the seed."]
    else:
        sentences = [
            f"The {count} runs form {len(groups)} groups; within a group only the seed differs."
        ]
    tested = [(each, _values(COLUMNS[0], each)) for each in groups]
    tested = [(each, values) for each, values in tested if values]
    if tested and same_images(runs_of(groups)):
        best, values = max(tested, key=lambda pair: statistics.fmean(pair[1]))
        said = COLUMNS[0].say(values, len(values))
        sentences.append(
            f"The best mean test accuracy is that of group {best.letter} ({best.name}): {said}, "
            f"n = {len(values)}."
        )
    return sentences


def _warnings(groups: list[Group]) -> list[str]:
    """Returns a sentence on every reason to doubt the comparison."""
    sentences = []
    if not same_images(runs_of(groups)):
        sentences.append(
            f"These runs were tested on different images ({told_apart(runs_of(groups))}): their "
            "accuracies and losses cannot be compared, and neither can mean and spread over them."
        )
    single = [each.letter for each in groups if len(each.runs) == 1]
    if single:
        sentences.append(
            f"Group {', '.join(single)} has a single run, so its spread is unknown and a difference to "
            "it may be chance."
        )
    going = [str(n) for each in groups for n, found in each.runs.items() if not found.summary]
    if going:
        sentences.append(f"Not ended yet: run {', '.join(going)}.")
    return sentences


def _add_genotypes(page: Page, runs: list[Run]) -> None:
    networks = {number: run.network for number, run in enumerate(runs, 1) if run.network}
    if not networks:
        return
    page.heading("Genotypes side by side")
    deepest = max(network.num_cells for network in networks.values())
    for position in range(deepest):
        page.cells(
            f"Cell {position}",
            "Cells of the networks found; reduction cells are yellow."
            if position == deepest - 1
            else "",
            [
                (f"run {number}", network, network.cells[position], position in network.reductions)
                for number, network in networks.items()
                if position < network.num_cells
            ],
        )


def _add_distances(page: Page, runs: list[Run], matrices: dict) -> None:
    names = [f"run {number}" for number, run in enumerate(runs, 1) if run.network]
    if len(names) < 2:
        return
    page.heading("Distances between the networks")
    captions = {
        "distances": "The paper's distance: mean over the cells of the Hausdorff distance of edges.",
        "positional_distances": "Positional distance: edge by edge.",
    }
    for name, caption in captions.items():
        page.chart(
            name.replace("_", " ").capitalize(),
            caption,
            charts.figure(
                [
                    go.Heatmap(
                        x=names,
                        y=names,
                        z=matrices[name],
                        texttemplate="%{z:.3f}" if len(names) <= 8 else "",
                        showscale=len(names) > 8,
                    )
                ],
                x="",
                xaxis_type="category",
                yaxis={"type": "category", "autorange": "reversed"},
                hovermode="closest",
            ),
        )


def _said(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _letter(index: int) -> str:
    """Returns A to Z, then A1, B1 and so on."""
    turn, place = divmod(index, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")

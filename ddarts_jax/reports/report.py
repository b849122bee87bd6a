"""The report of a run as one page, `report.html` in its workdir.

Everything comes from the files of the workdir: the report of a run that is still running, was
interrupted or has only one phase shows the files that exist.
"""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.effect import unread_cells
from ddarts_jax.genotypes.spaces import STRENGTH
from ddarts_jax.reports import charts, detections, slide
from ddarts_jax.reports.findings import duration, findings, warnings
from ddarts_jax.reports.page import Page
from ddarts_jax.reports.palette import COLOURS
from ddarts_jax.runs import board, layout, rows
from ddarts_jax.runs.run import Run, read_run

_logger = logging.getLogger(__name__)


def write(workdir: str | Path) -> Path:
    """Writes `report.html` into the workdir of a run, finished or not.

    Returns:
        The path of the page.

    Raises:
        UserError: see `read_run`.
    """
    return _write(read_run(workdir))


def _write(run: Run) -> Path:
    """Writes the page of a run; returns its path."""
    page = Page(
        f"{run.name}: {run.config.get('task', 'run')} on {run.config.get('data.name', '?')}"
    )
    page.sentences(findings(run))
    page.sentences(warnings(run), "warning")
    _add_network(page, run)
    for phase, title in (
        ("search", "Search"),
        ("random", "Random search"),
        ("train", "Training of the network"),
        ("detect", "Detector"),
    ):
        if run.rows(phase):
            page.heading(title)
            for chart, figure in charts.of_phase(run, phase):
                page.chart(chart.title, chart.caption, figure)
            if unknown := rows.unknown(run.rows(phase)):
                page.sentences([f"Not in the table of metrics: {', '.join(unknown)}."], "note")
            if phase == "search":
                page.chart("Share of each primitive", _SHARES, charts.of_shares(run.genotypes))
            if phase == "train":
                _add_classes(page, run)
    if run.detection:
        detections.add(page, run)
    _add_cost(page, run)
    _add_settings(page, run)
    path = run.workdir / layout.REPORT
    page.write(path)
    return path


class Live:
    """Keeps the report of a running run up to date without slowing it down.

    Writing takes up to a second, in which the device waits, so `update` skips a page that would
    follow too soon on the last one. An error becomes one warning in the log: a run is worth more than
    its report.
    """

    def __init__(
        self,
        workdir: str | Path,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares; the first `update` writes.

        Args:
            workdir: of the run.
            every: least seconds from the end of one writing to the beginning of the next.
            clock: returns the present time in seconds.
        """
        self._workdir, self._every, self._clock = Path(workdir), every, clock
        self._due = -math.inf
        self._failed = False

    def update(self) -> None:
        """Writes the report, unless the last one is recent or an earlier one failed."""
        if self._clock() >= self._due and not self._failed:
            self._write()

    def close(self) -> None:
        """Writes the report of the ended or interrupted run; for an ended one also what sums it up."""
        self._write(_sum_up)

    def _write(self, further: Callable[[Run], None] = lambda run: None) -> None:
        try:
            run = read_run(self._workdir)
            _write(run)
            further(run)
        except Exception as error:
            if not self._failed:
                reason = error if isinstance(error, UserError) else repr(error)
                _logger.warning("no report of %s: %s", self._workdir, reason)
            self._failed = True
        self._due = self._clock() + self._every


def _sum_up(run: Run) -> None:
    """Writes the slide of an ended run, and for TensorBoard its settings, results and pictures."""
    if not run.summary:
        return
    workdir = run.workdir
    genotype = workdir / "genotype.png"
    if run.network and genotype.is_file():  # a detector has none
        slide.draw(run, genotype, workdir / layout.SLIDE)
    numbers = {key: rows.number(value) for key, value in run.summary.items()}
    results = {key: value for key, value in numbers.items() if value is not None}
    pictures = [*sorted(workdir.glob("*.png")), *sorted(workdir.glob("pictures/*.png"))]
    board.write_outcome(workdir / "tensorboard" / "result", run.config, results, pictures)


_CELLS = (
    "Each arrow is a kept primitive, drawn as wide as its probability if that is known; faint arrows "
    "lead to the cell's output. k-2 and k-1 are the outputs of the two previous cells; a node without "
    "inputs is left out. Reduction cells are yellow. In D-DARTS every cell has its own genotype."
)
_SHARES = (
    "Share of the primitives that the parsed genotype keeps in all its distinct cells. Above the dashed "
    "line parameter-free primitives (pools, skip connections; at the bottom) have taken over."
)


# How the picture of the alphas shows them, where it is not by a softmax over the edge.
_RELAXED = {
    "sigmoid": "sigmoid(alpha)",
    "groups": "softmax(alpha) over those without weights, or over those with weights,",
}


def _add_network(page: Page, run: Run) -> None:
    """Adds the search's cells by epoch, and the network's cells if they are others."""
    page.heading("Backbone" if run.is_detector else "Network")
    edge = f" {STRENGTH!r} is the strength of the edge." if STRENGTH in run.columns else ""
    if edge and run.parsing.get("method") == "pairs":
        # At the low temperature of the last epochs nearly all of them would be 0 or 1.
        edge = f"{edge[:-1]}, among pairs of edges at a temperature of 1."
    if run.newest:
        page.settling(
            "Genotype parsed from the alphas after each epoch. " + _CELLS,
            f"{_RELAXED.get(run.relaxation, 'softmax(alpha)')} of every candidate, from 0 (white) to 1 "
            "(dark); kept candidates are framed. Rows are edges, source → node."
            + (" The zero-one loss pushes towards 0 and 1." if run.relaxation == "sigmoid" else "")
            + edge,
            run.genotypes,
            run.probabilities,
            run.columns,
        )
    if run.network and run.network != run.newest:
        unread = () if run.is_detector else unread_cells(run.network)
        page.cells(
            "Network that is trained" if run.newest else "Cells",
            "The network's cells in order. " + _CELLS,
            [
                (f"cell {position}", run.network, cell, position in run.network.reductions)
                for position, cell in enumerate(run.network.cells)
                if position not in unread
            ],
        )
    if not run.network:
        page.sentences(["The workdir holds no genotype yet."], "note")


def _add_classes(page: Page, run: Run) -> None:
    """Adds the accuracy of each class, from the evaluation of the trained network."""
    classes = run.evaluation.get("classes")
    if not isinstance(classes, dict):
        return
    accuracies = [
        rows.number(found.get("accuracy")) if isinstance(found, dict) else None
        for found in classes.values()
    ]
    page.chart(
        "Accuracy by class",
        "Accuracy of the trained network on the test images.",
        charts.figure(
            [go.Bar(x=list(classes), y=accuracies, marker_color=COLOURS[0])],
            unit="fraction",
            x="class",
            y="accuracy",
            xaxis_type="category",
            hovermode="closest",
        ),
    )
    confusion = run.evaluation.get("confusion")
    if isinstance(confusion, list) and [
        _numbers(row) == row and len(row) == len(classes) for row in confusion
    ] == [True] * len(classes):
        page.chart(
            "Confusion matrix",
            "Test images of each class (row) by the network's answer (column), as shares of the class.",
            charts.of_confusion(confusion, list(classes)),
        )


def _add_cost(page: Page, run: Run) -> None:
    """Adds what network and phases cost: parameters, MACs, time, speed."""
    totals = [run.outcome(key) for key in ("params", "macs")]
    times = [
        (name, len(own), duration(sum(v or 0 for v in rows.series(own, "seconds"))))
        for name, phase in (
            ("search", "search"),
            ("random search", "random"),
            ("training", "train"),
            ("detector", "detect"),
        )
        if (own := run.rows_of_all_stages(phase))
    ]
    if None in totals and not times:
        return
    page.heading("Cost")
    if None not in totals:
        page.table(
            "Parameters and MACs",
            "Cost for one image, of a detector's largest canvas; a MAC is a multiplication with an "
            "addition.",
            ("part", "kind", "parameters", "MACs"),
            _parts(run, totals),
        )
    page.table(
        "Time",
        "Sum over the epochs, of a search in stages over those of all stages, without compiling; a "
        "random search counts its candidates instead.",
        ("phase", "epochs", "time"),
        times,
    )
    speed = run.evaluation.get("speed")
    if isinstance(speed, list):
        keys = ("batch_size", "milliseconds", "images_per_second")
        found = [[rows.number(row.get(k)) for k in keys] for row in speed if isinstance(row, dict)]
        page.table(
            "Speed of the network",
            "Forward pass of the trained network on this device.",
            ("images at once", "milliseconds", "images per second"),
            [[None if v is None else round(v, 2) for v in row] for row in found],
        )


def _parts(run: Run, totals: list[float]) -> list[tuple]:
    """Returns the rows of the cost table: the parts whose costs are known, the rest, the sum."""
    own = [run.summary.get(key) for key in ("params_by_part", "macs_by_part")]  # of a detector
    if all(isinstance(part, dict) for part in own):
        counts = [
            (name, "", *(rows.number(part.get(name)) for part in own)) for name in own[0] | own[1]
        ]
        return [*counts, ("detector", "", *totals)]
    parts = [_numbers(run.evaluation.get(key)) for key in ("cell_params", "cell_macs")]
    found = []
    if run.network and all(len(part) == run.network.num_cells for part in parts):
        for position, cost in enumerate(zip(*parts)):
            kind = "reduction" if position in run.network.reductions else "normal"
            found.append((f"cell {position}", kind, *cost))
        rest = (total - sum(part) for total, part in zip(totals, parts))
        found.append(("stem and classifier", "", *rest))
    return [*found, ("network", "", *totals)]


def _add_settings(page: Page, run: Run) -> None:
    """Adds versions and config, the values that are not the default in bold."""
    page.heading("Settings")
    page.table(
        "Versions",
        "Software and devices that the run used.",
        ("part", "version"),
        [(key, str(value)) for key, value in configuration.flatten(run.versions).items()],
    )
    defaults = configuration.defaults("detect" if run.is_detector else "pipeline")
    page.folded(
        "Config (bold: not the default)",
        [
            (key, value, key in defaults and value != defaults[key])
            for key, value in sorted(run.config.items())
        ],
    )


def _numbers(values: Any) -> list[float]:
    """Returns a list of numbers as it is, and an empty list for anything else."""
    is_list = isinstance(values, list) and None not in map(rows.number, values)
    return values if is_list else []

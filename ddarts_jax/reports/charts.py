"""Charts of a run, by the table of metrics."""

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.reports import drawing
from ddarts_jax.reports.findings import PARAMETER_FREE, shares
from ddarts_jax.reports.page import COLOURS, Page, cell_names, line, reduction_cells
from ddarts_jax.runs import rows
from ddarts_jax.runs.rows import CHARTS, Chart, Metric
from ddarts_jax.runs.run import Run

DASHES = ("solid", "dash", "dot")
AXES = {
    "linear": {},
    "log": {"type": "log"},
    "from zero": {"rangemode": "tozero"},
    "zero to one": {"range": [0, 1.02]},
}
PERCENT = {"tickformat": ".1~%"}


def add_phase(page: Page, run: Run, phase: str) -> None:
    """Adds every chart of a phase, and one for each metric that the table lacks."""
    own = run.rows(phase)
    for chart in CHARTS:
        if chart.phase == phase:
            _add(page, run, chart)
    extra = rows.unknown(own)
    for key in extra:
        metric = Metric(key, key, "", per_cell=bool(rows.num_cells(own, key)))
        _add(page, run, Chart(phase, key, "Not in the table of metrics (runs/rows.py).", (metric,)))
    if extra:
        page.sentences([f"Not in the table of metrics: {', '.join(extra)}."], "note")


def axis(metric: Metric, scale: str = "linear") -> dict:
    """Returns plotly's vertical axis for a metric."""
    return AXES[scale] | (PERCENT if metric.unit == "fraction" else {})


def add_shares(page: Page, genotypes: dict[int, Genotype]) -> None:
    """Adds the stacked shares of the primitives by epoch, parameter-free ones at the bottom."""
    by_epoch = [shares(genotype) for genotype in genotypes.values()]
    styles = drawing.line_styles({primitive for found in by_epoch for primitive in found})
    ordered = sorted(styles, key=lambda primitive: primitive not in PARAMETER_FREE)
    half = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
    page.chart(
        "Share of each primitive",
        "Share of the primitives that the parsed genotype keeps in all its distinct cells. Above the "
        "dashed line parameter-free primitives (pools, skip connections; at the bottom) have taken over.",
        [
            {
                "type": "bar",
                "name": primitive,
                "x": list(genotypes),
                "y": [found.get(primitive) for found in by_epoch],
                "marker": {"color": styles[primitive][0]},
            }
            for primitive in ordered
        ],
        yaxis=PERCENT | {"range": [0, 1]},
        barmode="stack",
        bargap=0.1,
        shapes=[half | {"line": {"color": "#111827", "width": 1.5, "dash": "dash"}}],
    )


def _add(page: Page, run: Run, chart: Chart) -> None:
    traces = []
    for index, metric in enumerate(chart.metrics):
        traces += _curves(run, chart, metric, index)
    page.chart(
        chart.title,
        chart.caption,
        traces,
        yaxis=axis(chart.metrics[0], chart.scale),
        showlegend=len(traces) > 1 or chart.metrics[0].per_cell,
    )


def _curves(run: Run, chart: Chart, metric: Metric, index: int) -> list[dict]:
    """Returns the curve of a metric, or one per distinct cell."""
    own = run.rows(chart.phase)
    epochs = [row["epoch"] for row in own]
    if not metric.per_cell:
        values, dash = rows.series(own, metric.key), DASHES[index % len(DASHES)]
        return [line(metric.label or metric.name, epochs, values, COLOURS[index], dash)]
    count = rows.num_cells(own, metric.key)
    every = [rows.series(own, metric.key, cell) for cell in range(count)]
    names, reductions = [f"cell {cell}" for cell in range(count)], [False] * count
    if run.newest and len(run.newest.genes) == count:
        names, reductions = cell_names(run.newest), reduction_cells(run.newest)
    if count > 1 and all(values == every[0] for values in every):
        every, names, reductions = every[:1], ["every cell"], [False]
    prefix = f"{metric.label}, " if metric.label else ""
    return [
        line(
            prefix + name + (" (reduction)" if reduction else ""),
            epochs,
            values,
            COLOURS[(index + cell) % len(COLOURS)],
            "dash" if reduction else "solid",
        )
        for cell, (name, reduction, values) in enumerate(zip(names, reductions, every))
    ]

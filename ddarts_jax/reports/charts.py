"""Charts as plotly figures: by the table of metrics for one run, and of several runs together."""

import math
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.reports.cells import cell_names, reduction_cells
from ddarts_jax.reports.findings import PARAMETER_FREE, shares
from ddarts_jax.reports.palette import COLOURS, INK, styles
from ddarts_jax.runs import rows
from ddarts_jax.runs.run import Run
from ddarts_jax.runs.table import CHARTS, Chart, Metric

_SCALES = {
    "linear": {},
    "log": {"type": "log"},
    "from zero": {"rangemode": "tozero"},
    "zero to one": {"range": [0, 1.02]},
}
DASHES = ("solid", "dash", "dot")

_AXIS = {"fixedrange": True, "gridcolor": "#e8eaee", "zerolinecolor": "#c9ced6"}
# The look that all charts share; the page holds it once.
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "colorway": COLOURS,
        "margin": {"l": 52, "r": 10, "t": 10, "b": 44},
        "hovermode": "x unified",
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        # Below the chart, from its bottom edge up: plotly makes room for as many rows as there are.
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "tracegroupgap": 0,
        },
        "xaxis": _AXIS | {"zeroline": False, "title": {"standoff": 4}, "automargin": True},
        "yaxis": _AXIS | {"automargin": True},
    },
    data={
        "scatter": [
            {"mode": "lines+markers", "line": {"width": 2}, "marker": {"size": 4}},
        ],
        "heatmap": [
            # No darker than black numbers can be read on.
            {"colorscale": [[0, "#ffffff"], [1, "#6aaed6"]]}
        ],
    },
)


def figure(
    traces: Sequence,
    *,
    unit: str = "",
    scale: str = "linear",
    x: str = "epoch",
    y: str = "",
    **layout,
) -> go.Figure:
    """Returns a chart in the common look.

    Args:
        traces: of plotly; those without a number are left out.
        unit: of the vertical axis, see `table.Metric`.
        scale: of the vertical axis, see `table.Chart`.
        x: title of the horizontal axis; "epoch" and "candidate" have whole numbers only.
        y: title of the vertical axis.
        **layout: of plotly, instead of or in addition to the common one.
    """
    traces = [trace for trace in traces if has_numbers(trace)]
    listed = sum(trace.showlegend is not False for trace in traces)
    found = go.Figure(traces, layout={"template": TEMPLATE})
    found.update_layout(
        height=270 + 20 * math.ceil(listed / 2) * (listed > 1),
        showlegend=listed > 1,
        xaxis_title_text=x,
        yaxis=_vertical(traces, unit, scale) | {"title": {"text": y, "standoff": 6}},
    )
    if x in ("epoch", "candidate"):
        found.update_xaxes(_whole_numbers(traces))
    return found.update_layout(layout)


def curve(name: str, epochs: Iterable[int], values: Iterable[float | None], **more) -> go.Scatter:
    """Returns a curve over epochs; a missing value is a gap."""
    return go.Scatter(name=name, x=list(epochs), y=list(values), **more)


def of_phase(run: Run, phase: str) -> list[tuple[Chart, go.Figure]]:
    """Returns every chart of a phase, and one for each metric that the table lacks."""
    own = run.rows(phase)
    charts = [chart for chart in CHARTS if chart.phase == phase]
    for key in rows.unknown(own):
        metric = Metric(key, key, "", per_cell=bool(rows.num_cells(own, key)))
        charts.append(Chart(phase, key, "Not in the table of metrics (runs/table.py).", (metric,)))
    return [(chart, _of_table(run, chart)) for chart in charts]


def of_shares(genotypes: Mapping[int, Genotype]) -> go.Figure:
    """Returns the stacked shares of the primitives by epoch, parameter-free ones at the bottom."""
    by_epoch = [shares(genotype) for genotype in genotypes.values()]
    look = styles({primitive for found in by_epoch for primitive in found})
    ordered = sorted(look, key=lambda primitive: primitive not in PARAMETER_FREE)
    traces = [
        go.Bar(
            name=primitive,
            x=list(genotypes),
            y=[found.get(primitive) for found in by_epoch],
            marker_color=look[primitive].colour,
        )
        for primitive in ordered
    ]
    found = figure(
        traces, unit="fraction", y="share", barmode="stack", bargap=0.1, yaxis_range=[0, 1]
    )
    return found.add_hline(0.5, line={"color": "#111827", "width": 1.5, "dash": "dash"})


def of_confusion(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> go.Figure:
    """Returns a confusion matrix as shares of each class's images, with the numbers where they fit.

    Args:
        confusion: images of each class (row) by answer (column).
        names: of the classes.
    """
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    few = len(names) <= 20
    trace = go.Heatmap(
        x=list(names),
        y=list(names),
        z=shares,
        text=confusion,
        texttemplate="%{text}" if few else "",
        hovertemplate="class %{y}, answer %{x}: %{text} images, %{z:.1%}<extra></extra>",
        zmin=0,
        zmax=1,
        showscale=not few,
    )
    return figure(
        [trace],
        x="answer",
        xaxis_type="category",
        yaxis={"type": "category", "autorange": "reversed", "title": {"text": "class"}},
        hovermode="closest",
        height=min(720, 130 + 26 * len(names)),
    )


def _of_table(run: Run, chart: Chart) -> go.Figure:
    traces = []
    for index, metric in enumerate(chart.metrics):
        traces += _curves(run, chart, metric, index)
    return figure(
        traces,
        unit=chart.metrics[0].unit,
        scale=chart.scale,
        x="candidate" if chart.phase == "random" else "epoch",
        y=chart.title,
        showlegend=len(chart.metrics) > 1 or chart.metrics[0].per_cell,
    )


def _curves(run: Run, chart: Chart, metric: Metric, index: int) -> list[go.Scatter]:
    """Returns the curve of a metric, or one per distinct cell; one for all cells if they are equal."""
    own = run.rows(chart.phase)
    epochs = [row["epoch"] for row in own]
    if not metric.per_cell:
        line = {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index % len(DASHES)]}
        values = rows.series(own, metric.key)
        return [curve(metric.label or metric.name, epochs, values, line=line)]
    count = rows.num_cells(own, metric.key)
    every = [rows.series(own, metric.key, cell) for cell in range(count)]
    names, reductions = [f"cell {cell}" for cell in range(count)], [False] * count
    if run.newest and len(run.newest.genes) == count:
        names, reductions = cell_names(run.newest), reduction_cells(run.newest)
    if count > 1 and all(values == every[0] for values in every):
        every, names, reductions = every[:1], ["every cell"], [False]
    prefix = f"{metric.label}, " if metric.label else ""
    return [
        curve(
            prefix + name + (" (reduction)" if reduction else ""),
            epochs,
            values,
            line={
                "color": COLOURS[(index + cell) % len(COLOURS)],
                "dash": "dash" if reduction else "solid",
            },
        )
        for cell, (name, reduction, values) in enumerate(zip(names, reductions, every))
    ]


def has_numbers(trace) -> bool:
    """Returns whether a trace has a number to show."""
    values = trace.z if isinstance(trace, go.Heatmap) else trace.y
    return any(value is not None for value in values)


def _vertical(traces: Sequence, unit: str, scale: str) -> dict:
    """Returns the vertical axis of a unit and a scale."""
    axis = dict(_SCALES[scale])
    if scale == "log":
        axis |= _log_ticks(traces)
    if unit == "fraction":
        return axis | {"tickformat": ".1~%"}
    return axis | ({"ticksuffix": f" {unit}", "showticksuffix": "last"} if unit else {})


def _log_ticks(traces: Sequence) -> dict:
    """Returns ticks at 1, 2 and 5 times powers of ten, or, over many powers, just at the powers."""
    logs = [math.log10(value) for trace in traces for value in trace.y if value and value > 0]
    few = bool(logs) and math.ceil(max(logs)) - math.floor(min(logs)) <= 2
    if not few:
        return {"dtick": 1}
    powers = range(math.floor(min(logs)), math.ceil(max(logs)) + 1)
    return {"tickvals": [step * 10.0**power for power in powers for step in (1, 2, 5)]}


def _whole_numbers(traces: Sequence) -> dict:
    """Returns a horizontal axis of whole numbers, also where there are few."""
    epochs = [epoch for trace in traces for epoch in trace.x]
    if not epochs:
        return {}
    first, last = min(epochs), max(epochs)
    few = {"dtick": 1} if last - first < 8 else {}
    return {"range": [first - 0.5, last + 0.5]} | few

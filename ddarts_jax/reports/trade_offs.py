"""What accuracy costs: networks that no other surpasses at their cost or less (Pareto's front)."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from matplotlib.figure import Figure

from ddarts_jax.reports import charts, drawing
from ddarts_jax.reports.comparability import same_images
from ddarts_jax.reports.page import Page
from ddarts_jax.reports.palette import COLOURS, INK
from ddarts_jax.runs.run import Run


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        name: in the chart's title.
        of: reads it from a run; None if the run has none.
        unit: of the axis and of the points.
        size: of the unit.
    """

    name: str
    of: Callable[[Run], float | None]
    unit: str
    size: float


COSTS = {
    "params": Cost("parameters", lambda run: run.outcome("params"), "million", 1e6),
    "macs": Cost("MACs per image", lambda run: run.outcome("macs"), "million", 1e6),
    "latency": Cost("latency of one image", lambda run: run.latency, "ms", 1),
}
_SYMBOLS = ("circle", "diamond", "square")
_MARKERS = ("o", "D", "s")  # the same to matplotlib


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points (cost, accuracy) that no other one surpasses, cheapest first.

    A point is surpassed by another that costs no more and is better, or costs less and is no worse.
    """
    best, found = float("-inf"), []
    for cost, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best = accuracy
            found.append((cost, accuracy))
    return found


def add(page: Page, groups: list) -> None:
    """Adds a chart for each kind of cost, if there are two networks that can be compared.

    Args:
        page: of the comparison.
        groups: of `comparison.Group`.
    """
    numbered = {number: run for each in groups for number, run in each.runs.items()}
    runs = numbered.values()
    if sum(bool(run.outcome("params") and run.outcome("test_accuracy")) for run in runs) < 2:
        return
    if not same_images(numbered):
        return
    page.heading("What accuracy costs")
    for cost in COSTS.values():
        parts = [_points(each, cost) for each in groups]
        points = [point for own in parts for point in own.values()]
        if not points:
            continue
        page.chart(
            f"Accuracy and {cost.name}",
            f"Each run's test accuracy over its {cost.name}. The line joins the runs that no other "
            "surpasses at their cost or less.",
            charts.figure(
                [*_markers(groups, parts, cost), _line(front(points))],
                unit="fraction",
                x=f"{cost.name}, {cost.unit}",
                y="test accuracy",
                hovermode="closest",
                showlegend=True,
            ),
        )


def _points(group, cost: Cost) -> dict[int, tuple[float, float]]:
    """Returns cost, in its unit, and accuracy of the runs of a `comparison.Group` that have both."""
    outcomes = {
        number: (cost.of(run), run.outcome("test_accuracy")) for number, run in group.runs.items()
    }
    return {
        number: (spent / cost.size, accuracy)
        for number, (spent, accuracy) in outcomes.items()
        if spent and accuracy
    }


def _markers(groups: list, parts: list[dict], cost: Cost) -> list[go.Scatter]:
    """Returns the points of each group as markers."""
    found = []
    for index, (each, own) in enumerate(zip(groups, parts, strict=True)):
        found.append(
            go.Scatter(
                name=each.label,
                x=[spent for spent, _ in own.values()],
                y=[accuracy for _, accuracy in own.values()],
                mode="markers",
                marker={
                    "size": 9,
                    "color": COLOURS[index % len(COLOURS)],
                    "symbol": _SYMBOLS[index // len(COLOURS) % len(_SYMBOLS)],
                },
                text=[f"{each.letter}, run {number}" for number in own],
                hovertemplate="%{text}: %{x:.3g} " + cost.unit + ", %{y:.2%}<extra></extra>",
            )
        )
    return found


def _line(points: list[tuple[float, float]]) -> go.Scatter:
    """Returns the front as a staircase: at any cost, the best accuracy that was reached for it."""
    return go.Scatter(
        name="best for its cost",
        x=[cost for cost, _ in points],
        y=[accuracy for _, accuracy in points],
        mode="lines",
        line={"color": INK, "width": 1, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )


def draw(
    points: Mapping[str, Mapping[str, tuple[float, float | None]]],
    accuracy: str,
    title: str,
    path_stem: str | os.PathLike,
) -> None:
    """Draws an accuracy over each kind of cost that is known: means, their spreads, and the front.

    Args:
        points: {name: {key: (mean, sample standard deviation or None)}} with the keys of `COSTS` and
            `accuracy`, a fraction; at least one point has it and a cost.
        accuracy: the key of the accuracy.
        title: of the vertical axis.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
    """
    costs = [key for key in COSTS if any({key, accuracy} <= set(own) for own in points.values())]
    columns = 3 if max(map(len, points)) <= 40 else 1  # of the legend
    size = 4.2 * len(costs) + 0.6, 4.0 + 0.25 * math.ceil(len(points) / columns)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    for axes, key in zip(figure.subplots(1, len(costs), squeeze=False, sharey=True)[0], costs):
        cost, means = COSTS[key], []
        for index, (name, own) in enumerate(points.items()):
            if not {key, accuracy} <= set(own):
                continue
            x, x_spread = (value and value / cost.size for value in own[key])
            y, y_spread = (value and 100 * value for value in own[accuracy])
            means.append((x, y))
            axes.errorbar(
                *(x, y, y_spread, x_spread),
                label=name,
                fmt=_MARKERS[index // len(COLOURS) % len(_MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                capsize=3,
            )
        axes.step(*zip(*front(means)), ":", where="post", color=INK, linewidth=1, zorder=1)
        axes.set_xlabel(f"{cost.name}, {cost.unit}", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel(f"{title}, %", color=INK)
    named = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(*named, loc="outside lower center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    drawing.save(figure, path_stem)

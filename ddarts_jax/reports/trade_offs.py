"""What accuracy costs: networks that no other surpasses at their cost or less (Pareto's front)."""

from collections.abc import Sequence

import plotly.graph_objects as go

from ddarts_jax.reports import charts
from ddarts_jax.reports.comparability import same_images
from ddarts_jax.reports.page import Page
from ddarts_jax.reports.palette import COLOURS, INK

_COSTS = (("params", "parameters"), ("macs", "MACs per image"))
_SYMBOLS = ("circle", "diamond", "square")


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
    for key, name in _COSTS:
        points = [(run.outcome(key), run.outcome("test_accuracy")) for run in runs]
        points = [(cost / 1e6, accuracy) for cost, accuracy in points if cost and accuracy]
        page.chart(
            f"Accuracy and {name}",
            f"Each run's test accuracy over millions of {name}. The line joins the runs that no other "
            "surpasses at their cost or less.",
            charts.figure(
                [*_groups(groups, key), _line(front(points))],
                unit="fraction",
                x=f"{name}, millions",
                y="test accuracy",
                hovermode="closest",
                showlegend=True,
            ),
        )


def _groups(groups: list, key: str) -> list[go.Scatter]:
    """Returns the points of each group."""
    found = []
    for index, each in enumerate(groups):
        outcomes = [
            (number, run.outcome(key), run.outcome("test_accuracy"))
            for number, run in each.runs.items()
        ]
        own = [(number, cost / 1e6, a) for number, cost, a in outcomes if cost and a]
        found.append(
            go.Scatter(
                name=each.label,
                x=[cost for _, cost, _ in own],
                y=[accuracy for *_, accuracy in own],
                mode="markers",
                marker={
                    "size": 9,
                    "color": COLOURS[index % len(COLOURS)],
                    "symbol": _SYMBOLS[index // len(COLOURS) % len(_SYMBOLS)],
                },
                text=[f"{each.letter}, run {number}" for number, *_ in own],
                hovertemplate="%{text}: %{x:.3g} million, %{y:.2%}<extra></extra>",
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

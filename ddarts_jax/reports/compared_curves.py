"""Curves of several runs in one chart, in the colours of their groups."""

import functools
from collections.abc import Callable

from ddarts_jax.reports import charts
from ddarts_jax.reports.findings import parameter_free_share
from ddarts_jax.reports.page import Page
from ddarts_jax.reports.palette import COLOURS
from ddarts_jax.runs import rows
from ddarts_jax.runs.run import Run
from ddarts_jax.runs.table import METRICS


def add(page: Page, groups: list) -> None:
    """Adds a chart for each metric that the table marks as compared.

    Args:
        page: of the comparison.
        groups: of `comparison.Group`.
    """
    look = {"hovermode": "closest", "showlegend": True}
    for phase, own in METRICS.items():
        for metric in own.values():
            if metric.compared:
                curves = _curves(groups, functools.partial(_points, phase, metric.key))
                y = metric.key.replace("_", " ")
                figure = charts.figure(curves, unit=metric.unit, y=y, **look)
                page.chart(metric.name, metric.description, figure)
    page.chart(
        "Parameter-free primitives",
        "Share of pools and skip connections in the primitives that the parsed genotype keeps.",
        charts.figure(
            _curves(groups, _parameter_free_points),
            unit="fraction",
            scale="zero to one",
            y="share",
            **look,
        ),
    )


def _points(phase: str, key: str, run: Run) -> tuple[list, list]:
    """Returns the epochs of a run's phase and the values of a metric after each."""
    own = run.rows(phase)
    return [row["epoch"] for row in own], rows.series(own, key)


def _parameter_free_points(run: Run) -> tuple[list, list]:
    return list(run.genotypes), [*map(parameter_free_share, run.genotypes.values())]


def _curves(groups: list, points: Callable[[Run], tuple[list, list]]) -> list:
    """Returns one curve per run with numbers, in the colour of its group, which the first one names."""
    curves = []
    for index, each in enumerate(groups):
        look = {
            "color": COLOURS[index % len(COLOURS)],
            "dash": charts.DASHES[index // len(COLOURS) % len(charts.DASHES)],
        }
        own = [
            charts.curve(
                each.label,
                *points(run),
                line=look,
                legendgroup=each.letter,
                showlegend=False,
                hovertemplate=f"{each.letter}, run {number}: %{{y}}<extra></extra>",
            )
            for number, run in each.runs.items()
        ]
        own = [curve for curve in own if charts.has_numbers(curve)]
        for curve in own[:1]:
            curve.showlegend = True
        curves += own
    return curves

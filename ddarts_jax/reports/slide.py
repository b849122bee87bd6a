"""A run on one picture for a talk: what it found, what that is worth, and how it came to it."""

import os
from pathlib import Path

import matplotlib.image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ddarts_jax.files import writing
from ddarts_jax.reports.findings import duration, shares
from ddarts_jax.reports.palette import COLOURS, FAINT, INK, styles
from ddarts_jax.runs.run import Run

_INCHES, _DPI = (16, 9), 120  # 1920 x 1080 pixels
_PLAIN = {"color": INK, "parse_math": False}  # names may hold a "$"


def draw(run: Run, genotype: str | os.PathLike, path: Path) -> None:
    """Draws a run with a network as a PNG file of 1920 x 1080 pixels.

    Args:
        run: what it has not is left out.
        genotype: the picture of its network, a PNG file.
        path: of the new file.
    """
    figure = Figure(figsize=_INCHES, facecolor="white")
    figure.text(0.04, 0.92, _title(run), size=28, weight="bold", **_PLAIN)
    figure.text(0.04, 0.865, " · ".join(_numbers(run)), size=18, **_PLAIN)
    panels = [
        *([_search] if run.search else []),
        *([_training] if run.train else []),
        _primitives,
    ]
    for number, panel in enumerate(panels[:2]):
        panel(figure.add_axes((0.07, 0.48 - 0.42 * number, 0.26, 0.28)), run)
    network = figure.add_axes((0.37, 0.03, 0.61, 0.8))
    network.imshow(matplotlib.image.imread(genotype), interpolation="antialiased")
    network.set_axis_off()
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _title(run: Run) -> str:
    """The search method, or the phase, and the data."""
    searched = run.search or run.candidates
    what = f"{run.config.get('search.method')} search" if searched else "Training"
    return f"{what} on {run.summary.get('data') or run.config.get('data.name', '')}"[:80]


def _numbers(run: Run) -> list[str]:
    """What the network is worth, and what it costs."""
    accuracy, params, macs, seconds = map(
        run.outcome, ("test_accuracy", "params", "macs", "seconds")
    )
    return [
        *([f"{accuracy:.2%} of the test images right"] if accuracy is not None else []),
        *([f"{params / 1e6:.3g} M parameters"] if params else []),
        *([f"{macs / 1e6:.3g} M multiply-accumulates"] if macs else []),
        *([duration(seconds)] if seconds else []),
    ]


def _search(axes: Axes, run: Run) -> None:
    curves = {"supernet": "accuracy", "with the kept primitives alone": "discrete_accuracy"}
    _curves(axes, "Search: accuracy on the alphas' images, %", run.search, curves)


def _training(axes: Axes, run: Run) -> None:
    curves = {"test": "accuracy", "training": "train_accuracy"}
    _curves(axes, "Training: accuracy, %", run.train, curves)


def _curves(axes: Axes, title: str, rows: list[dict], curves: dict[str, str]) -> None:
    for (name, key), colour, style in zip(curves.items(), COLOURS, ("-", "--")):
        points = [(row["epoch"], 100 * row[key]) for row in rows if row.get(key) is not None]
        if points:
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points), style, color=colour, lw=2.5, marker=marker, label=name)
    axes.legend(frameon=False, fontsize=13, labelcolor=INK)
    axes.set_xlabel("epoch", size=13, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(axes, title, "y")


def _primitives(axes: Axes, run: Run) -> None:
    """The share of each primitive of the network, the largest first."""
    found = sorted(shares(run.network).items(), key=lambda item: item[1])
    look = styles(name for name, _ in found)
    names = [name for name, _ in found]
    colours = [look[name].colour for name in names]
    axes.barh(names, [100 * share for _, share in found], color=colours, height=0.4)
    axes.set_yticks([])
    for row, name in enumerate(names):
        axes.text(0, row + 0.3, name, size=12, **_PLAIN)  # above its bar
    _finish(axes, "Primitives of the network, %", "x")


def _finish(axes: Axes, title: str, grid: str) -> None:
    axes.set_title(title, size=15, loc="left", pad=12, **_PLAIN)
    axes.tick_params(labelsize=13, colors=INK)
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

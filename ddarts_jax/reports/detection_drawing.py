"""Pictures as files, SVG and PNG, of how well a detector finds: precision over recall, AP by class."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddarts_jax.reports.drawing import save
from ddarts_jax.reports.palette import INK

_GRID = {"color": "#e5e7eb", "linewidth": 0.8}


def draw_precision_recall(
    precision: np.ndarray,
    thresholds: Sequence[float],
    path_stem: str | os.PathLike,
    title: str = "",
) -> None:
    """Draws precision over recall, the mean of all classes that have objects, a curve per overlap.

    Args:
        precision: float [T, R, K] at T thresholds of IoU and R recalls from 0 to 1; -1: the class has no
            object.
        thresholds: T numbers; every second one is drawn.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the picture; none if empty.
    """
    known = precision[..., (precision > -1).all((0, 1))]
    curves = known.mean(-1) if known.size else np.zeros(precision.shape[:2])
    figure = Figure(figsize=(5.6, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    recalls = np.linspace(0, 1, curves.shape[1])
    drawn = list(zip(thresholds, curves))[::2]
    # From dark, the most lenient, to light; none so light that it is lost on white.
    for colour, (threshold, curve) in zip(np.linspace(1, 0.35, len(drawn)), drawn):
        label = f"IoU {threshold:.2f}: AP {100 * curve.mean():.1f}"
        axes.plot(recalls, curve, color=colormaps["Blues"](colour), label=label, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("recall", color=INK)
    axes.set_ylabel("precision, mean over classes", color=INK)
    axes.grid(**_GRID)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _finish(axes, title)
    save(figure, path_stem)


def draw_ap_by_class(
    names: Sequence[str], ap: np.ndarray, path_stem: str | os.PathLike, title: str = ""
) -> None:
    """Draws a bar for the AP of each class, the best on top.

    Args:
        names: K names of classes.
        ap: float [K], fractions; -1: the class has no object and is left out.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the picture; none if empty.
    """
    order = [index for index in np.argsort(ap, kind="stable") if ap[index] > -1]
    values = 100 * np.asarray(ap)[order]
    figure = Figure((5.6, 0.9 + 0.24 * len(order)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(order)), values, height=0.7, color="#0b4f9e")
    axes.bar_label(bars, fmt="%.1f", padding=3, size=8, color=INK)
    axes.set_yticks(range(len(order)), [names[i] for i in order], size=9, parse_math=False)
    axes.set(xlim=(0, 100), ylim=(-0.6, len(order) - 0.4))
    axes.set_xlabel("AP (%)", color=INK)
    axes.grid(axis="x", **_GRID)
    _finish(axes, title)
    save(figure, path_stem)


def _finish(axes: Axes, title: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, size=12, pad=12, color=INK, parse_math=False)

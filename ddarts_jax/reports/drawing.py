"""Pictures as files, SVG and PNG: of a genotype, of distances, of a confusion matrix."""

import math
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ddarts_jax.files import writing
from ddarts_jax.reports.cells import draw_genotype
from ddarts_jax.reports.palette import INK

__all__ = ["draw_confusion", "draw_distance_history", "draw_distance_matrix", "draw_genotype"]


def draw_distance_matrix(
    names: Sequence[str], matrix: np.ndarray, path_stem: str | os.PathLike, title: str = ""
) -> None:
    """Draws the distances between n architectures as a heatmap with a number in each square.

    Args:
        names: names of the architectures, in the order of the matrix.
        matrix: float [n, n], not negative.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the heatmap; none if empty.
    """
    matrix = np.asarray(matrix)
    texts = np.where(matrix == 0, "0", np.char.mod("%.3f", matrix))
    figure, _ = _heatmap(names, matrix, texts, title)
    save(figure, path_stem, bbox_inches="tight", pad_inches=0.15)


def draw_confusion(
    confusion: np.ndarray, names: Sequence[str], path_stem: str | os.PathLike, title: str = ""
) -> None:
    """Draws the confusion matrix of a classifier, coloured by the share of each class's images.

    Args:
        confusion: int [n, n], images of each class (row) by answer (column).
        names: names of the classes; with more than 40 neither names nor counts are written.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the matrix; none if empty.
    """
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    texts = np.where(confusion == 0, "", confusion.astype(str))
    figure, axes = _heatmap(names, shares, texts, title)
    axes.set_ylabel("class", color=INK)
    axes.set_xlabel("answer", color=INK)
    save(figure, path_stem, bbox_inches="tight", pad_inches=0.15)


def _heatmap(names, matrix: np.ndarray, texts: np.ndarray, title: str) -> tuple[Figure, Axes]:
    """Draws a square matrix as colours, with a text in every square and names on both sides."""
    legible = len(matrix) <= 40
    side = 0.5 * len(matrix) if legible else 8  # inches
    figure = Figure(figsize=(side, side), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    # Only the light half of the map, on which the numbers can be read.
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=(2 if legible else 1) * matrix.max() or 1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, size=12, pad=10, color=INK, parse_math=False)
    if not legible:
        axes.set_xticks([])
        axes.set_yticks([])
        return figure, axes
    for (row, column), text in np.ndenumerate(texts):
        axes.text(column, row, text, size=8, ha="center", va="center", color=INK)
    everything = range(len(matrix))
    plain = {"color": INK, "size": 9, "parse_math": False}
    axes.set_yticks(everything, names, **plain)
    axes.set_xticks(everything, names, **plain, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xticks([n - 0.5 for n in everything[1:]], minor=True)
    axes.set_yticks([n - 0.5 for n in everything[1:]], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    return figure, axes


def draw_distance_history(
    epochs: Sequence[int],
    distances: Sequence[float],
    accuracies: Sequence[float],
    path_stem: str | os.PathLike,
    title: str = "",
    start_epoch: int = 0,
    positional: Sequence[float] = (),
) -> None:
    """Draws the distance of a search to its start, and its accuracy, by epoch.

    Args:
        epochs: n numbers of epochs, ascending.
        distances: n distances to the start, drawn against the left axis.
        accuracies: n fractions, drawn in percent against the right axis.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the picture; none if empty.
        start_epoch: the last epoch in which the alphas were fixed; 0 if there was none.
        positional: n positional distances, a dotted line against the left axis; none if empty.
    """
    figure = Figure(figsize=(6.4, 3.8), facecolor="white", layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    left_label = "● distance to the start   ▲ positional"
    # Line style and marker, which the label repeats, tell the curves apart in grey.
    curves = (
        (left, distances, "● distance to the start", "#0b4f9e", "o-", "left"),
        *([(left, positional, left_label, "#0b4f9e", "^:", "left")] if len(positional) else []),
        (right, 100 * np.asarray(accuracies, float), "□ accuracy (%)", "#d9381e", "s--", "right"),
    )
    markers = {"markersize": 4, "markevery": math.ceil(len(epochs) / 40)}
    for axes, values, label, colour, style, side in curves:
        face = colour if axes is left else "white"
        axes.plot(epochs, values, style, color=colour, mfc=face, clip_on=False, **markers)
        axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", colors=colour)
        axes.spines[:].set_visible(False)
        axes.spines[side].set(visible=True, color=colour)
    left.spines["bottom"].set(visible=True, color=INK)
    left.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    left.set_ylim(bottom=0)
    left.set_xlabel("epoch", color=INK)
    left.tick_params(axis="x", colors=INK)
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    left.set_axisbelow(True)
    if start_epoch:
        left.axvspan(epochs[0] - 0.5, start_epoch, color="#fdf3dc", zorder=0)
        left.text(0, 1.02, "alphas fixed", size=9, color="#8a6a1f", transform=left.transAxes)
    if title:
        left.set_title(title, size=12, pad=20, color=INK, parse_math=False)
    save(figure, path_stem)


def save(figure: Figure, path_stem: str | os.PathLike, **layout) -> None:
    """Writes a figure as `<path_stem>.svg` and `<path_stem>.png`; `layout` goes to `savefig`."""
    # Text stays text, which can be searched. A fixed salt and no date: equal pictures, equal files.
    plain = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ddarts_jax"})
    with plain, writing(f"{path_stem}.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, **layout)
    with writing(f"{path_stem}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150, **layout)

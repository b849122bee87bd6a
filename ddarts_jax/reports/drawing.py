"""Pictures of what a search found, and of how far it went."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from ddarts_jax.genotypes.genotype import Cell, Genotype, existing_nodes

# Colour by primitive, so that pictures of different genotypes compare; line style by family, so
# that they also read in grey: convolutions solid, dilated dash-dotted, pools dashed, skip dotted.
_DILATED, _POOL, _SKIP = (0, (5, 1.2, 1, 1.2)), (0, (3, 1.2)), (0, (1, 1))
_STYLES = {
    "max_pool_3x3": ("#d9381e", _POOL),
    "avg_pool_3x3": ("#f2a33a", _POOL),
    "skip_connect": ("#4b5563", _SKIP),
    "sep_conv_3x3": ("#4ba3e3", "-"),
    "sep_conv_5x5": ("#0b4f9e", "-"),
    "dil_conv_3x3": ("#4fc06b", _DILATED),
    "dil_conv_5x5": ("#0f6b3a", _DILATED),
    "conv_3x1_1x3": ("#c792ea", "-"),
    "conv_7x1_1x7": ("#7b2d9e", "-"),
    "simple_conv_1x1": ("#f08fc0", "-"),
    "simple_conv_3x3": ("#c2185b", "-"),
    "bottleneck_1x3x1": ("#8c6239", "-"),
}
_OTHER_COLOURS = ("#111827", "#0e9aa7", "#a3a119", "#7f1d1d")

# Lengths are inches: one axes covers the whole figure and its data unit is the inch.
WIDTH, HEIGHT, RADIUS = 3.6, 2.8, 0.14  # of one cell's panel; of a node
_MARGIN = 0.08
_SPREAD = 0.24  # between the control points of parallel arrows
_INK, _FAINT = "#1f2937", "#c3c8d0"


def draw_genotype(genotype: Genotype, path_stem: str | os.PathLike, title: str = "") -> None:
    """Draws every cell of the network as a graph.

    Data flow from left to right: the inputs k-2 and k-1 (outputs of the two cells before), the
    intermediate nodes numbered as in the genotype, their concatenation. An arrow is one primitive. A
    node that does not exist for want of inputs is faint, and so is every arrow from it.

    Args:
        genotype: the network to draw.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the cells; none if empty.
    """
    styles = line_styles(primitive for cell in genotype.cells for primitive, _, _ in cell)
    rows, columns = _grid(genotype.num_cells, 4)
    legend_rows, legend_columns = _grid(len(styles), math.floor(columns * WIDTH / 1.7))
    top = 0.45 if title else 0.0
    bottom = 0.2 + 0.24 * legend_rows
    width, height = columns * WIDTH, top + rows * HEIGHT + bottom

    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    if title:
        axes.text(
            width / 2,
            height - 0.25,
            title,
            size=14,
            ha="center",
            va="center",
            color=_INK,
            parse_math=False,
        )
    for position, cell in enumerate(genotype.cells):
        row, column = divmod(position, columns)
        corner = (column * WIDTH, height - top - (row + 1) * HEIGHT)
        _draw_cell(axes, corner, genotype, position, cell, styles)
    legend = figure.legend(
        [
            Line2D([], [], color=colour, linestyle=line, linewidth=2)
            for colour, line in styles.values()
        ],
        list(styles),
        loc="lower center",
        ncols=legend_columns,
        frameon=False,
        handlelength=3,
        fontsize=10,
        labelcolor=_INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path_stem)


def draw_distance_matrix(
    names: Sequence[str], matrix: np.ndarray, path_stem: str | os.PathLike, title: str = ""
) -> None:
    """Draws the distances between n architectures as a heatmap, the numbers in the squares.

    Args:
        names: of the architectures, in the order of the matrix.
        matrix: float [n, n], not negative.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the heatmap; none if empty.
    """
    matrix = np.asarray(matrix)
    texts = np.where(matrix == 0, "0", np.char.mod("%.3f", matrix))
    figure, _ = _heatmap(names, matrix, texts, title)
    _save(figure, path_stem, bbox_inches="tight", pad_inches=0.15)


def draw_confusion(
    confusion: np.ndarray, names: Sequence[str], path_stem: str | os.PathLike, title: str = ""
) -> None:
    """Draws the confusion matrix of a classifier: its colours are shares of the images of a class.

    Args:
        confusion: int [n, n], images of each class (row) by answer (column).
        names: of the classes; with more than 40 neither names nor counts are written.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the matrix; none if empty.
    """
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    texts = np.where(confusion == 0, "", confusion.astype(str))
    figure, axes = _heatmap(names, shares, texts, title)
    axes.set_ylabel("class", color=_INK)
    axes.set_xlabel("answer", color=_INK)
    _save(figure, path_stem, bbox_inches="tight", pad_inches=0.15)


def _heatmap(names, matrix: np.ndarray, texts: np.ndarray, title: str) -> tuple[Figure, Axes]:
    """A square matrix as colours, with a text in every square and names on both sides."""
    legible = len(matrix) <= 40
    side = 0.5 * len(matrix) if legible else 8  # inches
    figure = Figure(figsize=(side, side), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    # Only the light half of the map, on which the numbers can be read.
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=(2 if legible else 1) * matrix.max() or 1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, size=12, pad=10, color=_INK, parse_math=False)
    if not legible:
        axes.set_xticks([])
        axes.set_yticks([])
        return figure, axes
    for (row, column), text in np.ndenumerate(texts):
        axes.text(column, row, text, size=8, ha="center", va="center", color=_INK)
    everything = range(len(matrix))
    plain = {"color": _INK, "size": 9, "parse_math": False}
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
    """Draws how a search moves away from its start, and how its accuracy develops.

    Args:
        epochs: n numbers of epochs, ascending.
        distances: n distances to the start, drawn against the left axis.
        accuracies: n fractions, drawn in per cent against the right axis.
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
    left.spines["bottom"].set(visible=True, color=_INK)
    left.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    left.set_ylim(bottom=0)
    left.set_xlabel("epoch", color=_INK)
    left.tick_params(axis="x", colors=_INK)
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    left.set_axisbelow(True)
    if start_epoch:
        left.axvspan(epochs[0] - 0.5, start_epoch, color="#fdf3dc", zorder=0)
        left.text(0, 1.02, "alphas fixed", size=9, color="#8a6a1f", transform=left.transAxes)
    if title:
        left.set_title(title, size=12, pad=20, color=_INK, parse_math=False)
    _save(figure, path_stem)


def _save(figure: Figure, path_stem, **layout) -> None:
    # Text stays text, which can be searched. A fixed salt and no date: equal pictures, equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ddarts_jax"}):
        figure.savefig(f"{path_stem}.svg", metadata={"Date": None}, **layout)
    figure.savefig(f"{path_stem}.png", dpi=150, **layout)


def _grid(count: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for `count` things, the rows filled evenly."""
    rows = math.ceil(count / most_columns)
    return rows, math.ceil(count / max(rows, 1))


def line_styles(primitives: Iterable[str]) -> dict:
    """The (colour, line style of matplotlib) of each primitive.

    The known ones come first, in a fixed order.
    """
    occurring = set(primitives)
    styles = {primitive: style for primitive, style in _STYLES.items() if primitive in occurring}
    for index, primitive in enumerate(sorted(occurring - set(_STYLES))):
        styles[primitive] = (_OTHER_COLOURS[index % len(_OTHER_COLOURS)], "-")
    return styles


def node_places(genotype: Genotype, cell: Cell) -> dict:
    """Centres of a cell's nodes in its panel: {node: (x, y)}, y upwards, the output as "out".

    Even nodes stand on an upper arc, odd ones on a lower one: so they are in convex position, and no
    straight arrow passes through a third node.
    """
    last_node = max(*genotype.concat, *(node for _, node, _ in cell), 2)
    middle, reach, rise = (HEIGHT - 0.2) / 2, 1.4, 0.9
    centre = WIDTH / 2
    places = {
        0: (centre - reach, middle + 0.34),
        1: (centre - reach, middle - 0.34),
        "out": (centre + reach, middle),
    }
    for node in range(2, last_node + 1):
        x = 1.7 * (node - 1) / last_node - 0.8
        y = rise * (1 - x**4)
        places[node] = (centre + x * reach, middle + (y if node % 2 == 0 else -y))
    return places


def bent_arrows(cell: Cell) -> list[tuple[str, int, int, float]]:
    """The (primitive, node, source, bend) of a cell's entries.

    An arrow's control point lies `bend` to the right of the straight line: primitives of one edge
    fan out, and an arrow along one arc leads past the nodes between its ends.
    """
    parallel = defaultdict(list)
    for primitive, node, source in cell:
        parallel[source, node].append(primitive)
    return [
        (
            primitive,
            node,
            source,
            _inward_bend(source, node) + (index - (len(primitives) - 1) / 2) * _SPREAD,
        )
        for (source, node), primitives in parallel.items()
        for index, primitive in enumerate(primitives)
    ]


def _draw_cell(
    axes: Axes, corner, genotype: Genotype, position: int, cell: Cell, styles: dict
) -> None:
    left, low = corner
    reduction = position in genotype.reductions
    axes.add_patch(
        FancyBboxPatch(
            (left + _MARGIN, low + _MARGIN),
            WIDTH - 2 * _MARGIN,
            HEIGHT - 2 * _MARGIN,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="#fdf3dc" if reduction else "#f7f8fa",
            edgecolor="#e0b95c" if reduction else "#dfe3e8",
        )
    )
    axes.text(
        left + 2 * _MARGIN,
        low + HEIGHT - 0.28,
        f"cell {position}" + (" · reduction" if reduction else ""),
        size=10,
        va="center",
        color=_INK,
        weight="bold",
    )
    places = {node: (left + x, low + y) for node, (x, y) in node_places(genotype, cell).items()}
    exist = existing_nodes(cell)
    for node in genotype.concat:
        alpha = 1 if node in exist else 0.4
        axes.add_patch(_arrow(places[node], places["out"], 0, _FAINT, "-", alpha))
    for primitive, node, source, bend in bent_arrows(cell):
        colour, line = styles[primitive]
        alpha = 1 if source in exist else 0.25
        axes.add_patch(_arrow(places[source], places[node], bend, colour, line, alpha))
    for node, place in places.items():
        _draw_node(axes, place, node, node == "out" or node in exist)


def _inward_bend(source: int, node: int) -> float:
    """Leads an arrow along one arc past the nodes between its ends."""
    if (node - source) % 2:
        return 0.0
    passed = (node - source) // 2 - 1
    return 0.25 * passed * (1 if node % 2 == 0 else -1)


def _arrow(start, end, bend, colour, line, alpha) -> FancyArrowPatch:
    """An arrow whose control point lies `bend` inches to the right of the straight line."""
    shrink = 72 * RADIUS + 1
    return FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>,head_length=4.5,head_width=2.2",
        connectionstyle=f"arc3,rad={bend / math.dist(start, end)}",
        shrinkA=shrink,
        shrinkB=shrink,
        color=colour,
        linestyle=line,
        linewidth=1.5,
        alpha=alpha,
    )


def _draw_node(axes: Axes, place, node, exists: bool) -> None:
    label = {0: "k-2", 1: "k-1"}.get(node, str(node))
    outer = node in (0, 1, "out")
    colour = (_INK if outer else "#ffffff") if exists else "#ffffff"
    axes.add_patch(
        Circle(
            place,
            RADIUS,
            facecolor=colour,
            edgecolor=_INK if exists else _FAINT,
            linewidth=1.2,
            zorder=3,
        )
    )
    axes.text(
        *place,
        label,
        size=7.5 if outer else 9,
        ha="center",
        va="center_baseline",
        color=("white" if outer else _INK) if exists else _FAINT,
        zorder=4,
    )

"""Cells of a genotype as graphs, and the probabilities of their candidates as heatmaps."""

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ddarts_jax.genotypes.effect import unread_cells, working
from ddarts_jax.genotypes.genotype import Cell, Genotype, edge_index, edges, existing_nodes
from ddarts_jax.reports import shapes
from ddarts_jax.reports.palette import FAINT, INK, Style, styles
from ddarts_jax.reports.shapes import Circle, Group, Line, Point, Polygon, Rectangle, Text

# Pixels: the panel of a cell, the radius of a node, and between parallel arrows' control points.
WIDTH, HEIGHT, RADIUS, _SPREAD = 360, 280, 14, 24
_TOP = 18  # empty above the nodes, where pictures of a genotype name the cell
_MARGIN = 8
_UNREAD = Text(WIDTH / 2, HEIGHT / 2, "left out: no later cell reads it", 13, INK)


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Probabilities of one cell's candidates.

    Attributes:
        values: float [E, O].
        primitives: names of the candidates, O of them.
    """

    values: np.ndarray
    primitives: Sequence[str]

    def of(self, primitive: str, source: int, node: int) -> float | None:
        """Returns the probability of a candidate, None if there is no such candidate."""
        if primitive not in self.primitives:
            return None
        return float(self.values[edge_index(source, node), self.primitives.index(primitive)])


def draw_cell(
    genotype: Genotype,
    cell: Cell,
    look: Mapping[str, Style],
    probabilities: Probabilities | None = None,
) -> list:
    """Returns the shapes of a cell's graph in a panel of `WIDTH` x `HEIGHT`.

    Data flow from left to right: the inputs k-2 and k-1 (outputs of the two previous cells), the
    intermediate nodes numbered as in the genotype, their concatenation. An arrow is one primitive. A
    node without inputs does not exist and is left out, with every arrow from it, which a note says.

    Args:
        genotype: the network.
        cell: one of its cells.
        look: style of each primitive.
        probabilities: give the arrows their widths.
    """
    places = _places(genotype, cell)
    exist, used = existing_nodes(cell), working(cell)
    found = []
    for node in sorted(exist - {0, 1}):
        found += _arrow(places[node], places["out"], 0, Style(FAINT), 1.2)
    for primitive, node, source, bend in _bent(used):
        probability = probabilities.of(primitive, source, node) if probabilities else None
        certainty = "" if probability is None else f" ({probability:.1%})"
        width = 2.2 if probability is None else max(0.8, 5 * probability)
        arrow = _arrow(places[source], places[node], bend, look[primitive], width)
        title = f"{primitive}: {_name(source)} → {_name(node)}{certainty}"
        found.append(Group(tuple(arrow), title))
    for node in (*sorted(exist), "out"):
        (x, y), outer = places[node], node in (0, 1, "out")
        found.append(Circle(x, y, RADIUS, INK if outer else "#ffffff", INK))
        found.append(Text(x, y + 4, _name(node), 11 if outer else 13, "#ffffff" if outer else INK))
    if idle := len(cell) - len(used):
        note = f"left out: {idle} from nodes without inputs"
        found.append(Text(WIDTH / 2, HEIGHT - 2 * _MARGIN, note, 11, INK))
    return found


def cell_svg(
    genotype: Genotype,
    cell: Cell,
    look: Mapping[str, Style],
    label: str,
    probabilities: Probabilities | None = None,
) -> str:
    """Returns a cell's graph (see `draw_cell`) as an `<svg>` element."""
    found = draw_cell(genotype, cell, look, probabilities)
    return shapes.to_svg(found, (0, _TOP, WIDTH, HEIGHT - _TOP), label)


def heat_svg(heat: Mapping, primitives: Sequence[str], num_nodes: int, label: str) -> str:
    """Returns a heatmap of a cell's probabilities as an `<svg>` element.

    Edges go downwards, primitives to the right; the squares of kept primitives have a border.

    Args:
        heat: {"percents", "kept"}, see `frames`.
        primitives: names of the candidates.
        num_nodes: of the cell.
        label: name of the cell.
    """
    left, top, size = 58, 112, 17
    pitch = (WIDTH - left) / len(primitives)
    found = [
        Text(left + (o + 0.5) * pitch + 4, top - 6, name, 12, INK, "start", upright=False)
        for o, name in enumerate(primitives)
    ]
    ground = Rectangle(left, top, WIDTH - left, size * len(edges(num_nodes)), "#ffffff")
    found.append(ground)
    for e, (source, node) in enumerate(edges(num_nodes)):
        edge, y = f"{_name(source)} → {node}", top + e * size
        found.append(Text(left - 6, y + 12, edge, 12, INK, "end"))
        for o, name in enumerate(primitives):
            index = e * len(primitives) + o
            kept, percent = index in heat["kept"], heat["percents"][index]
            found.append(
                # page.js changes these two attributes, the class and the end of the title by epoch.
                Rectangle(
                    left + o * pitch + 1.5,
                    y + 1.5,
                    pitch - 3,
                    size - 3,
                    fill="#084594",
                    fill_opacity=percent / 100,
                    kind="kept" if kept else "square",
                    title=f"{name}, {edge}: {percent}%{', kept' if kept else ''}",
                )
            )
    height = top + size * len(edges(num_nodes)) + 4
    return shapes.to_svg(found, (0, 0, WIDTH, height), label)


def frames(
    genotypes: Mapping[int, Genotype],
    probabilities: Mapping[int, np.ndarray],
    primitives: Sequence[str],
    names: Sequence[str],
    look: Mapping[str, Style],
) -> list[dict]:
    """Returns {"epoch", "cells", "heats"} of every epoch of a search.

    Cells are drawings; heats are {"percents", "kept"}, both over edges and then primitives, where kept
    are the indices of the primitives in the genotype.

    Args:
        genotypes: by epoch.
        probabilities: by epoch, [distinct cells, E, O]; epochs may be missing, their heats are None.
        primitives: names of the candidates.
        names: of the distinct cells.
        look: style of each primitive.
    """
    found = []
    for epoch, genotype in genotypes.items():
        known = [Probabilities(own, primitives) for own in probabilities.get(epoch, ())]
        cells = [
            cell_svg(genotype, cell, look, name, own)
            for cell, own, name in zip(genotype.genes, known or [None] * len(names), names)
        ]
        heats = [_heat(cell, own) for cell, own in zip(genotype.genes, known)]
        found.append({"epoch": epoch, "cells": cells, "heats": heats or None})
    return found


def _heat(cell: Cell, probabilities: Probabilities) -> dict[str, list[int]]:
    primitives = probabilities.primitives
    kept = [
        edge_index(source, node) * len(primitives) + primitives.index(primitive)
        for primitive, node, source in cell
        if primitive in primitives
    ]
    percents = np.rint(100 * np.nan_to_num(probabilities.values)).astype(int)
    return {"percents": percents.ravel().tolist(), "kept": kept}


def legend_svg(style: Style, name: str) -> str:
    """Returns a sample of a primitive's arrows as an `<svg>` element of 34 x 8."""
    return shapes.to_svg(
        [Line(((0, 4), (34, 4)), style.colour, 3, style.dash)], (0, 0, 34, 8), name
    )


def draw_genotype(genotype: Genotype, path_stem: str | os.PathLike, title: str = "") -> None:
    """Draws every cell of the network as a graph, see `draw_cell`; one that nothing reads stays empty.

    Args:
        genotype: the network to draw.
        path_stem: the pictures are written to `<path_stem>.svg` and `<path_stem>.png`.
        title: a line above the cells; none if empty.
    """
    unread = unread_cells(genotype)
    used = (cell for position, cell in enumerate(genotype.cells) if position not in unread)
    look = styles(primitive for cell in used for primitive, _, _ in working(cell))
    rows, columns = _grid(genotype.num_cells, 4)
    top = 45 if title else 0
    entry = max(170, 9 * max(map(len, look), default=0) + 60)  # of the legend
    width = max(columns * WIDTH, entry + 20)
    found = [Text(width / 2, 30, title, 19, INK)] if title else []
    for position, cell in enumerate(genotype.cells):
        reduction = position in genotype.reductions
        frame = Rectangle(
            _MARGIN,
            _MARGIN,
            WIDTH - 2 * _MARGIN,
            HEIGHT - 2 * _MARGIN,
            fill="#fdf3dc" if reduction else "#f7f8fa",
            stroke="#e0b95c" if reduction else "#dfe3e8",
            rounding=10,
        )
        name = f"cell {position}" + (" · reduction" if reduction else "")
        heading = Text(2 * _MARGIN, 33, name, 14, INK, "start", bold=True)
        row, column = divmod(position, columns)
        graph = draw_cell(genotype, cell, look) if position not in unread else [_UNREAD]
        panel = (frame, heading, *graph)
        found.append(Group(panel, x=column * WIDTH, y=top + row * HEIGHT))
    bottom = top + rows * HEIGHT
    legend_rows, legend_columns = _grid(len(look), max(1, width // entry))
    left = (width - legend_columns * entry) / 2 + 10
    for index, (name, style) in enumerate(look.items()):
        row, column = divmod(index, legend_columns)
        x, y = left + column * entry, bottom + 20 + 24 * row
        found.append(Line(((x, y - 5), (x + 42, y - 5)), style.colour, 2.8, style.dash))
        found.append(Text(x + 52, y, name, 14, INK, "start"))
    height = bottom + 20 + 24 * legend_rows
    shapes.write(found, width, height, os.fspath(path_stem), title or "genotype")


def cell_names(genotype: Genotype) -> list[str]:
    """Names the distinct cells by their positions in the network: "cell 2", "cells 0, 1, 3"."""
    if genotype.seq is None:
        return [f"cell {index}" for index in range(genotype.num_cells)]
    names = []
    for index in range(len(genotype.genes)):
        positions = [p for p, distinct in enumerate(genotype.seq) if distinct == index]
        names.append(f"cell{'s' * (len(positions) != 1)} {', '.join(map(str, positions))}")
    return names


def reduction_cells(genotype: Genotype) -> list[bool]:
    """Tells for each distinct cell whether all its positions are reduction positions."""
    seq = range(genotype.num_cells) if genotype.seq is None else genotype.seq
    positions = [
        {p for p, distinct in enumerate(seq) if distinct == index}
        for index in range(len(genotype.genes))
    ]
    return [bool(own) and own <= set(genotype.reductions) for own in positions]


def _places(genotype: Genotype, cell: Cell) -> dict[int | str, Point]:
    """Returns the centres of a cell's nodes in its panel, the output as "out".

    Even nodes are on an upper arc, odd ones on a lower one: they are in convex position, so no straight
    arrow passes through a third node.
    """
    last_node = max(*genotype.concat, *(node for _, node, _ in cell), 2)
    middle, reach, rise = HEIGHT - (HEIGHT - 20) / 2, 140, 90
    places: dict[int | str, Point] = {
        0: (WIDTH / 2 - reach, middle - 34),
        1: (WIDTH / 2 - reach, middle + 34),
        "out": (WIDTH / 2 + reach, middle),
    }
    for node in range(2, last_node + 1):
        x = 1.7 * (node - 1) / last_node - 0.8
        y = rise * (1 - x**4)
        places[node] = (WIDTH / 2 + x * reach, middle + (-y if node % 2 == 0 else y))
    return places


def _bent(cell: Cell) -> list[tuple[str, int, int, float]]:
    """Returns the (primitive, node, source, bend) of a cell's entries.

    An arrow's control point is `bend` to the right of the straight line: primitives of one edge fan
    out, and an arrow along one arc leads past the nodes between its ends.
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


def _inward_bend(source: int, node: int) -> float:
    """Leads an arrow along one arc past the nodes between its ends."""
    if (node - source) % 2:
        return 0.0
    passed = (node - source) // 2 - 1
    return 25 * passed * (1 if node % 2 == 0 else -1)


def _arrow(source: Point, node: Point, bend: float, style: Style, width: float) -> list:
    """Returns an arrow from the rim of one node to that of another, as a curve and its head."""
    (x0, y0), (x1, y1) = source, node
    share = bend / math.dist(source, node)
    control = (x0 + x1) / 2 - share * (y1 - y0), (y0 + y1) / 2 + share * (x1 - x0)
    head = 5 + 1.2 * width
    start = _towards(source, control, RADIUS)
    tip = _towards(node, control, RADIUS + 1)
    end = _towards(tip, control, head)
    side = (2 + 0.9 * width) / head
    dx, dy = (tip[0] - end[0]) * side, (tip[1] - end[1]) * side
    corners = tip, (end[0] - dy, end[1] + dx), (end[0] + dy, end[1] - dx)
    return [
        Line((start, control, end), style.colour, width, style.dash),
        Polygon(corners, style.colour),
    ]


def _towards(point: Point, other: Point, length: float) -> Point:
    """Returns the point at a distance from one point on the way to another."""
    share = length / math.dist(point, other)
    return point[0] + share * (other[0] - point[0]), point[1] + share * (other[1] - point[1])


def _name(node: int | str) -> str:
    return {0: "k-2", 1: "k-1"}.get(node, str(node))


def _grid(count: int, most_columns: int) -> tuple[int, int]:
    """Returns rows and columns for `count` things, the rows filled evenly."""
    rows = math.ceil(count / most_columns)
    return rows, math.ceil(count / max(rows, 1))

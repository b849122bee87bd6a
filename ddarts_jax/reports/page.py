"""One self-contained HTML page of charts, drawn cells and tables; it opens without a network.

Charts are plotly's, whose script stands in the page; cells and heatmaps of probabilities are drawn by
`page.js` from the geometry of `drawing`, so that they look as in the pictures of a genotype.
"""

import html
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from ddarts_jax.genotypes.genotype import Cell, Genotype, edge_index, edges, existing_nodes
from ddarts_jax.reports import drawing

# Told apart by people who see colours differently (Okabe and Ito), and by dashes where there are more.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#4b5563", "#111827")

_PIXELS = 100  # of an inch of `drawing`
_LINE_WIDTH = 1.5  # points, of the arrows of `drawing`, in which its dashes are measured


class Page:
    """A page that grows from top to bottom; `write` makes the file.

    Every text is plain: what means something in HTML is escaped here.
    """

    def __init__(self, title: str):
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self._charts: list[dict] = []
        self._cells: list[dict] = []
        self._primitives: set[str] = set()
        self._settling: dict | None = None

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def sentences(self, texts: Iterable[str], kind: str = "found") -> None:
        """Adds a list, one text an item; `kind` is "found", "warning" or "note"."""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        if items:
            self._parts.append(f'<ul class="{kind}">{items}</ul>')

    def chart(
        self, title: str, caption: str, traces: Sequence[dict], *, wide: bool = False, **layout
    ) -> None:
        """Adds a chart, unless no trace has a number.

        Args:
            title: above it.
            caption: below it, what it shows.
            traces: of plotly, as `line` makes them.
            wide: over the whole width of the page.
            **layout: of plotly.
        """
        traces = [trace for trace in traces if _has_numbers(trace)]
        if not traces:
            return
        self._parts.append(
            f"<figure{' class=wide' if wide else ''}><h3>{html.escape(title)}</h3>"
            f'<div class="chart" data-chart="{len(self._charts)}"></div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        self._charts.append({"traces": traces, "layout": layout})

    def table(
        self,
        title: str,
        caption: str,
        header: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        wide: bool = False,
    ) -> None:
        """Adds a table: numbers to the right, with separators of thousands; nothing if no rows."""
        rows = list(rows)
        if not rows:
            return
        head = "".join(
            f"<th{' class=number' if isinstance(value, int | float) else ''}>{html.escape(name)}</th>"
            for name, value in zip(header, rows[-1])
        )
        body = "".join(f"<tr>{''.join(map(_table_cell, header, row))}</tr>" for row in rows)
        self._parts.append(
            f"<figure{' class=wide' if wide else ''}><h3>{html.escape(title)}</h3>"
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def cells(
        self, title: str, caption: str, cells: Iterable[tuple[str, Genotype, Cell, bool]]
    ) -> None:
        """Adds drawn cells side by side.

        Args:
            title: above them.
            caption: below a legend of the primitives; without a caption there is no legend.
            cells: (name, genotype, cell, whether it is a reduction cell).
        """
        cards = []
        for name, genotype, cell, reduction in cells:
            cards.append(_card(name, reduction, f'class="cell" data-cell="{len(self._cells)}"'))
            self._cells.append(self._graph(genotype, cell))
        below = (
            f'<div class="legend"></div><figcaption>{html.escape(caption)}</figcaption>'
            if caption
            else ""
        )
        self._parts.append(
            f'<figure class="wide"><h3>{html.escape(title)}</h3>'
            f'<div class="cards">{"".join(cards)}</div>{below}</figure>'
        )

    def settling(
        self,
        caption: str,
        heat_caption: str,
        genotypes: Mapping[int, Genotype],
        probabilities: Mapping[int, np.ndarray],
        primitives: tuple[str, ...],
    ) -> None:
        """Adds the distinct cells of a search, and its probabilities, with a slider over epochs.

        Args:
            caption: of the cells.
            heat_caption: of the heatmaps.
            genotypes: by epoch, ascending, at least one; all with the same number of distinct cells.
            probabilities: by epoch, [distinct cells, E, O]; epochs may be missing.
            primitives: names of the candidates.
        """
        epochs = list(genotypes)
        frames = [
            [
                self._graph(genotype, cell, probabilities.get(epoch), primitives, index)
                for index, cell in enumerate(genotype.genes)
            ]
            for epoch, genotype in genotypes.items()
        ]
        percents = [
            np.rint(100 * np.nan_to_num(probabilities[epoch])).astype(int).tolist()
            if epoch in probabilities
            else None
            for epoch in epochs
        ]
        last = genotypes[epochs[-1]]
        names = cell_names(last)
        is_reduction = reduction_cells(last)
        graphs, heats = (
            "".join(
                _card(name, reduction, f'class="{kind}" data-index="{index}"')
                for index, (name, reduction) in enumerate(zip(names, is_reduction))
            )
            for kind in ("cell", "heat")
        )
        heat = (
            f'<figure class="wide heats"><h3>Probabilities of the candidates</h3>'
            f'<div class="cards">{heats}</div>'
            f"<figcaption>{html.escape(heat_caption)}</figcaption></figure>"
        )
        self._parts.append(
            f'<div class="settling wide"><label class="slider">'
            f"<output></output><input type=range id=epoch "
            f'aria-label="epoch" min=0 max={len(epochs) - 1} value={len(epochs) - 1}></label>'
            f'<figure class="wide"><h3>Cells</h3><div class="cards">{graphs}</div>'
            f'<div class="legend"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
            f"{heat if probabilities else ''}</div>"
        )
        self._settling = {
            "epochs": epochs,
            "frames": frames,
            "percents": percents,
            "edges": edges(last.num_nodes),
            "primitives": primitives,
        }

    def folded(self, title: str, rows: Iterable[Sequence[Any]]) -> None:
        """Adds a table of (name, value, whether it stands out) that opens on demand."""
        body = "".join(
            f"<tr{' class=strong' if strong else ''}><td>{html.escape(name)}</td>"
            f"<td>{html.escape(str(value))}</td></tr>"
            for name, value, strong in rows
        )
        if body:
            self._parts.append(
                f'<details class="wide"><summary>{html.escape(title)}</summary>'
                f'<table class="pairs"><tbody>{body}</tbody></table></details>'
            )

    def write(self, path: Path) -> None:
        """Writes the page; the file is never seen half-written."""
        styles = drawing.line_styles(self._primitives)
        data = {
            "charts": self._charts,
            "cells": self._cells,
            "settling": self._settling,
            "styles": {
                name: {"colour": colour, "dash": _dash(line)}
                for name, (colour, line) in styles.items()
            },
            "size": [_PIXELS * drawing.WIDTH, _PIXELS * drawing.HEIGHT, _PIXELS * drawing.RADIUS],
        }
        # A script ends at the first "</script", wherever it stands; the slash may be escaped in JSON.
        text = json.dumps(_finite(data), separators=(",", ":")).replace("</", "<\\/")
        assets = resources.files(__package__)
        content = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self._title)}</title>\n"
            f"<style>\n{(assets / 'page.css').read_text()}</style></head>\n"
            f"<body><main>\n{chr(10).join(self._parts)}\n</main>\n"
            f"<script>{get_plotlyjs()}</script>\n"
            f'<script type="application/json" id="data">{text}</script>\n'
            f"<script>\n{(assets / 'page.js').read_text()}</script></body></html>\n"
        )
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(content, encoding="utf-8", errors="replace")
        os.replace(temporary, path)

    def _graph(self, genotype, cell, probabilities=None, primitives=(), index=0) -> dict:
        """A cell's geometry in pixels, y downwards, as `page.js` draws it."""
        self._primitives.update(primitive for primitive, _, _ in cell)
        exist = existing_nodes(cell)
        places = {
            node: (round(_PIXELS * x), round(_PIXELS * (drawing.HEIGHT - y)))
            for node, (x, y) in drawing.node_places(genotype, cell).items()
        }

        def arrow(primitive, node, source, bend):
            probability = None
            if probabilities is not None and primitive in primitives:
                edge, o = edge_index(source, node), primitives.index(primitive)
                probability = float(probabilities[index, edge, o])
            (x0, y0), (x1, y1) = places[source], places[node]
            share = _PIXELS * bend / math.dist((x0, y0), (x1, y1))
            # To the right of the way from source to node; y points downwards here.
            control = (x0 + x1) / 2 - share * (y1 - y0), (y0 + y1) / 2 + share * (x1 - x0)
            return [primitive, source, node, *map(round, control), probability]

        outputs = [(None, "out", node, 0.0) for node in genotype.concat]
        return {
            "arrows": [arrow(*bent) for bent in outputs + drawing.bent_arrows(cell)],
            "nodes": {
                node: [*place, int(node == "out" or node in exist)]
                for node, place in places.items()
            },
        }


def line(
    name: str,
    epochs: Sequence[int],
    values: Sequence[float | None],
    colour: str,
    dash: str = "solid",
    **more,
) -> dict:
    """A plotly trace of one curve over epochs; a missing value is a gap."""
    trace = {
        "name": name,
        "x": list(epochs),
        "y": list(values),
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"size": 4, "color": colour},
    }
    return trace | more


def cell_names(genotype: Genotype) -> list[str]:
    """Names of the distinct cells by their positions in the network: "cell 2", "cells 0, 1, 3"."""
    if genotype.seq is None:
        return [f"cell {index}" for index in range(genotype.num_cells)]
    names = []
    for index in range(len(genotype.genes)):
        positions = [p for p, distinct in enumerate(genotype.seq) if distinct == index]
        names.append(f"cell{'s' * (len(positions) != 1)} {', '.join(map(str, positions))}")
    return names


def reduction_cells(genotype: Genotype) -> list[bool]:
    """Whether each distinct cell stands at a reduction position, and nowhere else."""
    seq = range(genotype.num_cells) if genotype.seq is None else genotype.seq
    positions = [
        {p for p, distinct in enumerate(seq) if distinct == index}
        for index in range(len(genotype.genes))
    ]
    return [bool(own) and own <= set(genotype.reductions) for own in positions]


def _dash(line_style) -> str:
    """A line style of matplotlib as SVG says it: "solid" or lengths in pixels."""
    if line_style == "-":
        return "solid"
    return ",".join(f"{length * _LINE_WIDTH * _PIXELS / 72:.1f}" for length in line_style[1])


def _card(name: str, reduction: bool, attributes: str) -> str:
    """A named frame around an empty svg, which `page.js` finds by its attributes and fills."""
    label = html.escape(name)
    badge = ' <span class="badge">reduction</span>' if reduction else ""
    return (
        f'<div class="card{" reduction" if reduction else ""}"><h4>{label}{badge}</h4>'
        f'<svg role="img" aria-label="{label}" {attributes}></svg></div>'
    )


def _table_cell(name: str, value: Any) -> str:
    """A cell that also knows its column's name, which it shows where rows stand as blocks."""
    label = f'data-label="{html.escape(name)}"'
    if value is None:
        return f"<td {label}></td>"
    if isinstance(value, int | float):
        return f'<td class="number" {label}>{value:,}</td>'
    return f"<td {label}>{html.escape(str(value))}</td>"


def _has_numbers(trace: dict) -> bool:
    values = trace.get("z") or trace["y"]
    return any(value is not None for value in values)


def _finite(value: Any) -> Any:
    """Floats of 5 digits, which the eye cannot tell from more; what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value

"""One self-contained HTML page of charts, drawn cells and tables; it opens without a network.

`page.html.j2` is its markup. Charts are plotly's, whose script is part of the page; cells and heatmaps
are drawn by `cells`, as in the pictures of a genotype. Words that need an explanation lead to their entry
at the end of the page, see `terms`.
"""

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ddarts_jax.files import writing
from ddarts_jax.genotypes.genotype import Cell, Genotype
from ddarts_jax.reports import cells as drawn
from ddarts_jax.reports import charts, terms
from ddarts_jax.reports.palette import styles


class Page:
    """A page that grows from top to bottom; `write` makes the file.

    Every text is plain: the template escapes whatever HTML would interpret.
    """

    def __init__(self, title: str):
        self._title = title
        self._parts: list[tuple[str, dict[str, Any]]] = []
        self._charts: list[dict] = []
        self._primitives: set[str] = set()
        self._settling: dict[str, Any] = {}

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._add("heading", text=text)

    def sentences(self, texts: Iterable[str], kind: str = "found") -> None:
        """Adds a list, one text per item; `kind` is "found", "warning" or "note"."""
        texts = list(texts)
        if texts:
            self._add("sentences", texts=texts, kind=kind)

    def chart(self, title: str, caption: str, figure: go.Figure) -> None:
        """Adds a chart, unless it has no number to show.

        Args:
            title: above it.
            caption: text below it.
            figure: from `charts`.
        """
        if not figure.data:
            return
        index, height = len(self._charts), figure.layout.height
        found = figure.to_plotly_json()
        found["layout"].pop("template", None)  # the page holds it once
        self._charts.append(found)
        self._add("chart", title=title, caption=caption, index=index, height=height)

    def table(
        self,
        title: str,
        caption: str,
        header: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        wide: bool = False,
    ) -> None:
        """Adds a table, unless it has no rows; numbers are on the right and have thousands separators.

        Args:
            title: above it.
            caption: text below it.
            header: names of the columns.
            rows: values by column; None leaves a gap.
            wide: over the whole width of the page.
        """
        rows = [list(row) for row in rows]
        if rows:
            self._add("table", title=title, caption=caption, header=header, rows=rows, wide=wide)

    def cells(
        self, title: str, caption: str, cells: Iterable[tuple[str, Genotype, Cell, bool]]
    ) -> None:
        """Adds drawn cells side by side.

        Args:
            title: above them.
            caption: below a legend of the primitives; without a caption there is no legend.
            cells: (name, genotype, cell, whether it is a reduction cell).
        """
        cells = list(cells)
        self._primitives.update(p for _, _, cell, _ in cells for p, _, _ in cell)
        self._add("cells", title=title, caption=caption, cells=cells)

    def pictures(self, title: str, caption: str, pictures: Iterable[tuple[str, bytes]]) -> None:
        """Adds pictures, unless there are none.

        Args:
            title: above them.
            caption: below them.
            pictures: (what one sees, content of a JPEG file).
        """
        found = [(text, base64.b64encode(content).decode()) for text, content in pictures]
        if found:
            self._add("pictures", title=title, caption=caption, pictures=found)

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
        genes = (cell for genotype in genotypes.values() for cell in genotype.genes)
        self._primitives.update(primitive for cell in genes for primitive, _, _ in cell)
        newest = genotypes[max(genotypes)]
        names = drawn.cell_names(newest)
        self._settling = {
            "genotypes": genotypes,
            "probabilities": probabilities,
            "primitives": primitives,
            "names": names,
        }
        self._add(
            "settling",
            caption=caption,
            heat_caption=heat_caption,
            epochs=list(genotypes),
            names=list(zip(names, drawn.reduction_cells(newest))),
            has_heats=bool(probabilities),
        )

    def folded(self, title: str, rows: Iterable[tuple[str, Any, bool]]) -> None:
        """Adds a table of (name, value, whether it stands out) that opens on demand."""
        rows = list(rows)
        if rows:
            self._add("folded", title=title, rows=rows)

    def write(self, path: Path) -> None:
        """Writes the page; the file is never seen half-written."""
        assets = resources.files(__package__)
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string((assets / "page.html.j2").read_text(encoding="utf-8"))
        look = styles(self._primitives)
        frames = drawn.frames(**self._settling, look=look) if self._settling else []
        data = {
            "charts": self._charts,
            "template": charts.TEMPLATE.to_plotly_json(),
            "frames": _packed(frames),
            "epochs": frames[-1]["epoch"] if frames else 0,
        }
        # A script ends at the first "</script", wherever it is; in JSON the slash may be escaped.
        text = json.dumps(_finite(data), separators=(",", ":")).replace("</", "<\\/")

        def draw(genotype: Genotype, cell: Cell, name: str) -> Markup:
            return Markup(drawn.cell_svg(genotype, cell, look, name))

        def shade(index: int) -> Markup:
            # The last epoch that has probabilities; page.js shows others in the same squares.
            heats = next(frame["heats"] for frame in reversed(frames) if frame["heats"])
            num_nodes = next(iter(self._settling["genotypes"].values())).num_nodes
            names, primitives = self._settling["names"], self._settling["primitives"]
            return Markup(drawn.heat_svg(heats[index], primitives, num_nodes, names[index]))

        used: set[str] = set()  # grows from the top of the page to the entries at its end
        content = template.render(
            title=self._title,
            linked=lambda text: terms.link(text, used),
            used=used,
            terms=terms.entries(),
            parts=self._parts,
            draw=draw,
            shade=shade,
            markup=Markup,
            frame=frames[-1] if frames else None,
            samples=[(name, Markup(drawn.legend_svg(style, name))) for name, style in look.items()],
            style=Markup((assets / "page.css").read_text(encoding="utf-8")),
            script=Markup((assets / "page.js").read_text(encoding="utf-8")),
            plotly=Markup(get_plotlyjs()),
            data=Markup(text),
        )
        with writing(path) as temporary:
            temporary.write_text(content, encoding="utf-8", errors="replace")

    def _add(self, macro: str, **part) -> None:
        """Adds a part that a macro of the template draws."""
        self._parts.append((macro, part))


def _packed(frames: Sequence[dict]) -> str:
    """Packs the drawings of all epochs, which are much alike: gzip in base64."""
    text = json.dumps(frames, separators=(",", ":")).encode("utf-8", errors="replace")
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


def _finite(value: Any) -> Any:
    """Rounds floats to 5 digits, more than the eye can tell; what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value

"""Drawings made of a few shapes, written as SVG or, by matplotlib, as PNG.

Lengths are pixels of the SVG, y points downwards. Whoever draws with these shapes draws once for both
formats.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from matplotlib import patches
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline

from ddarts_jax.files import write_text, writing

PIXELS_PER_INCH = 100
FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

_POINTS = 72 / PIXELS_PER_INCH
# Characters that XML cannot hold, not even escaped; a primitive may have any name.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through two points, or a quadratic curve from the first of three to the last."""

    points: tuple[Point, ...]
    colour: str
    width: float
    dash: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Polygon:
    """A filled polygon."""

    points: tuple[Point, ...]
    colour: str


@dataclasses.dataclass(frozen=True)
class Circle:
    """A circle around (x, y)."""

    x: float
    y: float
    radius: float
    fill: str
    stroke: str


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A rectangle with its upper left corner at (x, y).

    In a browser `title` is its tooltip, and `kind` a class whose border the page's style sheet knows.
    """

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    rounding: float = 0
    fill_opacity: float = 1
    kind: str = ""
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """Text with its baseline at y; `anchor` is "start", "middle" or "end"; upright=False rotates it."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    anchor: str = "middle"
    bold: bool = False
    upright: bool = True


@dataclasses.dataclass(frozen=True)
class Group:
    """Shapes that belong together and are moved by (x, y); `title` is their tooltip in a browser."""

    shapes: tuple
    title: str = ""
    x: float = 0
    y: float = 0


def to_svg(shapes: Iterable, box: Sequence[float], label: str, *, standalone: bool = False) -> str:
    """Returns an `<svg>` element.

    Args:
        shapes: drawn in this order.
        box: left, top, width and height of what is visible.
        label: description for people who do not see it.
        standalone: whether it is a file of its own, with a size and a white ground.
    """
    attributes = (
        f"viewBox={quoteattr(' '.join(map(_text, box)))} role='img' aria-label={_quote(label)}"
    )
    ground = ""
    if standalone:
        width, height = map(_text, box[2:])
        attributes += f' xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    content = "".join(map(_svg, shapes))
    return f"<svg {attributes} font-family={quoteattr(FONT)}>{ground}{content}</svg>"


def write(shapes: Sequence, width: float, height: float, path_stem: str, label: str) -> None:
    """Writes the pictures `<path_stem>.svg` and `<path_stem>.png`; equal shapes give equal files."""
    svg = to_svg(shapes, (0, 0, width, height), label, standalone=True)
    write_text(f"{path_stem}.svg", svg + "\n")
    size = width / PIXELS_PER_INCH, height / PIXELS_PER_INCH
    figure = Figure(figsize=size, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for shape in shapes:
        _paint(axes, shape, 0, 0)
    with writing(f"{path_stem}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _svg(shape) -> str:
    match shape:
        case Group(shapes, title, x, y):
            place = f' transform="translate({_text(x)} {_text(y)})"' if x or y else ""
            return f"<g{place}>{''.join(map(_svg, shapes))}{_title(title)}</g>"
        case Line(points, colour, width, dash):
            start, *others = map(_point, points)
            curve = f"M{start}{'Q' if len(others) == 2 else 'L'}{' '.join(others)}"
            dashes = f' stroke-dasharray="{",".join(map(_text, dash))}"' if dash else ""
            return f'<path d="{curve}" fill="none" stroke="{colour}" stroke-width="{width:.4g}"{dashes}/>'
        case Polygon(points, colour):
            corners = " ".join(map(_point, points))
            return f'<polygon points="{corners}" fill="{colour}"/>'
        case Circle(x, y, radius, fill, stroke):
            return (
                f'<circle cx="{_text(x)}" cy="{_text(y)}" r="{_text(radius)}" fill="{fill}" '
                f'stroke="{stroke}"/>'
            )
        case Rectangle():
            border = f' stroke="{shape.stroke}"' if shape.stroke else ""
            border += f' rx="{shape.rounding}"' if shape.rounding else ""
            border += f' class="{shape.kind}" fill-opacity="{shape.fill_opacity:g}"' * bool(
                shape.kind
            )
            return (
                f'<rect x="{_text(shape.x)}" y="{_text(shape.y)}" width="{_text(shape.width)}" '
                f'height="{_text(shape.height)}" fill="{shape.fill}"{border}>'
                f"{_title(shape.title)}</rect>"
            )
        case Text():
            x, y = _text(shape.x), _text(shape.y)
            place = f'x="{x}" y="{y}"'
            if not shape.upright:
                place = f'transform="translate({x} {y}) rotate(-90)"'
            weight = ' font-weight="bold"' if shape.bold else ""
            return (
                f'<text {place} font-size="{shape.size}" text-anchor="{shape.anchor}" '
                f'fill="{shape.colour}"{weight}>{_escape(shape.text)}</text>'
            )
    raise TypeError(f"{type(shape)} is not a shape")


def _paint(axes, shape, dx: float, dy: float) -> None:
    """Draws a shape, moved by (dx, dy), with matplotlib."""
    match shape:
        case Group():
            for inner in shape.shapes:
                _paint(axes, inner, dx + shape.x, dy + shape.y)
            return
        case Text():
            axes.text(
                shape.x + dx,
                shape.y + dy,
                shape.text,
                size=shape.size * _POINTS,
                color=shape.colour,
                ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
                va="baseline",
                weight="bold" if shape.bold else "normal",
                rotation=0 if shape.upright else 90,
                parse_math=False,
            )
            return
        case Line():
            curve = [Outline.MOVETO] + [
                Outline.LINETO if len(shape.points) == 2 else Outline.CURVE3
            ] * (len(shape.points) - 1)
            width = shape.width * _POINTS
            dashes = [length * _POINTS / width for length in shape.dash]
            patch = patches.PathPatch(
                Outline([(x + dx, y + dy) for x, y in shape.points], curve),
                fill=False,
                edgecolor=shape.colour,
                linewidth=width,
                linestyle=(0, dashes) if dashes else "-",
            )
        case Polygon():
            corners = [(x + dx, y + dy) for x, y in shape.points]
            patch = patches.Polygon(corners, facecolor=shape.colour, edgecolor="none")
        case Circle():
            patch = patches.Circle(
                (shape.x + dx, shape.y + dy),
                shape.radius,
                facecolor=shape.fill,
                edgecolor=shape.stroke,
                linewidth=_POINTS,
            )
        case Rectangle():
            patch = patches.FancyBboxPatch(
                (shape.x + dx, shape.y + dy),
                shape.width,
                shape.height,
                boxstyle=f"round,pad=0,rounding_size={shape.rounding or 0.01}",
                facecolor=shape.fill,
                edgecolor=shape.stroke or "none",
                linewidth=_POINTS,
            )
        case _:
            raise TypeError(f"{type(shape)} is not a shape")
    axes.add_patch(patch)


def _text(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _point(point: Point) -> str:
    return f"{_text(point[0])},{_text(point[1])}"


def _title(title: str) -> str:
    return f"<title>{_escape(title)}</title>" if title else ""


def _escape(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _quote(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))

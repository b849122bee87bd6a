"""Colours of curves and of primitives, the same in every chart and picture."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterable

INK, FAINT = "#1f2937", "#c3c8d0"

# Curves: a colour-blind-safe palette (Okabe and Ito); dashes distinguish further curves.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#4b5563", "#111827")


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of a primitive's arrows.

    Attributes:
        colour: "#rrggbb".
        dash: lengths of dashes and gaps in pixels; empty for a solid line.
    """

    colour: str
    dash: tuple[float, ...] = ()


# Colour by primitive, so that pictures of different genotypes compare; dashes by family, so that they
# can also be read in grey: convolutions solid, dilated dash-dotted, pools dashed, skip dotted.
_DILATED, _POOL, _SKIP = (10.4, 2.5, 2.1, 2.5), (6.2, 2.5), (2.1, 2.1)
_PRIMITIVES = {
    "max_pool_3x3": Style("#d9381e", _POOL),
    "avg_pool_3x3": Style("#f2a33a", _POOL),
    "skip_connect": Style("#4b5563", _SKIP),
    "sep_conv_3x3": Style("#4ba3e3"),
    "sep_conv_5x5": Style("#0b4f9e"),
    "dil_conv_3x3": Style("#4fc06b", _DILATED),
    "dil_conv_5x5": Style("#0f6b3a", _DILATED),
    "conv_3x1_1x3": Style("#c792ea"),
    "conv_7x1_1x7": Style("#7b2d9e"),
    "simple_conv_1x1": Style("#f08fc0"),
    "simple_conv_3x3": Style("#c2185b"),
    "bottleneck_1x3x1": Style("#8c6239"),
}
# For primitives that a user has registered.
_OTHERS = tuple(
    Style(colour, dash)
    for dash, colour in itertools.product(
        ((), _DILATED, _POOL, _SKIP), ("#111827", "#0e9aa7", "#a3a119", "#7f1d1d")
    )
)


def styles(primitives: Iterable[str]) -> dict[str, Style]:
    """Returns the style of each primitive: the known ones first, in a fixed order, then any others.

    A style follows from the name, so that it is the same in pictures of other primitives; only where two
    names would share one, the later name takes the next.
    """
    occurring = set(primitives)
    found = {name: style for name, style in _PRIMITIVES.items() if name in occurring}
    for name in sorted(occurring - set(_PRIMITIVES)):
        first = zlib.crc32(name.encode("utf-8", errors="replace")) % len(_OTHERS)
        wanted = _OTHERS[first:] + _OTHERS[:first]
        taken = set(found.values())
        found[name] = next((style for style in wanted if style not in taken), wanted[0])
    return found

"""The words of the reports that need an explanation: `terms.md`, a page of the documentation too.

A report brings the entries along that it uses: it may be read without a network, and far from here.
"""

import functools
import re
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup, escape


class Term(NamedTuple):
    """An entry.

    Attributes:
        title: its names, joined by commas.
        text: what it means, without markup.
    """

    title: str
    text: str


@functools.cache
def entries() -> dict[str, Term]:
    """Returns the entries by their anchors, which are those of the page in the documentation."""
    page = (resources.files(__package__) / "terms.md").read_text(encoding="utf-8")
    found = {}
    for entry in page.split("\n## ")[1:]:
        title, _, text = entry.partition("\n")
        text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text).replace("`", "").strip()
        found[re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")] = Term(title, text)
    return found


def link(text: str, used: set[str]) -> Markup:
    """Returns a text as markup in which the first mention of each term leads to its entry.

    Args:
        text: plain.
        used: anchors of the entries that the page needs; those of the text are added.
    """
    pattern, anchors = _names()
    here = set()

    def linked(match: re.Match) -> str:
        anchor = anchors[match.lastindex - 1]
        if anchor in here:
            return match[0]
        here.add(anchor)
        return f'<a class="term" href="#{anchor}">{match[0]}</a>'

    found = pattern.sub(linked, str(escape(text)))
    used |= here
    return Markup(found)


@functools.cache
def _names() -> tuple[re.Pattern, list[str]]:
    """Returns what finds any name of a term, in singular or plural, and the anchor of each group."""
    names = [(name, key) for key, term in entries().items() for name in term.title.split(", ")]
    names.sort(key=lambda pair: -len(pair[0]))  # the longest first: "zero-one loss" before "loss"
    alternatives = (
        rf"({re.escape(name[:-1])}(?:y|ies))"
        if name.endswith("y")
        else rf"({re.escape(name)}(?:e?s)?)"
        for name, _ in names
    )
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE), [
        key for _, key in names
    ]

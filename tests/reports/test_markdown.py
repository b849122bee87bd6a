"""Tables of Markdown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.reports import markdown

markdown_it = pytest.importorskip("markdown_it")

cells = st.text(st.characters(categories=["L", "N"], include_characters="|\n .%±"), max_size=12)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1)
    )
)
def test_a_reader_of_markdown_finds_the_cells_that_were_written(lines):
    """Whatever a cell says: no bar in it ends it and no line break its row."""
    header, *rows = lines
    tokens = (
        markdown_it.MarkdownIt("commonmark").enable("table").parse(markdown.table(header, rows))
    )
    found = [token.content for token in tokens if token.type == "inline"]
    said = [" ".join(cell.splitlines()).strip(" ") for line in lines for cell in line]
    assert [" ".join(cell.split()) for cell in found] == [" ".join(cell.split()) for cell in said]


def test_numbers_are_cells():
    """Also in the header, as a sweep's column may be."""
    assert markdown.table(["n", 1], [[3, None]]) == "| n | 1 |\n| --- | --- |\n| 3 | None |"

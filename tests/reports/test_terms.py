"""The words of a report that lead to their meaning."""

import re

import pytest
import synthetic
import tiny

from ddarts_jax.reports import page, report, terms
from ddarts_jax.runs.table import CHARTS


def anchors_of_the_page():
    """Those that the documentation gives the headings of its page, which includes `terms.md`."""
    included = re.search(r"{include} (\S+)", (tiny.ROOT / "docs" / "terms.md").read_text())[1]
    text = (tiny.ROOT / "docs" / included).read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    return ["-".join(re.findall(r"[a-z-]+\d*", heading.lower())) for heading in headings]


def test_every_entry_is_a_heading_of_the_documentation():
    """The fragment of a link is the same there; entries are in alphabetical order and say something."""
    assert [*terms.entries()] == anchors_of_the_page() == sorted(terms.entries())
    assert all(len(term.text) > 30 and "](" not in term.text for term in terms.entries().values())


def test_a_report_links_its_terms_to_entries_that_it_brings_along(tmp_path, monkeypatch):
    """Each link leads to a place on the page, which the documentation has too, and no entry is idle."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")
    text = report.write(synthetic.write_run(tmp_path / "run")).read_text(encoding="utf-8")
    links, places = (
        re.findall(r'<a class="term" href="#([^"]+)"', text),
        re.findall('dt id="(.+?)"', text),
    )
    assert set(links) == set(places) <= set(anchors_of_the_page()) and len(places) > 20
    ids = re.findall(r' id="([^"]+)"', text)
    assert all(ids.count(place) == 1 for place in places)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: f"{chart.phase}: {chart.title}")
def test_every_chart_leads_to_a_term(chart):
    """By its title; speed and time are plain words."""
    used = set()
    terms.link(chart.title, used)
    assert used or chart.title.startswith(("Speed", "Time"))


def test_names_are_found_as_people_write_them():
    """The longest name, in singular and plural, once in a text; what looks like markup stays text."""
    used = set()
    found = terms.link(
        "Zero-one losses < probabilities of parameter-free cells, cell by cell", used
    )
    assert used == {"zero-one-loss", "gate-probability", "parameter-free", "cell"}
    assert found.count("<a ") == 4 and "losses</a> &lt; <a" in found
    assert terms.link("<b>acknowledged</b>", used) == "&lt;b&gt;acknowledged&lt;/b&gt;"

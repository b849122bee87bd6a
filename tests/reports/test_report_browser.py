"""The pages in a real browser: nothing is cut off, nothing is loaded, nothing fails."""

import shutil
from itertools import product
from types import SimpleNamespace

import pytest
from synthetic import write_run

from ddarts_jax.reports import comparison, report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

_WIDTHS = (1280, 390)

# Elements that reach over the edge of the page, those inside a box that scrolls aside.
_TOO_WIDE = """() => [...document.querySelectorAll("main *")]
    .filter((e) => !e.closest(".scroll") && e.getClientRects().length)
    .filter((e) => {
        const box = e.getBoundingClientRect();
        return box.left < -1 || box.right > document.documentElement.clientWidth + 1;
    })
    .map((e) => e.tagName + "." + (e.className.baseVal ?? e.className))"""

# Texts of charts that stand outside of their drawing, or on a text of another part of it.
_CUT_TEXTS = """() => {
    const found = [];
    for (const chart of document.querySelectorAll(".chart")) {
        const frame = chart.getBoundingClientRect();
        const boxes = [...chart.querySelectorAll("text")]
            .filter((text) => text.textContent && text.getClientRects().length)
            .map((text) => [text, text.getBoundingClientRect()]);
        for (const [text, box] of boxes) {
            const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
                && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
            if (!inside) found.push(`outside: ${text.textContent}`);
            for (const [other, b] of boxes) {
                const legend = text.closest(".legend"), axis = other.closest(".xtick, .g-xtitle");
                if (legend && axis && box.top < b.bottom - 2 && box.bottom > b.top + 2
                    && box.left < b.right && box.right > b.left) {
                    found.push(`${text.textContent} on ${other.textContent}`);
                }
            }
        }
    }
    return found;
}"""

_SIZES = """() => [...document.querySelectorAll("main figure, .chart, .chart svg.main-svg, .card svg")]
    .map((e) => e.getBoundingClientRect()).map((box) => [box.width, box.height])"""

_WITHOUT_MARKS = """() => [...document.querySelectorAll(".chart")]
    .filter((chart) => !chart.querySelector(".points path, .point path, .hm image"))
    .map((chart) => chart.parentElement.innerText)"""


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("needs the program chromium (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, in which chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of a whole run, of a first epoch and of a training, and a comparison."""
    root = tmp_path_factory.mktemp("runs")
    whole = write_run(root / "whole", num_cells=5, num_nodes=3)
    twin = write_run(root / "twin", num_cells=5, num_nodes=3, seed=1)
    first = write_run(
        root / "first",
        search_epochs=1,
        train_epochs=0,
        ended=False,
        search__ddarts__zero_one_weight=0.5,
    )
    training = write_run(root / "training", search_epochs=0, ended=False)
    (root / "compared").mkdir()
    runs = ",".join(map(str, (whole, twin, first, training)))
    comparison.run(SimpleNamespace(runs=runs), root / "compared")
    found = {path.name: report.write(path) for path in (whole, first, training)}
    return found | {"compared": root / "compared" / "report.html"}


@pytest.fixture
def open_page(browser):
    """Opens a file at a width; what the browser complains about or asks for ends the test."""
    opened, complaints = [], []

    def open_(path, width):
        page = browser.new_page(viewport={"width": width, "height": 844})
        opened.append(page)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: complaints.append(f"asks for {request.url}"))
        page.goto(path.as_uri())
        return page

    yield open_
    for page in opened:
        page.close()
    assert complaints == [f"asks for {page.url}" for page in opened]


@pytest.mark.parametrize(
    ("name", "width"),
    [*product(("whole", "compared"), _WIDTHS), ("first", 390), ("training", 390)],
)
def test_a_page_fits_and_draws_everything(pages, open_page, name, width):
    """No sideways scroll, nothing over the edge, no text cut or covered, no empty figure."""
    page = open_page(pages[name], width)
    scroll, client = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert scroll <= client == width
    assert page.evaluate(_TOO_WIDE) == []
    assert page.evaluate(_CUT_TEXTS) == []
    sizes = page.evaluate(_SIZES)
    assert len(sizes) > 10 and all(w > 50 and h > 50 for w, h in sizes)
    assert page.locator(".chart").count() > 3 and page.evaluate(_WITHOUT_MARKS) == []


@pytest.mark.parametrize("width", _WIDTHS)
def test_the_slider_changes_cells_and_heatmaps(pages, open_page, width):
    """Back to the first epoch and forth again: other pictures, then the same ones."""
    page = open_page(pages["whole"], width)
    slider = page.locator("#epoch")

    def shown():
        return page.evaluate(
            "[...document.querySelectorAll('.card [data-index]')].map((e) => e.innerHTML)"
        )

    last = shown()
    assert len(last) == 10 and all(last)
    assert page.locator(".slider output").inner_text() == "epoch 4 of 4"
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "document.querySelector('.slider output').textContent.startsWith('epoch 1 ')"
    )
    assert page.locator(".slider output").inner_text() == "epoch 1 of 4"
    assert any(a != b for a, b in zip(shown()[:5], last[:5]))
    assert all(a != b for a, b in zip(shown()[5:], last[5:]))
    page.keyboard.press("End")
    page.wait_for_function(
        "document.querySelector('.slider output').textContent.startsWith('epoch 4 ')"
    )
    assert shown() == last


def test_a_turned_phone_redraws_the_charts(pages, open_page):
    """A window of another width gets charts of that width."""
    page = open_page(pages["whole"], 1280)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(
        "[...document.querySelectorAll('.chart .main-svg')].every((e) => e.clientWidth <= 390)"
    )
    assert page.evaluate(_TOO_WIDE) == [] and page.evaluate(_CUT_TEXTS) == []


def test_every_kept_primitive_is_an_arrow_in_the_colour_of_the_legend(pages, open_page):
    """The title of an arrow names its primitive, whose sample in the legend looks the same."""
    page = open_page(pages["whole"], 1280)
    drawn = page.evaluate(
        """() => [...document.querySelectorAll(".cell[data-index] g")].map((g) =>
            [g.querySelector("title").textContent, g.querySelector("path").getAttribute("stroke")])"""
    )
    legend = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".settling .legend span")].map(
            (e) => [e.textContent, e.querySelector("path").getAttribute("stroke")]))"""
    )
    assert drawn and len(set(legend.values())) == len(legend)
    assert [legend[title.partition(":")[0]] for title, _ in drawn] == [
        colour for _, colour in drawn
    ]


def test_dark_on_the_screen_and_light_on_paper(pages, open_page):
    """A reader who prefers dark gets it; paper is white, with every chart on one page."""
    page = open_page(pages["whole"], 390)

    def style(selector, name):
        code = "([s, n]) => getComputedStyle(document.querySelector(s))[n]"
        return page.evaluate(code, [selector, name])

    assert style("main", "filter") == "none"
    page.emulate_media(color_scheme="dark")
    assert (
        "invert" in style("main", "filter")
        and style("body", "backgroundColor") == "rgb(20, 20, 20)"
    )
    page.emulate_media(color_scheme="dark", media="print")
    assert style("main", "filter") == "none"
    # Headings stay with their charts only in a block, not in a grid.
    assert style("main", "display") == "block"
    broken = "[...document.querySelectorAll('figure')].map((e) => getComputedStyle(e).breakInside)"
    found = page.evaluate(broken)
    assert found.count("auto") == page.locator(".cards").count() == 2
    assert found.count("avoid") == len(found) - 2 > 10

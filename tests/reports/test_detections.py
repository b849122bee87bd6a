"""The part of a report that shows a detector, from whole, partial and broken workdirs."""

import base64
import io
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic import write_detector
from test_report import change_a_value, report_of, without_plotly  # noqa: F401, a fixture

from ddarts_jax.errors import UserError
from ddarts_jax.runs.table import CHARTS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, which no test changes."""
    return write_detector(tmp_path_factory.mktemp("finished") / "run")


def test_a_finished_detector_says_what_it_reaches(run):
    """AP and cost, in words and in tables by class and by part."""
    found = report_of(run)
    said = (
        "reaches a box AP of 50.0 and a mask AP of 45.0 on the test images; it has 1,000 parameters"
    )
    assert said in found.words
    assert {"50", "45"} <= {cell.removesuffix(".0") for cell in found.text["td"]}
    assert "AP medium" in found.text["td"] and "ox" in found.text["td"]
    for part in ("backbone", "pyramid", "heads", "600", "300,000"):
        assert part in found.text["td"], part
    (bars,) = found.chart("AP by class")
    assert bars["x"] == ["cat", "dog", "ox"] and bars["y"] == [0.5] * 3


def test_every_metric_of_a_detector_is_drawn(run):
    """Each chart of the table is there with a curve for each of its metrics."""
    found = report_of(run)
    own = [chart for chart in CHARTS if chart.phase == "detect"]
    assert len(own) >= 6
    for chart in own:
        assert len(found.chart(chart.title)) == len(chart.metrics), chart.title


def test_pictures_fit_the_page(run, tmp_path):
    """All that can be read, no wider than a page; one that a killed run left half is left out."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "pictures" / "03.png").write_bytes((copy / "pictures" / "02.png").read_bytes()[:60])
    page = (report_of(copy), copy / "report.html")[1].read_text()
    found = [
        Image.open(io.BytesIO(base64.b64decode(content)))
        for content in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    ]
    assert [picture.size for picture in found] == [(900, 45), (900, 90)]
    assert 'alt="test image 01"' in page


@pytest.mark.parametrize(
    ("removed", "part"),
    [
        (("summary.json",), "has reached a box AP of 50.0 so far"),
        (("summary.json", "detection.json", "pictures"), "epoch 4 of 4 of the detector's training"),
        (("summary.json", "metrics.jsonl"), "no finished epoch yet"),
        (("config.json",), "has ended"),
    ],
)
def test_an_unfinished_detector_shows_what_there_is(run, tmp_path, removed, part):
    """No file is required."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in removed:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    assert part in report_of(copy).words


@settings(max_examples=60)
@given(st.sampled_from(["detection.json", "summary.json", "metrics.jsonl"]), st.data())
def test_a_value_of_another_kind_is_drawn_or_refused(run, tmp_path_factory, name, data):
    """JSON that no run writes neither crashes nor breaks the page."""
    copy = tmp_path_factory.mktemp("changed") / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("pictures"))
    change_a_value(copy / name, data)
    try:
        assert report_of(copy).text["h1"]
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    finally:
        shutil.rmtree(copy)

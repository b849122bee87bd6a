"""The part of a report that shows a detector: pictures of what it finds, and AP by class and size."""

import io
from pathlib import Path

import plotly.graph_objects as go

from ddarts_jax.reports import charts
from ddarts_jax.reports.page import Page
from ddarts_jax.reports.palette import COLOURS
from ddarts_jax.runs import rows
from ddarts_jax.runs.run import Run

_SIZES = ("all", "small", "medium", "large")
_WIDEST = 900  # pixels of a picture in the page


def add(page: Page, run: Run) -> None:
    """Adds pictures and numbers of the detector of a run."""
    page.pictures(
        "What it finds",
        "Some of the test images: the ground truth left, right what is detected with a probability of at "
        "least 0.3. All detections are in detections.json.",
        [
            (path.stem, _small(path))
            for path in sorted((run.workdir / "pictures").glob("[0-9]*.png"))
        ],
    )
    numbers = run.detection.get("numbers")
    if isinstance(numbers, dict):
        page.table(
            "The twelve numbers of COCO",
            "AP: average precision, over overlaps (IoU) from 0.5 to 0.95 where none is named; AR: "
            "average recall, with at most so many detections an image. Objects are small up to 32 x 32 "
            "pixels and large above 96 x 96; a gap: there are none.",
            ("number", "percent"),
            [(key.replace("_", " "), _percent(value)) for key, value in numbers.items()],
        )
    classes = [each for each in run.detection.get("classes") or [] if isinstance(each, dict)]
    found = [
        (str(each.get("name")), rows.number(each.get("objects")), each.get("AP") or {})
        for each in classes
    ]
    if not found:
        return
    page.chart(
        "AP by class",
        "Average precision of each class on the test images.",
        charts.figure(
            [
                go.Bar(
                    x=[name for name, _, _ in found],
                    y=[_fraction(ap.get("all")) for _, _, ap in found],
                    marker_color=COLOURS[0],
                )
            ],
            unit="fraction",
            x="class",
            y="AP",
            xaxis_type="category",
            hovermode="closest",
        ),
    )
    page.table(
        "AP by class and size",
        "In percent; a gap: the class has no such object.",
        ("class", "objects", *_SIZES),
        [
            (name, objects, *(_percent(ap.get(size)) for size in _SIZES))
            for name, objects, ap in found
        ],
    )


def _fraction(value) -> float | None:
    """A number of COCO, None where it says that there is no such object."""
    number = rows.number(value)
    return None if number is None or number < 0 else number


def _percent(value) -> float | None:
    number = _fraction(value)
    return None if number is None else round(100 * number, 1)


def _small(path: Path) -> bytes:
    """The picture as a JPEG that is no wider than a page."""
    from PIL import Image

    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)))
    content = io.BytesIO()
    picture.save(content, "jpeg", quality=88)
    return content.getvalue()

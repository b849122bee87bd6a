"""The part of a report that shows a detector: pictures of what it finds, and AP by class and size."""

import io
from collections.abc import Iterator
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
        _pictures(run.workdir / "pictures"),
    )
    kinds = {
        "boxes, %": run.detection.get("numbers"),
        "masks, %": run.detection.get("mask_numbers"),
    }
    kinds = {title: numbers for title, numbers in kinds.items() if isinstance(numbers, dict)}
    page.table(
        "The twelve numbers of COCO",
        "AP: average precision, over overlaps (IoU) from 0.5 to 0.95 where none is named; AR: average "
        "recall, with at most so many detections an image. Objects are small up to 32 x 32 pixels and "
        "large above 96 x 96; a gap: there are none.",
        ("number", *kinds),
        [
            (key.replace("_", " "), *(_percent(own.get(key)) for own in kinds.values()))
            for key in dict.fromkeys(key for numbers in kinds.values() for key in numbers)
        ],
    )
    found = _classes(run.detection.get("classes"))
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


def _classes(content) -> list[tuple[str, float | None, dict]]:
    """Name, number of objects and AP by size of each class, where a file says so."""
    kept = [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    aps = [each.get("AP") for each in kept]
    return [
        (
            str(each.get("name")),
            rows.number(each.get("objects")),
            ap if isinstance(ap, dict) else {},
        )
        for each, ap in zip(kept, aps)
    ]


def _fraction(value) -> float | None:
    """A number of COCO, None where it says that there is no such object."""
    number = rows.number(value)
    return None if number is None or number < 0 else number


def _percent(value) -> float | None:
    number = _fraction(value)
    return None if number is None else round(100 * number, 1)


def _pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and JPEG of each picture that can be read, no wider than a page."""
    from PIL import Image

    for path in sorted(folder.glob("[0-9]*.png")):
        try:
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
        except Exception:  # Corrupt images make Pillow's decoders raise nearly anything.
            continue
        if picture.width > _WIDEST:
            picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)))
        content = io.BytesIO()
        picture.save(content, "jpeg", quality=88)
        yield f"test image {path.stem}", content.getvalue()

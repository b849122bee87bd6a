"""Pictures of precision over recall and of AP by class."""

import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np

from ddarts_jax.reports.detection_drawing import draw_ap_by_class, draw_precision_recall

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def _texts(path):
    root = ElementTree.parse(path).getroot()
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_precision_over_recall(tmp_path):
    """The mean of the classes that have objects, with AP at every second threshold."""
    precision = np.full((10, 101, 3), -1.0)
    precision[..., 0] = np.linspace(1, 0.1, 10)[:, None]
    precision[..., 1] = precision[..., 0] / 2
    draw_precision_recall(precision, THRESHOLDS, tmp_path / "curves", "$x< boxes")
    texts = _texts(tmp_path / "curves.svg")
    assert {"$x< boxes", "recall", "IoU 0.50: AP 75.0", "IoU 0.90: AP 15.0"} <= {*texts}
    assert sum(text.startswith("IoU") for text in texts) == 5
    assert matplotlib.image.imread(tmp_path / "curves.png")[..., :3].min() < 0.5


def test_nothing_to_find_is_drawn(tmp_path):
    """Without objects there are no curves to average, and no bars."""
    draw_precision_recall(np.full((10, 101, 2), -1.0), THRESHOLDS, tmp_path / "curves")
    draw_ap_by_class(["a", "b"], np.array([-1.0, -1.0]), tmp_path / "bars")
    assert "IoU 0.50: AP 0.0" in _texts(tmp_path / "curves.svg")
    assert "AP (%)" in _texts(tmp_path / "bars.svg")


def test_ap_by_class(tmp_path):
    """A bar with its number for each class with objects, the best on top; odd names as they are."""
    names, ap = ["a", "$b$ <&", "c", "none"], np.array([0.125, 0.9, 0.5, -1])
    draw_ap_by_class(names, ap, tmp_path / "bars", "AP by class")
    texts = _texts(tmp_path / "bars.svg")
    assert {"a", "c", "$b$ <&", "12.5", "90.0", "50.0", "AP by class"} <= {*texts}
    assert "none" not in texts
    drawn = [text for text in texts if text in names]
    assert drawn == ["a", "c", "$b$ <&"]  # from the bottom up

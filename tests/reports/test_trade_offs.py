"""The front of accuracy over cost."""

from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.reports import drawing
from ddarts_jax.reports.trade_offs import draw, front

_POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1)


@given(points=_POINTS)
def test_the_front_holds_what_no_other_point_surpasses(points):
    """By comparing every point with every other one."""

    def surpassed(point):
        return any(
            other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
        )

    assert front(points) == sorted({point for point in points if not surpassed(point)})


def test_the_picture_has_the_means_their_spreads_and_the_front(monkeypatch):
    """A panel for each cost that a point has; what has no accuracy is left out."""
    figures = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: figures.append(figure))
    points = {
        "a": {"box_ap": (0.5, 0.1), "params": (2e6, 1e5)},
        "b": {"box_ap": (0.4, None), "params": (3e6, None), "latency": (7.0, None)},
        "c $d$": {"box_ap": (0.6, 0.2), "params": (4e6, 0.0)},
        "e": {"params": (1e6, None)},
    }
    draw(points, "box_ap", "box AP", "picture")
    params, latency = figures[0].axes
    assert (params.get_xlabel(), params.get_ylabel()) == ("parameters, million", "box AP, %")
    drawn = [container.lines[0].get_xydata().tolist() for container in params.containers]
    assert drawn == [[[2.0, 50.0]], [[3.0, 40.0]], [[4.0, 60.0]]]
    assert params.lines[-1].get_xydata().tolist() == [[2.0, 50.0], [4.0, 60.0]]
    (bar,) = params.containers[0].lines[2][1].get_segments()
    assert bar[:, 1].tolist() == [40.0, 60.0]
    assert [c.lines[0].get_xydata().tolist() for c in latency.containers] == [[[7.0, 40.0]]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b", "c $d$"]

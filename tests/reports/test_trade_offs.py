"""The front of accuracy over cost."""

from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.reports.trade_offs import front

_POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1)


@given(points=_POINTS)
def test_the_front_holds_what_no_other_point_surpasses(points):
    """By comparing every point with every other one."""

    def surpassed(point):
        return any(
            other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
        )

    assert front(points) == sorted({point for point in points if not surpassed(point)})

"""The PyTorch program that the search step is timed against computes what the search step does."""

import pytest

pytest.importorskip("torch")
import pytorch_step


@pytest.mark.parametrize(("space", "cells", "nodes"), [("darts", 3, 2), ("dartopti", 2, 1)])
def test_both_programs_compute_the_same(space, cells, nodes):
    """Losses, contributions and gradients agree to rounding, so that the times are of one task."""
    found = pytorch_step.small_differences(space, cells, nodes)
    assert set(found) > {"loss", "marginal_contribution", "alphas_gradient", "weights_gradient"}
    assert max(found.values()) < 1e-9


def test_a_difference_is_refused():
    """Programs that compute different things are never timed against each other."""
    pytorch_step.check({"loss": 1e-10}, "float64")
    for value in (1e-8, float("nan")):
        with pytest.raises(SystemExit, match="differ"):
            pytorch_step.check({"loss": 0.0, "alphas_gradient": value}, "float64")


def test_difference_is_relative_to_the_largest_entry():
    """What the tolerance is compared with: one wrong entry in any array shows in full."""
    theirs = {"a": [1.0, -4.0], "b": [[0.5]]}
    assert pytorch_step.difference({"a": [1.0, -4.0], "b": [[2.5]]}, theirs) == 0.5

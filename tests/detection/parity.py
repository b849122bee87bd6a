"""Reference arrays of torchvision for the tests of detection."""

import numpy as np
import pytest
import tiny

ARRAYS = tiny.SHARED / "detection"


def arrays(name: str):
    """Reads one file of arrays, or skips the test where there is none."""
    path = ARRAYS / f"{name}.npz"
    if not path.exists():
        pytest.skip("the reference arrays are not here")
    return np.load(path)


def assert_near(actual, expected, bar=5e-5):
    """No number differs by more than `bar` times the largest."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bar * np.abs(expected).max())

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


def convolution(data, name: str) -> dict:
    """The weights of one of torchvision's convolutions, as those of ours."""
    kernel = data[f"weights/{name}.weight"].transpose(2, 3, 1, 0)
    return {"kernel": kernel, "bias": data[f"weights/{name}.bias"]}


def pyramid(data, prefix: str, inputs: int, top=("p6", "p7")) -> dict:
    """The weights of torchvision's pyramid over some inputs, as those of ours."""
    weights = {
        ours: {k: convolution(data, f"{prefix}{theirs}.{k}.0") for k in range(inputs)}
        for ours, theirs in (("lateral", "inner_blocks"), ("output", "layer_blocks"))
    }
    extra = {k: convolution(data, f"{prefix}extra_blocks.{name}") for k, name in enumerate(top)}
    return weights | ({"top": extra} if extra else {})


def features(data) -> list[np.ndarray]:
    """C1 to C5 of the tiny backbone of the whole models: strided 3x3 convolutions with ReLU."""
    import jax

    from ddarts_jax.ops.convolution import convolve

    @jax.jit
    def run(x, weights):
        outputs = []
        for own in weights:
            x = jax.nn.relu(convolve(x, own["kernel"], (2, 2)) + own["bias"])
            outputs.append(x)
        return outputs

    weights = [convolution(data, f"backbone.body.convs.{number}") for number in range(5)]
    return run(data["images"].transpose(0, 2, 3, 1), weights)

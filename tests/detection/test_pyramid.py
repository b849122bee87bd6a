"""The feature pyramid against torchvision's, for odd sizes, and its levels on top."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from ddarts_jax.detection import convolution
from ddarts_jax.detection.pyramid import Pyramid
from ddarts_jax.models import layers


def run(module, weights, inputs):
    graph, (_, statistics) = layers.split(module)
    return layers.apply(graph, layers.Variables(weights, statistics), inputs)[0]


@pytest.mark.parametrize(
    ("file", "kind", "top"), [("p6p7", "strided", ("p6", "p7")), ("pool", "subsampled", ("pool",))]
)
def test_the_pyramid_is_torchvision_s(file, kind, top):
    """Odd sizes are enlarged by nearest neighbours; P7 is made of a rectified P6."""
    data = parity.arrays("fpn")
    part = {name.removeprefix(f"{file}/"): data[name] for name in data if name.startswith(file)}
    inputs = [part[f"input{level}"].transpose(0, 2, 3, 1) for level in range(3)]
    weights = parity.pyramid(part, "", 3, top if kind == "strided" else ())
    outputs = run(Pyramid((4, 6, 10), 8, len(top), kind), weights, inputs)
    for name, output in zip(["0", "1", "2", *top], outputs, strict=True):
        parity.assert_near(output, part[f"output_{name}"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_levels_that_a_backbone_lacks_are_made_on_top(dtype):
    """Sizes halve upwards from a single input on; all levels have the features' dtype."""
    module = Pyramid((3,), 4, 4)
    _, variables = layers.split(module)
    weights = convolution.xavier(jax.random.key(0), variables.weights)
    outputs = run(module, weights, [jnp.ones((2, 13, 6, 3), dtype)])
    sizes = [(13, 6), (7, 3), (4, 2), (2, 1), (1, 1)]
    assert [output.shape for output in outputs] == [(2, *size, 4) for size in sizes]
    assert {output.dtype for output in outputs} == {jnp.dtype(dtype)}


def test_the_bias_gets_its_gradient_in_float32():
    """Of 4096 ones: added up in bfloat16 they would stop at 256."""
    graph, (weights, statistics) = layers.split(convolution.Convolution(1, 1, 1))
    variables = layers.Variables(weights, statistics)

    def total(bias, x):
        changed = variables._replace(weights=weights | {"bias": bias})
        return layers.apply(graph, changed, x)[0].astype(jnp.float32).sum()

    gradient = jax.grad(total)(weights["bias"], jnp.ones((1, 64, 64, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.float32 and gradient[0] == 4096


def test_kernels_start_as_said():
    """Uniform Xavier and normal kernels; biases keep their values."""
    weights = {
        "lateral": {"kernel": np.zeros((1, 1, 300, 200)), "bias": np.zeros(200, np.float32)},
        "output": {"kernel": np.zeros((3, 3, 60, 40)), "bias": np.ones(40, np.float32)},
    }
    for draw, limits in (("xavier", (6 / 500, 6 / 900)), ("normal", None)):
        own = getattr(convolution, draw)(jax.random.key(0), weights)
        kernels = [own[name]["kernel"] for name in weights]
        assert all(kernel.dtype == np.float32 for kernel in kernels)
        assert not np.any(own["lateral"]["bias"]) and np.all(own["output"]["bias"] == 1)
        for kernel, bound in zip(kernels, np.sqrt(limits or (0, 0)), strict=True):
            assert abs(kernel.mean()) < 0.03 * kernel.std()
            if limits:
                assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
                np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
            else:
                np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.02)

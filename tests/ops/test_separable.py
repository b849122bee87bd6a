"""Depthwise-separable convolutions; `test_backend` compares their implementations."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from ddarts_jax.ops import separable


def test_shifted_sums_keep_the_dtypes_of_their_arguments():
    """Gradients of float32 kernels are float32 when the images are bfloat16."""
    x = jnp.array(normal(0, 1, 4, 4, 2), jnp.bfloat16)
    kernels = jnp.ones((3, 3, 1, 2)), jnp.ones((1, 1, 2, 2))
    out, pull_back = jax.vjp(lambda *a: separable.separable_by_shifts(*a, 2, 1), x, *kernels)
    dtypes = [gradient.dtype for gradient in pull_back(jnp.ones_like(out))]
    assert (out.dtype, *dtypes) == (jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32)


@pytest.mark.parametrize("size", [6, 7])
def test_strided_and_dilated_kernels_read_every_other_pixel(x64, size):
    """Leaving out the pixels that are not read first changes nothing, nor do the gradients."""
    arguments = normal(0, 2, size, size + 1, 3), normal(1, 5, 5, 1, 3), normal(2, 1, 1, 3, 4)
    results = []
    for function in (separable.separable_by_folding, separable.separable_by_library):
        run = functools.partial(function, stride=2, dilation=2)
        out, pull_back = jax.vjp(run, *map(jnp.asarray, arguments))
        results.append((out, *pull_back(normal(3, *out.shape))))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "dilation", "groups"), [(16, 1, 1), (256, 1, 256), (256, 2, 1)]
)
def test_what_is_folded(channels, dilation, groups):
    """One dense convolution where its arithmetic is little or the library's gradients are slow."""
    kernels = jnp.zeros((5, 5, 1, channels)), jnp.zeros((1, 1, channels, channels))
    program = jax.make_jaxpr(lambda x: separable.separable_by_folding(x, *kernels, 1, dilation))
    text = str(program(jnp.zeros((1, 4, 4, channels))))
    assert re.findall(r"feature_group_count=(\d+)", text) == [str(groups)]

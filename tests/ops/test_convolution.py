"""Convolution against loops over output pixels in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import EXACT, normal

from ddarts_jax.ops import convolution


def numpy_convolve(x, kernel, stride, dilation, padding, groups):
    """Cross-correlation of x [B, H, W, Cin] with kernel [kh, kw, Cin / groups, Cout]."""
    kh, kw, per_group, cout = kernel.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (padded.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    width = (padded.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((len(x), height, width, cout))
    for i, j, o in np.ndindex(height, width, cout):
        group = o // (cout // groups)
        channels = slice(group * per_group, (group + 1) * per_group)
        for k, m in np.ndindex(kh, kw):
            pixel = padded[:, i * stride + k * dilation, j * stride + m * dilation, channels]
            out[:, i, j, o] += pixel @ kernel[k, m, :, o]
    return out


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(
    ("width", "stride", "dilation", "padding", "groups"),
    [
        (3, 1, 1, None, 1),
        (3, 2, 2, None, 2),
        (5, 2, 1, None, 4),
        (5, 1, 2, None, 4),
        (3, 1, 1, 0, 1),
        (1, 1, 1, None, 1),
        (1, 2, 1, 0, 2),
        (1, 1, 1, 1, 1),
    ],
)
def test_convolution_is_that_of_numpy(x64, size, width, stride, dilation, padding, groups):
    """Strides, dilations, groups and padding against loops in float64."""
    x, kernel = normal(0, 2, size, size, 4), normal(1, width, width, 4 // groups, 8)
    actual = convolution.convolve(
        jnp.array(x), jnp.array(kernel), (stride, stride), dilation, padding, groups
    )
    pad = dilation * (width // 2) if padding is None else padding
    np.testing.assert_allclose(
        actual, numpy_convolve(x, kernel, stride, dilation, pad, groups), **EXACT
    )


@pytest.mark.parametrize(
    ("width", "groups", "stride"), [(1, 1, 1), (1, 1, 2), (3, 1, 1), (3, 4, 2)]
)
def test_several_kernels_each_have_their_own_channels(x64, width, groups, stride):
    """Joined kernels compute what they would one by one, forwards and backwards."""
    x, kernels = normal(0, 2, 6, 5, 3 * 4), normal(1, 3, width, width, 4 // groups, 8)
    options = {"stride": (stride, stride), "groups": groups}

    def joined(x, kernels):
        return convolution.convolve(x, kernels, **options)

    def one_by_one(x, kernels):
        parts = zip(jnp.split(x, 3, -1), kernels)
        return jnp.concatenate([convolution.convolve(*part, **options) for part in parts], -1)

    actual, pull = jax.vjp(joined, jnp.array(x), jnp.array(kernels))
    expected, expected_pull = jax.vjp(one_by_one, jnp.array(x), jnp.array(kernels))
    cotangent = jnp.array(normal(2, *expected.shape))
    np.testing.assert_allclose(actual, expected, **EXACT)
    for ours, reference in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        np.testing.assert_allclose(ours, reference, **EXACT)

"""Edges of a cell: those that run together compute what they compute one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import normal

from ddarts_jax.genotypes import spaces
from ddarts_jax.models import primitives, supernet
from ddarts_jax.models.layers import BatchNorm, kernel
from ddarts_jax.ops import backend
from ddarts_jax.ops.convolution import convolve


class Own(nnx.Module):
    """A user's primitive, which knows nothing of joined edges."""

    def __init__(self, channels, stride, *, affine):
        self.own_kernel = kernel(3, 3, channels, channels)
        self.own_norm = BatchNorm(channels, affine)
        self.stride = stride

    def __call__(self, x, train):
        return self.own_norm(convolve(x, self.own_kernel[...], (self.stride,) * 2), train)


@pytest.fixture
def own(monkeypatch):
    """The user's primitive, under its name."""
    monkeypatch.setitem(primitives._BUILDERS, "own_3x3", Own)
    return "own_3x3"


def all_results(net, variables, gates, images):
    """Logits, statistics and gradients by weights and gates in training; logits in evaluation."""

    def loss(weights, gates):
        variables_now = variables._replace(weights=weights)
        logits, _, statistics = supernet.forward(net, variables_now, gates, images, True)
        return jnp.sum(jnp.sin(logits)), (logits, statistics)

    (_, aside), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables.weights, gates)
    return aside, gradients, supernet.forward(net, variables, gates, images, False)[0]


def test_joined_edges_compute_what_single_ones_do(x64, own):
    """Every primitive, strided and not, with dropout: results, statistics, gradients in float64."""
    net, variables = supernet.build(
        num_cells=1,
        num_nodes=2,
        channels=4,
        num_classes=3,
        image_channels=1,
        primitives=(own, *spaces.DARTOPTI_PRIMITIVES),
        reductions=(0,),
        skip_dropout=0.4,
        key=jax.random.key(0),
    )
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
    gates = np.random.default_rng(0).uniform(0.1, 1, net.alphas_shape)
    drawn = net.gates(jnp.array(gates), 0.0, jax.random.key(1))
    assert drawn.shape == (1, 5, gates.shape[-1] + 2)
    gates = jnp.concatenate([gates, drawn[..., -2:]], -1)
    images = jnp.array(normal(1, 3, 7, 6, 1))
    results = {}
    for name in backend.IMPLEMENTATIONS["edges"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(backend.TABLE, "edges", {"cpu": name, "gpu": name})
            # A function of its own: jit would find the other implementation's trace.
            results[name] = jax.jit(lambda *x: all_results(net, *x))(variables, gates, images)
    expected, actual = results.values()
    for ours, reference in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=1e-10)

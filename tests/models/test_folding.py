"""Folded BatchNorm: the numbers of the network stay, its BatchNorms go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import normal

from ddarts_jax.genotypes import spaces
from ddarts_jax.models import folding, layers
from ddarts_jax.models import primitives as prim

_CHANNELS = 4


def _filled(module, seed):
    """Gives all parameters and statistics numbers that no fold could leave out."""
    graph, state = nnx.split(module)
    numbers = np.random.default_rng(seed)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: np.float32(numbers.uniform(0.5, 1.5, leaf.shape)), state)
    )


def _modules():
    """Every primitive at both strides, and the layers around the cells."""
    for name in spaces.DARTOPTI_PRIMITIVES:
        for stride in (1, 2):
            yield f"{name} {stride}", prim.create(name, _CHANNELS, stride, affine=True)
    for number, layer in enumerate(layers.preprocess((4, 4), 5, True, affine=True)):
        yield f"preprocess{number}", layer


@pytest.mark.usefixtures("library")
def test_folding_keeps_the_numbers():
    """Each module gives what it gave, up to rounding, at an odd size too, without a BatchNorm."""
    modules = {name: _filled(each, seed) for seed, (name, each) in enumerate(_modules())}
    folded = {name: nnx.clone(module) for name, module in modules.items()}
    for module in folded.values():
        folding.fold(module)
        assert not [each for _, each in nnx.iter_modules(module) if type(each) is layers.BatchNorm]

    @jax.jit
    def both(x):
        return [{name: each(x, False) for name, each in side.items()} for side in (modules, folded)]

    expected, found = both(jnp.asarray(normal(0, 2, 5, 5, _CHANNELS), jnp.float32))
    for name, outputs in expected.items():
        assert outputs.std() > 0.1, name
        np.testing.assert_allclose(
            found[name], outputs, rtol=0, atol=1e-5 * jnp.abs(outputs).max(), err_msg=name
        )


def test_the_batchnorm_of_a_primitive_of_ones_own_stays():
    """A layer that names no kernel is left alone: what it does before its BatchNorm is not known."""

    class Squared(layers.Normalised):
        def __init__(self):
            self.kernel = layers.kernel(1, 1, 2, 2)
            self.norm = layers.BatchNorm(2, True)

    module = Squared()
    folding.fold(module)
    assert type(module.norm) is layers.BatchNorm

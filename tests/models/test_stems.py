"""The strides of every feature map, by what the networks compute."""

import functools

import jax
import jax.numpy as jnp
import pytest
from families import FAMILIES

from ddarts_jax.errors import UserError
from ddarts_jax.models import network, stems

FIRST = {"plain": 1, "half": 4, "strided": 8}  # stride of the first cell, where it reduces nothing


@pytest.mark.parametrize("stem", ["half", "strided"])
def test_a_stem_of_half_a_channel_is_refused(stem):
    """Its first convolution has half of the channels; "plain" has no such."""
    genotype, _ = FAMILIES["ResNet18"]
    sizes = {"num_classes": 2, "image_channels": 3, "image_size": 64, "key": None}
    with pytest.raises(UserError, match="use at least 2 channels, or the stem 'plain'"):
        network.build(genotype, channels=1, stem=stem, **sizes)
    network.build(genotype, channels=1, stem="plain", **sizes)


@pytest.mark.parametrize("stem", FIRST)
@pytest.mark.parametrize("family", FAMILIES)
def test_strides_and_widths_are_those_that_the_network_has(family, stem):
    """From one size of cells to the next the stride and the channels double; sizes are rounded up."""
    genotype, last = FAMILIES[family]
    height, width = 129, 322
    found = stems.strides(genotype, stem)
    net, variables = network.build(
        genotype,
        channels=4,
        num_classes=0,
        image_channels=3,
        image_size=height,
        stem=stem,
        key=None,
    )
    run = functools.partial(network.features, net, train=False, levels=tuple(found))
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.bfloat16)
    maps, _ = jax.eval_shape(run, variables, images)
    for stride, found_map in zip(found.values(), maps, strict=True):
        assert found_map.shape[1:3] == (-(-height // stride), -(-width // stride))
        assert found_map.dtype == jnp.bfloat16

    by_position = dict(zip(found, maps))
    strides = [found[position] for position in last]
    assert strides == [FIRST[stem] * 2**k for k in range(len(last))]
    ends = {stride: position for position, stride in found.items() if position >= 0}
    assert tuple(ends.values()) == last
    nodes = [len(network._nodes(genotype.cells[position])) for position in last]
    widths = [by_position[position].shape[3] for position in last]
    assert widths == [count * 4 * 2**k for k, count in enumerate(nodes)]
    assert by_position[-1].shape[3] == (12 if stem == "plain" else 4)

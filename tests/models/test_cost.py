"""Cost of a network: the authors' counts exactly, and parts counted by hand."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import zoo
from ddarts_jax.genotypes.genotype import Genotype, existing_nodes
from ddarts_jax.models import network
from ddarts_jax.models.cost import activations, cost


def deep_cost(genotype, setting):
    """Parameters and MACs in a published setting, from a network of 11 cells.

    It has three normal cells before, between and after its reductions. The third of them reads two of
    its own kind, so all further ones of a deeper network cost the same as it.
    """
    arguments = dict(zoo.settings()[setting])
    further = (arguments.pop("cells") - 11) // 3
    found = cost(genotype.expand(11), **arguments)
    counts = (found.params, found.cell_params), (found.macs, found.cell_macs)
    return tuple(total + further * sum(cells[2::4]) for total, cells in counts)


PUBLISHED = json.loads(Path(zoo.__file__).with_name("zoo.json").read_text())["networks"]
FAMILY = [name for name in PUBLISHED if "normal" in PUBLISHED[name]]
INEXPRESSIBLE = ("NASNet", "AmoebaNet")


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in INEXPRESSIBLE])
def test_published_networks_cost_what_their_programs_count(name):
    """Parameters and MACs of 40 networks, CIFAR-10, CIFAR-100 and ImageNet, exactly."""
    genotype, expected = zoo.load(name), zoo.published(name).costs
    assert deep_cost(genotype, "cifar10") == expected["cifar10"]
    assert deep_cost(genotype, "imagenet") == expected["imagenet"]
    # More classes need more weights of the classifier, which reads the last cell's nodes.
    width = 4 * 36 * len(existing_nodes(genotype.genes[0]) - {0, 1})
    params, macs = expected["cifar10"]
    assert expected["cifar100"] == (params + 90 * (width + 1), macs + 90 * width)


@pytest.mark.parametrize("setting", ["cifar10", "imagenet"])
def test_a_published_network_costs_the_same_at_its_full_depth(setting):
    """The counts from 11 cells are those of the whole network."""
    arguments = dict(zoo.settings()[setting])
    genotype = zoo.load("PC_DARTS_cifar10").expand(arguments.pop("cells"))
    found = cost(genotype, **arguments)
    assert (found.params, found.macs) == zoo.published("PC_DARTS_cifar10").costs[setting]


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if name not in FAMILY and PUBLISHED[name]["costs"]]
)
def test_the_article_s_networks_cost_what_its_program_counts(name):
    """DD-1 and DD-4 with the article's reductions, and three of DARTOpti's."""
    ((setting, expected),) = zoo.published(name).costs.items()
    arguments = {key: x for key, x in zoo.settings()[setting].items() if key != "cells"}
    found = cost(zoo.load(name), **arguments)
    assert (found.params, found.macs) == expected


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("DD-1", 1_244_242, 255_307_392), ("DD-4", 2_905_030, 556_412_544)],
)
def test_cost_equals_the_authors_counts(name, params, macs):
    """Where the authors' files have the reductions, one cell later than the article."""
    found = cost(dataclasses.replace(zoo.load(name), reductions=(2, 6)), 36, 10, 32)
    assert (found.params, found.macs) == (params, macs)


@pytest.mark.parametrize(
    ("name", "channels", "num_classes", "millions"),
    [
        ("DD-2", 36, 10, "3.3"),
        ("DD-5", 36, 10, "1.7"),
        ("DO-2-ResNet18", 64, 100, "51.52"),
        ("DO-2-ResNet50", 64, 100, "70.44"),
    ],
)
def test_the_article_s_other_networks_have_its_parameters(name, channels, num_classes, millions):
    """As far as the article prints them; no exact counts of these were published."""
    found = cost(zoo.load(name), channels, num_classes, 32)
    digits = len(millions.partition(".")[2])
    assert f"{found.params / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize(("stem", "macs"), [("half", "8568"), ("strided", "2290")])
def test_the_stem_of_the_article_s_network_on_imagenet(stem, macs):
    """DO-2-ResNet18 has 53.4 M parameters there with either stem, and 8,619 M MACs with the half one."""
    found = cost(zoo.load("DO-2-ResNet18"), 64, 1000, 224, stem=stem)
    assert (f"{found.params / 1e6:.2f}", f"{found.macs / 1e6:.0f}") == ("53.38", macs)


def test_an_unknown_primitive_of_a_published_cell_is_named():
    """AmoebaNet's 7x7 separable convolution is not one of ours; a text may have it all the same."""
    text = (
        "Genotype(normal=[('sep_conv_7x7', 0), ('skip_connect', 1)], normal_concat=[2], "
        "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=[2])"
    )
    with pytest.raises(UserError, match=r"Unknown primitive 'sep_conv_7x7': .*register_primitive"):
        cost(Genotype.load(text), 4, 3, 8)


# One reduction cell: 4 channels, 4x4 images become 2x2.
ONE_CELL = Genotype(
    [[("sep_conv_3x3", 2, 0), ("max_pool_3x3", 3, 1), ("skip_connect", 3, 2)]], (0,), (2, 3)
)


def test_cost_by_hand():
    """Every part of a one-cell network, counted by hand."""
    found = cost(ONE_CELL, channels=2, num_classes=3, image_size=4, image_channels=1)
    norm = 2 * 4
    separable = 9 * 4 + 4 * 4 + norm
    cell_params = 2 * (6 * 4 + norm) + 2 * separable
    cell_macs = 16 * 2 * (6 * 4) + 4 * 2 * (9 * 4 + 4 * 4)
    assert found.cell_params == (cell_params,)
    assert found.cell_macs == (cell_macs,)
    assert found.params == (9 * 6 + 2 * 6) + cell_params + (8 * 3 + 3)
    assert found.macs == 16 * 9 * 6 + cell_macs + 8 * 3


def test_activations_by_hand():
    """What the convolutions of a network put out, for two images."""
    net, variables = network.build(
        ONE_CELL, channels=2, num_classes=0, image_channels=1, image_size=4, key=None
    )
    images = jax.ShapeDtypeStruct((2, 4, 4, 1), np.float32)
    run = functools.partial(network.features, net, train=True, levels=(0,))
    # Stem, two preprocessing layers, and a separable convolution's four at a quarter of the pixels.
    assert activations(run, variables, images) == 2 * (16 * 6 + 2 * 16 * 4 + 4 * 4 * 4)


def test_cost_of_the_auxiliary_head():
    """The head's parameters are counted on request; evaluation never runs it."""
    without, found = (cost(ONE_CELL, 2, 3, 16, auxiliary=auxiliary) for auxiliary in (False, True))
    head = (8 * 128 + 2 * 128) + (4 * 128 * 768 + 2 * 768) + (768 * 3 + 3)
    assert found.params - without.params == head
    assert (found.macs, found.cell_params) == (without.macs, without.cell_params)


def test_cost_of_an_empty_cell_is_refused():
    """The mistake that building the network reports."""
    with pytest.raises(UserError, match="Cell 0"):
        cost(Genotype([[("skip_connect", 3, 2)]], (), (3,)), 2, 3, 4)

"""A network as a backbone: which maps are read, what is built and loaded, and what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import backbone, network, weights

RETINANET, MASK_RCNN = (8, 3), (4, 4)  # finest stride, number of levels


@pytest.mark.parametrize(
    ("family", "stem", "asked", "positions", "finest", "missing"),
    [
        ("8 cells", "strided", RETINANET, (1, 4, 7), 8, 0),
        ("8 cells of the authors' files", "strided", RETINANET, (1, 5, 7), 8, 0),
        ("14 cells", "strided", RETINANET, (3, 8, 13), 8, 0),
        ("ResNet18", "half", RETINANET, (1, 2, 3), 8, 0),
        ("ResNet18", "half", MASK_RCNN, (0, 1, 2, 3), 4, 0),
        ("Xception", "half", RETINANET, (1, 10, 11), 8, 0),
        ("Xception", "half", MASK_RCNN, (0, 1, 10, 11), 4, 0),
        # Coarser cells than needed.
        ("ResNet50", "strided", RETINANET, (0, 1, 2), 8, 0),
        ("Xception", "strided", RETINANET, (0, 1, 10), 8, 0),
        # The finest level is missing: the stem.
        ("8 cells", "strided", MASK_RCNN, (-1, 1, 4, 7), 4, 0),
        ("ResNet18", "strided", MASK_RCNN, (-1, 0, 1, 2), 4, 0),
        # The coarsest level is missing.
        ("14 cells", "half", RETINANET, (8, 13), 8, 1),
        ("InceptionV4", "half", MASK_RCNN, (3, 11, 15), 4, 1),
        # Small images: whatever there is, from stride 2 on.
        ("8 cells", "plain", RETINANET, (4, 7), 2, 0),
        ("ResNet18", "plain", MASK_RCNN, (1, 2, 3), 2, 0),
        ("Xception", "plain", RETINANET, (1, 10, 11, 12), 2, 0),
    ],
)
def test_levels_are_the_last_maps_of_successive_strides(
    caplog, family, stem, asked, positions, finest, missing
):
    """For every family and stem; a warning where the stem itself is a level."""
    found = backbone.choose_levels(FAMILIES[family][0], stem, *asked)
    strides = tuple(finest * 2**k for k in range(len(positions)))
    assert found == (positions, strides, missing)
    assert [("small objects" in message) for message in caplog.messages] == [True] * (
        positions[0] < 0
    )


def test_a_second_stem_stands_in_too():
    """Where cell 0 is a reduction cell, the half stem's last convolution has stride 4."""
    cell = (("skip_connect", 2, 1),)
    genotype = Genotype([cell], (0, 1), (2,), (0, 0))
    assert backbone.choose_levels(genotype, "half", 4, 3).positions == (-2, 0, 1)


@pytest.mark.parametrize(("stem", "coarsest"), [("half", 4), ("plain", 1)])
def test_a_network_without_any_level_is_refused(stem, coarsest):
    """The message tells both strides and what to do."""
    genotype = Genotype([(("skip_connect", 2, 1),)], (), (2,))
    with pytest.raises(UserError, match=rf"has stride {coarsest}: .*train\.stem=strided"):
        backbone.choose_levels(genotype, stem, 8, 3)


def test_given_levels():
    """Any positions whose strides double, also coarser ones than are chosen."""
    genotype = FAMILIES["ResNet18"][0]
    found = backbone.given_levels(genotype, "strided", [0, 1, 2, 3])
    assert found == ((0, 1, 2, 3), (8, 16, 32, 64), 0)
    assert backbone.given_levels(genotype, "half", (-1, -2)).strides == (2, 4)
    with pytest.raises(UserError, match=r"backbone\.levels names position 4, .*: use -1, -2, 0, 1"):
        backbone.given_levels(genotype, "half", (3, 4))
    with pytest.raises(UserError, match="names position -2"):
        backbone.given_levels(genotype, "plain", (-2, 1))
    for wrong in ((), (2, 1), (0, 2), (-2, 0)):
        with pytest.raises(UserError, match=r"twice the stride .*-1: 2, -2: 4, 0: 4, 1: 8"):
            backbone.given_levels(genotype, "half", wrong)


CELLS = (
    (("skip_connect", 2, 0), ("skip_connect", 2, 1)),
    (("simple_conv_1x1", 2, 1),),
    (("simple_conv_3x3", 2, 1), ("skip_connect", 3, 0)),
)
GENOTYPE = Genotype(CELLS, (1, 2), (2, 3), (0, 1, 2))
SIZES = {"channels": 4, "image_channels": 1, "stem": "half", "stem_multiplier": 3}
LEVELS = backbone.choose_levels(GENOTYPE, "half", 4, 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole network with its auxiliary head, and its file."""
    whole = network.build(
        GENOTYPE, num_classes=3, image_size=224, auxiliary=True, key=jax.random.key(1), **SIZES
    )
    path = tmp_path_factory.mktemp("saved") / "network.npz"
    weights.save_network(path, whole[1])
    return path, *whole


def test_a_backbone_is_the_part_that_is_read(saved, caplog):
    """It computes what the whole network does; the log tells the parameters of the other cells."""
    path, whole, variables = saved
    net, empty = backbone.build(GENOTYPE, LEVELS, **SIZES, key=None)
    assert LEVELS.positions == (0, 1)
    assert set(empty.weights) == {"stem", "second_stem", "cells"}
    assert set(empty.weights["cells"]) == {"0", "1"}
    with caplog.at_level("INFO"):
        loaded = backbone.load(path, empty)
    images = np.random.default_rng(0).normal(size=(1, 16, 20, 1)).astype(np.float32)

    @jax.jit
    def run(variables, loaded):
        parts = (whole, variables), (net, loaded)
        return [network.features(*part, images, False, LEVELS.positions)[0] for part in parts]

    for one, other in zip(*run(variables, loaded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    left_out = sum(leaf.size for leaf in jax.tree.leaves(variables.weights["cells"]["2"]))
    assert caplog.messages == [
        f"backbone: the cells from 2 on are not read: {left_out:,} parameters are left out"
    ]
    caplog.clear()
    every = backbone.given_levels(GENOTYPE, "half", (2,))
    with caplog.at_level("INFO"):
        backbone.load(path, backbone.build(GENOTYPE, every, **SIZES, key=None)[1])
    assert not caplog.messages


def test_a_file_of_another_network_is_refused(saved):
    """As for a whole network: the array that differs is named."""
    _, empty = backbone.build(GENOTYPE, LEVELS, **SIZES | {"channels": 6}, key=None)
    with pytest.raises(UserError, match=r"another genotype or config: .*there and .*here"):
        backbone.load(saved[0], empty)


@pytest.mark.parametrize(
    ("family", "cells"),
    [("8 cells", (0, 2, 5, 8)), ("ResNet18", (0, 1, 2, 3, 4)), ("Xception", (0, 1, 2, 11, 12, 13))],
)
def test_levels_freeze_the_cells_of_their_size(family, cells):
    """One level is the first stage of a ResNet; more than there are is an error."""
    genotype = FAMILIES[family][0]
    assert tuple(backbone.frozen_cells(genotype, k) for k in range(len(cells))) == cells
    with pytest.raises(
        UserError, match=rf"frozen_levels is {len(cells)}.*at most {len(cells) - 1}"
    ):
        backbone.frozen_cells(genotype, len(cells))


@pytest.mark.parametrize("frozen", [0, 1])
def test_leaves_of_the_stem_and_of_frozen_cells_do_not_learn(frozen):
    """By the names in a file; without frozen cells all leaves learn."""
    _, variables = backbone.build(GENOTYPE, LEVELS, **SIZES, key=None)
    found = weights.named(backbone.learning(variables.weights, frozen))
    assert found.keys() == weights.named(variables.weights).keys()
    frozen_names = {name for name, learns in found.items() if not learns}
    expected = ("stem/", "second_stem/", "cells/0/") if frozen else ()
    assert frozen_names == {name for name in found if name.startswith(expected)}


def test_large_images_need_another_stem():
    """The message tells the batch, roughly the memory, and the key; other stems may be large."""
    images = jax.ShapeDtypeStruct((16, 800, 1344, 1), jnp.float32)
    net, variables = backbone.build(GENOTYPE, LEVELS, **SIZES | {"stem": "plain"}, key=None)
    with pytest.raises(UserError, match=r"16 of 800x1344 .* [1-9]\d*\.\d GB.*train\.stem=half"):
        backbone.check_canvas(net, variables, LEVELS.positions, "plain", images)
    small = jax.ShapeDtypeStruct((4, 256, 256, 1), jnp.float32)
    backbone.check_canvas(net, variables, LEVELS.positions, "plain", small)
    backbone.check_canvas(net, variables, LEVELS.positions, "half", images)

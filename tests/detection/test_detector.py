"""Tests of the detector: where its backbone comes from, what it normalises, what learns, its cost."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_detector

from ddarts_jax.detection import datasets, retinanet
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.anchors import Anchors
from ddarts_jax.detection.found import Options
from ddarts_jax.errors import UserError
from ddarts_jax.models import backbone, cost, network, weights
from ddarts_jax.models.layers import Variables

_HEAD = ("pyramid", "classes", "boxes")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("detector")


def built(place, key=0, channels=3, **changes):
    config = tiny_detector.config(place, {}, **changes)
    source = detectors.find_source(config.backbone)
    key = None if key is None else jax.random.key(key)
    return source, *detectors.build(config, source, 2, channels, key)


def refused(place, **changes):
    config = tiny_detector.config(place, {}, **changes)
    with pytest.raises(UserError) as error:
        detectors.find_source(config.backbone)
    return str(error.value)


def test_a_backbone_is_a_run_or_a_genotype(place):
    """A run goes before a genotype; neither, and random weights that stand still, are a sentence."""
    assert "set config.backbone.run" in refused(place, backbone__genotype="")
    assert "frozen_levels is 1" in refused(place, backbone__frozen_levels=1)
    assert "norm is 'frozen'" in refused(place, backbone__norm="frozen")
    assert "holds no trained network (network.npz)" in refused(place, backbone__run=str(place))
    source = detectors.find_source(tiny_detector.config(place, {}).backbone)
    assert source.genotype == tiny_detector.GENOTYPE and source.weights is None and not source.data
    assert source.sizes == {"channels": 4, "stem": "half", "stem_multiplier": 3}


def test_the_levels_and_weights_of_a_detector(place):
    """Chosen or given levels, further ones on top; as many weights as its parts have."""
    _, detector, variables = built(place, fpn__levels=3)
    assert (detector.levels, detector.head.anchors.strides) == ((1, 2), (8, 16, 32))
    assert detector.batch_norm and detector.frozen_cells == 0
    assert set(variables.weights) == {"backbone", "pyramid", "classes", "boxes"}
    counts = detectors.parameters(variables)
    assert list(counts) == ["backbone", "pyramid", "heads"]
    assert sum(counts.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables.weights))
    # Two towers of one hidden 3x3 convolution, 9 anchors with 2 classes and 4 sides.
    assert counts["heads"] == sum(9 * 8 * n + n for n in (8, 8, 9 * 2, 9 * 4))
    given = built(place, None, backbone__levels=(0, 1, 2), fpn__levels=3)[1]
    assert (given.levels, given.head.anchors.strides) == ((0, 1, 2), (4, 8, 16))
    with pytest.raises(UserError, match="position 9, which the network does not have"):
        built(place, None, backbone__levels=(9,))
    with pytest.raises(UserError, match=r"fpn\.levels=1, but the pyramid reads 2"):
        built(place, None, fpn__levels=1)


def test_the_seed_gives_the_weights(place):
    """Of backbone and head; without a key all kernels are zero."""
    one, same, other, empty = (
        weights.named(built(place, key)[2].weights) for key in (0, 0, 1, None)
    )
    kernels = [name for name in one if name.endswith("kernel") and "output" not in name]
    assert len(kernels) > 10
    for name in kernels:
        np.testing.assert_array_equal(one[name], same[name])
        assert not np.array_equal(one[name], other[name]), name
        assert not empty[name].any()


def test_the_canvas_beside_an_image_is_the_mean_colour(place):
    """0 after the normalisation, whatever lies there; inside it, (x / 255 - mean) / std."""
    images = np.full((2, 4, 6, 3), 51, np.uint8)
    sizes = np.array([[4, 6], [3, 2]], np.int32)
    mean, std = np.array([0.1, 0.2, 0.4], np.float32), np.array([0.1, 0.5, 1], np.float32)
    found = detectors.prepared(images, sizes, mean, std, jnp.float32)
    inside = np.zeros((2, 4, 6, 1), bool)
    inside[0], inside[1, :3, :2] = True, True
    expected = np.where(inside, (np.float32(0.2) - mean) / std, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_statistics_change_by_the_batch_alone(place):
    """In training: where `batch` they all do, where `frozen` none."""
    images = tiny.normal(0, 2, 32, 32, 3, dtype=np.float32)
    _, batch, variables = built(place)
    frozen = types.SimpleNamespace(**vars(batch) | {"batch_norm": False})

    @jax.jit
    def run(variables):
        return [detectors.features(each, variables, images, True)[1] for each in (batch, frozen)]

    old = weights.named(variables.statistics)
    changed, same = (weights.named(found) for found in run(variables))
    assert old.keys() == changed.keys() == same.keys()
    for name, leaf in old.items():
        np.testing.assert_array_equal(leaf, same[name])
        assert not np.array_equal(leaf, changed[name]), name


def test_what_is_frozen_does_not_learn(place):
    """Stem and cells of the frozen sizes of the backbone; pyramid and heads always learn."""
    _, detector, variables = built(place)
    assert all(jax.tree.leaves(detectors.learning(detector, variables.weights)))
    frozen = types.SimpleNamespace(frozen_cells=backbone.frozen_cells(tiny_detector.GENOTYPE, 1))
    found = weights.named(detectors.learning(frozen, variables.weights))
    assert found.keys() == weights.named(variables.weights).keys()
    parts = tuple(f"backbone/{part}/" for part in ("stem", "second_stem", "cells/0"))
    assert {name for name, learns in found.items() if not learns} == {
        name for name in found if name.startswith(parts)
    }


def test_detections_are_those_of_the_heads_outputs(place):
    """With the detector's own thresholds, boxes cut off at the image."""
    _, detector, variables = built(place, test__score=0.0, test__limit=7)
    images, sizes = tiny.normal(1, 2, 32, 32, 3, dtype=np.float32), np.array([[32, 32], [9, 20]])

    @jax.jit
    def both(variables):
        maps, _ = detectors.features(detector, variables, images, False)
        own = Variables({name: variables.weights[name] for name in _HEAD}, {})
        outputs = retinanet.predict(detector.head, own, maps)
        wanted = retinanet.detections(detector.head, outputs, sizes, Options(0.0, 0.5, 50, 7))
        return detectors.detect(detector, variables, images, sizes), wanted

    found, wanted = both(variables)
    assert found.boxes.shape == (2, 7, 4) and (found.count == 7).all()
    assert found.boxes[1, :, [0, 2]].max() <= 20 and found.boxes[1, :, [1, 3]].max() <= 9
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_cost_of_an_image(place):
    """Heads: every position of every level, each multiplication counted by hand; the backbone's own."""
    source, detector, variables = built(place, None, fpn__levels=3)
    found = detectors.macs(detector, variables, (64, 32, 3))
    positions = 8 * 4 + 4 * 2 + 2 * 1
    assert found["heads"] == positions * 9 * 8 * (8 + 8 + 9 * 2 + 9 * 4)
    # The features have 4 channels, doubled by each reduction.
    laterals = (8 * 4) * 8 * 8 + (4 * 2) * 16 * 8
    smoothing = (8 * 4 + 4 * 2) * 9 * 8 * 8
    assert found["pyramid"] == laterals + smoothing + 2 * 1 * 9 * 16 * 8
    whole, empty = network.build(
        source.genotype,
        num_classes=0,
        image_size=64,
        image_channels=3,
        key=None,
        **source.sizes,
    )
    image = jax.ShapeDtypeStruct((1, 64, 32, 3), np.float32)
    expected = cost.macs(lambda v, x: network.features(whole, v, x, False, (2,))[0], empty, image)
    assert found["backbone"] == expected.total() > 0


def test_pixels_reach_a_detector_as_its_backbone_has_learnt_them(place, caplog):
    """Mean, deviation, channels and white of the run; grey for a grey one; else those of the images."""
    data = tiny_detector.write_data(place / "images", 4, 2)
    config = tiny_detector.config(place, data)
    train, _ = datasets.load(config.data)
    own = datasets.pixels_of(config.data, train, {})
    assert own.channels == 3 and own.white == 0
    pixels = np.concatenate([train.read(row, 3).reshape(-1, 3) for row in range(4)]) / 255
    np.testing.assert_allclose(own.mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(own.std, pixels.std(0), rtol=1e-5)
    assert not caplog.messages
    learnt = {"image_shape": [8, 8, 1], "mean": [0.25], "std": [0.5], "white": 1023}
    found = datasets.pixels_of(config.data, train, learnt)
    assert (found.channels, found.mean, found.std, found.white) == (1, 0.25, 0.5, 1023)
    assert "made grey" in caplog.text
    with pytest.raises(UserError, match="images of 5 channels"):
        datasets.pixels_of(config.data, train, learnt | {"image_shape": [8, 8, 5]})


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_a_detector_in_two_stages(place, name):
    """Its finest level is of stride 4; the coarsest is one more on top, which only proposals read."""
    changes = tiny_detector.TWO_STAGES | {"detector": name}
    _, detector, variables = built(place, None, **changes)
    assert (detector.levels, detector.head.roi.strides) == ((0, 1, 2), (4, 8, 16))
    assert detector.head.rpn.anchors == Anchors((4, 8, 16, 32), (3.0,), False, False)
    heads = {"rpn", "box"} | ({"mask"} if name == "mask_rcnn" else set())
    assert set(variables.weights) == {"backbone", "pyramid"} | heads
    counts = detectors.parameters(variables)
    # Two hidden layers of 16 behind 7 x 7 x 8 features, 3 outputs and 2 boxes; 3 anchors.
    expected = {
        "box": 49 * 8 * 16 + 16 + 16 * 17 + 17 * (3 + 8),
        "rpn": 9 * 8 * 8 + 8 + 9 * (3 + 12),
    }
    if name == "mask_rcnn":
        expected["mask"] = 4 * (9 * 8 * 8 + 8) + 4 * 8 * 8 + 8 + 9 * 2
    assert counts["heads"] == sum(expected.values())
    found = detectors.macs(detector, variables, (64, 32, 3))
    positions = 16 * 8 + 8 * 4 + 4 * 2 + 2 * 1
    macs = positions * (9 * 8 * 8 + 8 * 15) + 30 * (49 * 8 * 16 + 16 * 16 + 16 * 11)
    if name == "mask_rcnn":
        macs += 10 * (196 * (4 * 9 * 8 * 8 + 4 * 8 * 8) + 784 * 8 * 2)
    assert found["heads"] == macs
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), np.float32)
    sizes = jax.ShapeDtypeStruct((2, 2), np.int32)
    found = jax.eval_shape(functools.partial(detectors.detect, detector), variables, images, sizes)
    assert found.boxes.shape == (2, 10, 4) and (found.masks is None) == (name == "faster_rcnn")

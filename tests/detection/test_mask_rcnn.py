"""Mask R-CNN: the whole detector against torchvision's, and what its losses and detections must be."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from ddarts_jax import configuration
from ddarts_jax.detection import mask_rcnn, matching, roi_heads, rpn
from ddarts_jax.detection.found import Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.roi_align import roi_align
from ddarts_jax.distributed import sharding

WIDTHS, STRIDES = (12, 16, 24, 30), (4, 8, 16, 32)
_DEFAULTS = configuration.detection_config()


def sections(proposing=(), looking=()):
    """The settings of both stages, as a config's sections."""
    return {
        "proposing": dict(_DEFAULTS.rpn) | dict(proposing),
        "looking": dict(_DEFAULTS.roi) | dict(looking),
    }


def weights_of(data):
    """The weights of torchvision's Mask R-CNN as ours, whose background is the last class."""

    def linear(name, order=None):
        weight, bias = data[f"weights/{name}.weight"], data[f"weights/{name}.bias"]
        order = np.arange(len(bias)) if order is None else order
        return {"kernel": weight[order].T[None, None], "bias": bias[order]}

    classes, deltas = np.roll(np.arange(8), -1), np.arange(4, 32)
    first = linear("roi_heads.box_head.fc6")
    # Torchvision flattens the features of a box as C, y, x.
    by_channel = first["kernel"].reshape(24, 7, 7, 32)
    first["kernel"] = by_channel.transpose(1, 2, 0, 3).reshape(1, 1, -1, 32)
    logits = parity.convolution(data, "roi_heads.mask_predictor.mask_fcn_logits")
    doubled = data["weights/roi_heads.mask_predictor.conv5_mask.weight"]
    return {
        "pyramid": parity.pyramid(data, "backbone.fpn.", 4, ()),
        "rpn": {
            "hidden": parity.convolution(data, "rpn.head.conv.0.0"),
            "logits": parity.convolution(data, "rpn.head.cls_logits"),
            "deltas": parity.convolution(data, "rpn.head.bbox_pred"),
        },
        "box": {
            "hidden": {0: first, 1: linear("roi_heads.box_head.fc7")},
            "logits": linear("roi_heads.box_predictor.cls_score", classes),
            "deltas": linear("roi_heads.box_predictor.bbox_pred", deltas),
        },
        "mask": {
            "hidden": {k: parity.convolution(data, f"roi_heads.mask_head.{k}.0") for k in range(4)},
            "doubled": {
                "kernel": doubled.transpose(2, 3, 0, 1),
                "bias": data["weights/roi_heads.mask_predictor.conv5_mask.bias"],
            },
            "logits": {"kernel": logits["kernel"][..., 1:], "bias": logits["bias"][1:]},
        },
    }


@pytest.fixture(scope="module")
def whole():
    """The Mask R-CNN of torchvision: (its arrays, structure, variables, C2 to C5)."""
    data = parity.arrays("mask_rcnn")
    data = {name: data[name] for name in data}
    settings = sections(
        {"scale": 2.0, "samples": 64, "least": 0.0, "beta": 1 / 9, "per_level": 120, "limit": 150},
        {"width": 32, "samples": 48, "finest": 3.5, "beta": 1 / 9},
    )
    options = {"channels": 24, "rounded": True, "over_padding": True, "aligned": False}
    net, variables = mask_rcnn.build(WIDTHS, STRIDES, 7, **settings, **options, key=None)
    weights = weights_of(data)
    chex.assert_trees_all_equal_shapes_and_dtypes(weights, variables.weights)
    return data, net, variables._replace(weights=weights), parity.features(data)[1:]


@pytest.fixture(scope="module")
def tested(whole):
    """Everything that the detector computes of the test images, from one program."""
    data, net, variables, maps = whole
    net = dataclasses.replace(net, rpn=dataclasses.replace(net.rpn, limit=60))
    options = Options(per_level=100, limit=50)

    @jax.jit
    def run(variables, maps, sizes):
        modules = nnx.merge(net.graph, *variables)
        features, outputs = modules.proposed(maps)
        proposals = rpn.proposals(net.rpn, outputs, sizes, 100)
        said = modules.box(net.roi.of_boxes(features, proposals.boxes))
        found = mask_rcnn.detections(net, variables, maps, sizes, options)
        first = net.roi.of_masks([level[:1] for level in features], found.boxes[:1, :8])
        masks = [modules.mask(first, jnp.full((1, 8), label)) for label in range(7)]
        return outputs, proposals, said, found, jnp.stack(masks, 2)[0]

    return run(variables, maps, data["image_sizes"])


def test_proposals_are_torchvision_s(whole, tested):
    """Anchors, logits and deltas of all levels; the boxes that are left of them, in their order."""
    data, net, *_ = whole
    outputs, proposals, *_ = tested
    anchors = np.concatenate(net.rpn.anchors.of([output.size for output in outputs]))
    parity.assert_near(anchors, data["rpn/anchors"], 0)
    for level, output in enumerate(outputs):
        for name, own in (("objectness", output.logits), ("deltas", output.deltas)):
            own = own.reshape(*own.shape[:3], -1).transpose(0, 3, 1, 2)
            parity.assert_near(own, data[f"rpn/{name}/level{level}"])
    assert proposals.valid.all()
    for image in range(2):
        parity.assert_near(proposals.boxes[image], data[f"rpn/proposals/image{image}"])


def test_detections_are_torchvision_s(whole, tested):
    """Logits and deltas of all proposals; classes equal, boxes, scores and masks near."""
    data, *_ = whole
    *_, (logits, deltas), found, masks = tested
    logits, deltas = logits.reshape(120, 8), deltas.reshape(120, -1)
    parity.assert_near(jnp.roll(logits, 1, 1), data["box_head/class_logits"])
    parity.assert_near(deltas, data["box_head/box_regression"][:, 4:])
    for image in range(2):
        expected = {
            key: data[f"detections/image{image}/{key}"]
            for key in ("boxes", "scores", "labels", "mask_probabilities")
        }
        assert found.count[image] == len(expected["labels"]) == 50
        np.testing.assert_array_equal(found.classes[image], expected["labels"] - 1)
        parity.assert_near(found.boxes[image], expected["boxes"])
        parity.assert_near(found.scores[image], expected["scores"])
        parity.assert_near(found.masks[image], expected["mask_probabilities"])
    parity.assert_near(masks, data["mask_head/mask_logits_first8"][:, 1:])


def truth_of(data):
    """The parity model's ground truth, padded behind, with masks in their boxes."""
    boxes, labels = np.zeros((2, 6, 4), np.float32), np.full((2, 6), -1, np.int32)
    masks = np.zeros((2, 6, 112, 112), np.uint8)
    for image in range(2):
        own = data[f"targets/image{image}/boxes"]
        full = data[f"targets/image{image}/masks"].astype(np.float32)[..., None]
        # Each mask is an image of its own: one box of each.
        soft = roi_align([full], own[:, None], (1,), 112, finest=1.0)[:, 0, ..., 0]
        masks[image, : len(own)] = np.round(255 * soft)
        boxes[image, : len(own)] = own
        labels[image, : len(own)] = data[f"targets/image{image}/labels"] - 1
    return GroundTruth(boxes, labels, data["image_sizes"], masks)


def first_ones(batch, count):
    """Priorities that take what comes first."""
    return np.tile(-np.arange(count, dtype=np.float32), (batch, 1))


@pytest.fixture(scope="module")
def trained(whole):
    """Everything that the detector computes of the training images, from one program."""
    data, net, variables, maps = whole
    truth = truth_of(data)
    count = len(data["rpn/anchors"])
    soft = np.zeros((2, 12, 28, 28), np.float32)
    for image in range(2):
        own = data[f"train/mask_targets/image{image}"]
        soft[image, : len(own)] = own

    @jax.jit
    def run(weights, maps):
        def total(weights, maps):
            modules = nnx.merge(net.graph, weights, {})
            features, outputs = modules.proposed(maps)
            first = rpn.loss(net.rpn, outputs, truth, first_ones(2, count))
            proposals = rpn.proposals(net.rpn, outputs, truth.sizes, net.rpn.per_level)
            samples = roi_heads.sample(net.roi, proposals, truth, first_ones(2, 156))
            # Torchvision trains masks with another kind of RoIAlign.
            theirs = samples._replace(masks=soft)
            last = mask_rcnn.head_losses(net, modules, features, theirs)
            losses = mask_rcnn.Losses(*first, *last)
            return sum(losses), (losses, proposals, samples)

        return jax.grad(total, (0, 1), has_aux=True)(weights, maps)

    gradients, (losses, proposals, samples) = run(variables.weights, maps)
    return gradients, losses, proposals, samples


def test_samples_are_torchvision_s(whole, trained):
    """The anchors' labels; proposals of training; which are trained, and what they should be."""
    data, *_ = whole
    *_, proposals, samples = trained
    truth = truth_of(data)
    anchors = data["rpn/anchors"]
    for image in range(2):
        matched = matching.match(
            *(anchors, truth.boxes[image], truth.labels[image] >= 0),
            positive=0.7,
            background=0.3,
            least=0.0,
        )
        names = np.where(matched >= 0, 1, np.where(matched == matching.BACKGROUND, 0, -1))
        np.testing.assert_array_equal(names, data[f"train/rpn_labels/image{image}"])
        parity.assert_near(proposals.boxes[image], data[f"train/proposals/image{image}"])
        # Theirs are in the order of the proposals, ours are the positive ones and then the others.
        labels = data[f"train/sampled_labels/image{image}"]
        order = np.argsort(labels == 0, kind="stable")
        labels = np.where(labels == 0, 7, labels - 1)[order]
        np.testing.assert_array_equal(samples.labels[image], labels)
        boxes = data[f"train/sampled_boxes/image{image}"][order]
        parity.assert_near(samples.boxes[image], boxes)
        count = (labels < 7).sum()
        own = data[f"train/sampled_matches/image{image}"][order][:count]
        np.testing.assert_array_equal(samples.index[image, :count], own)
        assert (samples.index[image, count:] < 0).all()
        # From masks of 112 x 112 in their boxes; theirs from the whole masks.
        masks = data[f"train/mask_targets_mmdetection/image{image}"]
        assert len(masks) == count and samples.masks.shape[1] == 12
        assert not samples.masks[image, count:].any()
        assert (samples.masks[image, :count] != masks).mean() < 0.005


def test_losses_and_gradients_are_torchvision_s(whole, trained):
    """All five; gradients by the backbone's features and by weights of all heads."""
    data, *_ = whole
    (by_weight, by_map), losses, *_ = trained
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    for name, own in zip(names, losses, strict=True):
        parity.assert_near(own, data[f"loss/loss_{name}"])
    for level, gradient in zip(("C2", "C3", "C4", "C5"), by_map, strict=True):
        parity.assert_near(gradient.transpose(0, 3, 1, 2), data[f"gradient/{level}"], 1e-4)
    own = by_weight["rpn"]["deltas"]["kernel"][0, 0].T
    parity.assert_near(own, data["gradient/rpn.head.bbox_pred.weight"][..., 0, 0], 1e-4)
    own = by_weight["box"]["hidden"][1]["kernel"][0, 0].T
    parity.assert_near(own, data["gradient/roi_heads.box_head.fc7.weight"], 1e-4)
    own = by_weight["mask"]["doubled"]["kernel"].transpose(2, 3, 0, 1)
    parity.assert_near(own, data["gradient/roi_heads.mask_predictor.conv5_mask.weight"], 1e-4)
    own = by_weight["box"]["deltas"]["kernel"][0, 0].T
    expected = data["gradient/roi_heads.box_predictor.bbox_pred.weight"]
    parity.assert_near(own, expected[4:], 1e-4)
    assert not expected[:4].any()


def small(masks=True, key=0):
    """A detector of two levels and three classes."""
    settings = sections({"samples": 32, "per_level": 60, "limit": 40, "scale": 3.0}, {"width": 8})
    return mask_rcnn.build(
        *((4, 4), (4, 8), 3),
        **settings,
        masks=masks,
        channels=6,
        levels=3,
        key=None if key is None else jax.random.key(key),
    )


def maps_of(batch, dtype=np.float32):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(batch, side, side, 4)).astype(dtype) for side in (16, 8)]


def some_truth():
    """Two, one and no objects in images of 64 x 64; masks are the upper halves of their boxes."""
    boxes = np.tile(np.float32([[4, 4, 20, 30], [20, 10, 60, 50]]), (4, 1, 1))
    labels = np.int32([[0, 2], [0, -1], [0, 2], [-1, -1]])
    boxes[labels < 0] = 0
    masks = np.zeros((4, 2, 112, 112), np.uint8)
    masks[labels >= 0, :56] = 255
    return GroundTruth(boxes, labels, np.full((4, 2), 64, np.int32), masks)


@jax.jit(static_argnums=0)
def _losses_and_gradients(net, variables, maps, truth, key):
    def total(weights, maps):
        own = mask_rcnn.loss(net, variables._replace(weights=weights), maps, truth, key)
        return sum(part for part in own if part is not None), own

    return jax.grad(total, (0, 1), has_aux=True)(variables.weights, maps)


@pytest.fixture(scope="module")
def found():
    """Gradients by weights and by features, and losses, of some images."""
    own = _losses_and_gradients(*small(), maps_of(4), some_truth(), jax.random.key(0))
    return jax.device_get(own)


def test_batches_without_objects(found):
    """Fewer candidates than samples: finite losses and gradients, none of boxes and masks."""
    net, variables = small()
    assert net.roi.samples == 512 > net.rpn.limit + 2
    empty = jax.tree.map(np.zeros_like, some_truth())
    empty = empty._replace(labels=empty.labels - 1, sizes=some_truth().sizes)
    none = _losses_and_gradients(net, variables, maps_of(4), empty, jax.random.key(0))
    for nothing, ((by_weight, _), losses) in enumerate(jax.device_get((found, none))):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by_weight, losses)))
        assert losses.objectness > 0 and losses.classification > 0
        for part in (losses.proposals, losses.boxes, losses.masks):
            assert (part == 0) == nothing
        assert np.any(by_weight["mask"]["logits"]["kernel"]) != nothing
        assert np.any(by_weight["box"]["deltas"]["kernel"]) != nothing
        assert np.any(by_weight["box"]["logits"]["kernel"])


def test_bfloat16_features_give_float32_losses_and_detections(found):
    """Near those of float32, with the same draws; masks, scores and boxes are float32 too."""
    net, variables = small()
    loss = jax.jit(mask_rcnn.loss, static_argnums=0)
    low = loss(net, variables, maps_of(4, jnp.bfloat16), some_truth(), jax.random.key(0))
    chex.assert_trees_all_equal_dtypes(low, mask_rcnn.Losses(*jnp.zeros((5, 1))))
    chex.assert_trees_all_close(low, found[1], rtol=0.03, atol=0.02)
    sizes = np.full((4, 2), 64, np.int32)
    detected = jax.eval_shape(
        lambda maps: mask_rcnn.detections(net, variables, maps, sizes, Options()),
        maps_of(4, jnp.bfloat16),
    )
    assert detected.masks.shape == (4, 100, 28, 28)
    assert {leaf.dtype.name for leaf in detected} == {"float32", "int32"}
    assert detected.boxes.dtype == detected.scores.dtype == detected.masks.dtype == np.float32


def test_faster_rcnn_is_mask_rcnn_without_masks(found):
    """The same weights and losses but for the mask head's, and no masks."""
    _, variables = small()
    bare, own = small(masks=False)
    assert set(variables.weights) == {"pyramid", "rpn", "box", "mask"}
    chex.assert_trees_all_equal(
        {name: variables.weights[name] for name in ("pyramid", "rpn", "box")}, own.weights
    )

    @jax.jit
    def run(variables, maps, truth, key):
        options = Options(score=0.0, limit=9)
        losses = bare.losses(variables, maps, truth, key)
        return losses, bare.detect(variables, maps, truth.sizes - 4, options)

    losses, detected = run(own, maps_of(4), some_truth(), jax.random.key(0))
    expected = found[1]._asdict()
    del expected["masks"]
    chex.assert_trees_all_close(losses, expected, rtol=1e-5)
    assert detected.masks is None
    assert (detected.count == 9).all() and 30 < detected.boxes.max() <= 60


def test_kernels_start_as_said():
    """Of the box head's outputs and the mask head, which the others do not have."""
    _, variables = mask_rcnn.build(
        (8,),
        (4,),
        80,
        **sections(looking={"width": 64}),
        channels=32,
        levels=1,
        key=jax.random.key(0),
    )
    box, mask = variables.weights["box"], variables.weights["mask"]
    for kernel, deviation in (
        (box["logits"]["kernel"], 0.01),
        (box["deltas"]["kernel"], 0.001),
        (box["hidden"][0]["kernel"], np.sqrt(2 / (49 * 32 + 64))),
        (mask["hidden"][3]["kernel"], np.sqrt(2 / (9 * 32))),
        (mask["doubled"]["kernel"], np.sqrt(2 / (4 * 32))),
        (mask["logits"]["kernel"], np.sqrt(2 / 80)),
    ):
        np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.05)


def test_four_devices_give_the_losses_of_one(tmp_path, found):
    """And gradients; what is drawn follows from the key, not from the devices."""
    code = "import test_mask_rcnn; test_mask_rcnn.print_norms(4)"
    printed = json.loads(tiny.last_line(tmp_path, code, 4, Path(__file__).parent))
    assert printed["devices"] == 4
    one, four, other = norms(found), printed["found"], printed["other"]
    np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(four[-5:], one[-5:], rtol=1e-5)
    assert abs(other[-5] - four[-5]) > 1e-5  # other anchors' objectness


def norms(found) -> list[float]:
    """Of all gradients and, the last five, of the losses."""
    return [float(np.linalg.norm(np.ravel(leaf))) for leaf in jax.tree.leaves(found)]


def print_norms(devices):
    """Prints those on some devices, with the key of the other tests and with another one."""
    mesh = sharding.data_mesh(4, jax.devices()[:devices])
    net, variables = small()
    variables = sharding.replicate(variables, mesh)
    batch = jax.device_put((maps_of(4), some_truth()), sharding.batch_sharding(mesh))
    with sharding.over(mesh):
        found, other = (
            _losses_and_gradients(net, variables, *batch, jax.random.key(seed)) for seed in (0, 1)
        )
    count = len(found[1].masks.sharding.device_set)
    print(json.dumps({"devices": count, "found": norms(found), "other": norms(other)}))

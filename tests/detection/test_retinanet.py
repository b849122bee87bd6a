"""RetinaNet: the whole detector against torchvision's, its losses, and its detections."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from ddarts_jax.detection import anchors, retinanet
from ddarts_jax.detection.found import Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.errors import UserError

WIDTHS, STRIDES = (16, 24, 30), (8, 16, 32)
_predict = jax.jit(retinanet.predict, static_argnums=0)
_loss = jax.jit(retinanet.loss, static_argnums=0)
_detections = jax.jit(retinanet.detections, static_argnums=(0, 3))
_candidates = jax.jit(retinanet._candidates, static_argnums=3)


@pytest.fixture(scope="module")
def whole():
    """The RetinaNet of torchvision: (its arrays, structure, variables, C3 to C5)."""
    data = parity.arrays("retinanet")
    data = {name: data[name] for name in data}
    net, variables = retinanet.build(
        *(WIDTHS, STRIDES, 7), channels=24, rounded=True, over_padding=True, key=None
    )

    def tower(kind, output):
        name = f"head.{kind}_head"
        hidden = {k: parity.convolution(data, f"{name}.conv.{k}.0") for k in range(4)}
        return {"hidden": hidden, "output": parity.convolution(data, f"{name}.{output}")}

    weights = {
        "pyramid": parity.pyramid(data, "backbone.fpn.", 3),
        "classes": tower("classification", "cls_logits"),
        "boxes": tower("regression", "bbox_reg"),
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(weights, variables.weights)
    return data, net, variables._replace(weights=weights), parity.features(data)[2:]


def truth_of(data):
    """The parity model's ground truth, padded in front and behind."""
    boxes, labels = np.zeros((2, 8, 4), np.float32), np.full((2, 8), -1, np.int32)
    for image in range(2):
        own = data[f"targets/image{image}/boxes"]
        place = slice(image, image + len(own))
        boxes[image, place] = own
        labels[image, place] = data[f"targets/image{image}/labels"]
    return GroundTruth(boxes, labels, data["image_sizes"])


def joined(outputs):
    return (np.concatenate(parts, 1) for parts in zip(*(output.flat() for output in outputs)))


def test_outputs_are_torchvision_s(whole):
    """Anchors, logits and deltas of all levels, from the features of the backbone."""
    data, net, variables, features = whole
    outputs = _predict(net, variables, features)
    logits, deltas = joined(outputs)
    parity.assert_near(logits, data["cls_logits"])
    parity.assert_near(deltas, data["bbox_regression"])
    own = np.concatenate(net.anchors.of([output.size for output in outputs]))
    parity.assert_near(own, data["anchors"], 0)


def test_detections_are_torchvision_s(whole):
    """Classes equal, boxes and scores near, in the same order."""
    data, net, variables, features = whole
    outputs = _predict(net, variables, features)
    found = _detections(net, outputs, data["image_sizes"], Options())
    for image in range(2):
        expected = {
            key: data[f"detections/image{image}/{key}"] for key in ("boxes", "scores", "labels")
        }
        assert found.count[image] == len(expected["labels"]) == 100
        np.testing.assert_array_equal(found.classes[image], expected["labels"])
        parity.assert_near(found.boxes[image], expected["boxes"])
        parity.assert_near(found.scores[image], expected["scores"])


def test_targets_are_torchvision_s(whole):
    """Each anchor's class is that of the ground truth that torchvision matches it with."""
    data, net, variables, features = whole
    sizes = [output.size for output in _predict(net, variables, features)]
    truth = truth_of(data)
    for image in range(2):
        own = jax.tree.map(lambda x, image=image: x[image], truth)
        labels, _ = retinanet._targets(net, sizes, own)
        matched = data[f"matched/image{image}"]
        classes = data[f"targets/image{image}/labels"]
        np.testing.assert_array_equal(labels, np.where(matched < 0, matched, classes[matched]))


def image_normalised(net, outputs, truth):
    """The losses as torchvision has them: each image's by its own positives, then averaged."""
    sums, positives = retinanet.image_losses(net, outputs, truth)
    return [(part / jnp.maximum(positives, 1)).mean() for part in sums]


def test_losses_and_gradients_are_torchvision_s(whole):
    """In its normalisation and ours; gradients by the backbone's features and by weights."""
    data, net, variables, features = whole
    truth = truth_of(data)

    @jax.jit
    def compute(weights, features):
        def total(weights, features):
            outputs = retinanet.predict(net, variables._replace(weights=weights), features)
            theirs = image_normalised(net, outputs, truth)
            return sum(theirs), (theirs, retinanet.loss(net, outputs, truth))

        return jax.grad(total, (0, 1), has_aux=True)(weights, features)

    (by_weight, by_feature), losses = compute(variables.weights, features)
    for name, own in zip(("loss", "loss_batch_normalised"), losses, strict=True):
        for part, value in zip(("classification", "bbox_regression"), own, strict=True):
            parity.assert_near(value, data[f"{name}/{part}"])
    for level, gradient in zip(("C3", "C4", "C5"), by_feature, strict=True):
        parity.assert_near(gradient.transpose(0, 3, 1, 2), data[f"gradient/{level}"], 1e-4)
    heads = "head.classification_head", "head.regression_head"
    for name, gradient in {
        "backbone.fpn.inner_blocks.0.0": by_weight["pyramid"]["lateral"][0],
        "backbone.fpn.layer_blocks.1.0": by_weight["pyramid"]["output"][1],
        f"{heads[0]}.conv.0.0": by_weight["classes"]["hidden"][0],
        f"{heads[1]}.bbox_reg": by_weight["boxes"]["output"],
    }.items():
        own = gradient["kernel"].transpose(3, 2, 0, 1)
        parity.assert_near(own, data[f"gradient/{name}.weight"], 1e-4)
    own = by_weight["classes"]["output"]["bias"]
    parity.assert_near(own, data[f"gradient/{heads[0]}.cls_logits.bias"], 1e-4)


def small(**settings):
    """A detector of two levels and three classes."""
    settings = {"channels": 6, "levels": 2, "convs": 1, "key": jax.random.key(0)} | settings
    return retinanet.build((4,), (8,), 3, **settings)


def features_of(batch, height=8, width=8, seed=0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(batch, height, width, 4)).astype(dtype)]


def truth(boxes, labels, size=(64, 64)):
    sizes = np.tile(np.int32(size), (len(boxes), 1))
    return GroundTruth(np.float32(boxes), np.int32(labels), sizes)


_EMPTY = [[0.0, 0, 0, 0]] * 2
_TWO = [[4.0, 4, 40, 40], [20, 10, 60, 50]]


@jax.jit(static_argnums=0)
def _losses_and_gradients(net, variables, features, truth):
    def total(weights, features):
        outputs = retinanet.predict(net, variables._replace(weights=weights), features)
        own = retinanet.loss(net, outputs, truth)
        return sum(own), own

    return jax.grad(total, (0, 1), has_aux=True)(variables.weights, features)


def test_a_batch_without_boxes():
    """Finite losses and gradients, a box loss of 0, and no gradient for the tower of boxes."""
    net, variables = small()
    empty = truth([_EMPTY, _EMPTY], [[-1, -1], [-1, -1]])
    gradients, own = _losses_and_gradients(net, variables, features_of(2), empty)
    chex.assert_tree_all_finite((gradients, own))
    assert own.boxes == 0 and own.classification > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[0]["boxes"]))
    assert np.any(gradients[0]["classes"]["output"]["kernel"])


def test_an_empty_image_counts_as_one_positive_anchor():
    """The batch's losses are all images' sums by all positives, 1 of an image without any."""
    net, variables = small()
    features = features_of(2)
    both = truth([_TWO, _EMPTY], [[0, 2], [-1, -1]])
    gradients, own = _losses_and_gradients(net, variables, features, both)
    chex.assert_tree_all_finite((gradients, own))
    outputs = _predict(net, variables, features)
    sums, positives = jax.jit(retinanet.image_losses, static_argnums=0)(net, outputs, both)
    assert positives[0] > 2 and positives[1] == 0 and sums.boxes[1] == 0
    np.testing.assert_allclose(own.boxes, sums.boxes[0] / (positives[0] + 1), rtol=1e-5)
    np.testing.assert_allclose(
        own.classification, sums.classification.sum() / (positives[0] + 1), rtol=1e-5
    )


def test_anchors_over_padding_count_only_if_asked_for():
    """Features beside an image of 32 x 64 change the loss of a detector that looks at them."""
    own = truth([_TWO], [[0, 2]], (30, 64))
    # Without towers and top levels a logit reads 3 x 3 features of the pyramid, these 3 x 3 more.
    net, variables = small(levels=1, convs=0)
    features = features_of(1)[0]
    beside = np.concatenate([features[:, :6], features[:, 6:] + 1], 1)
    outputs = [_predict(net, variables, [x]) for x in (features, beside)]
    for over_padding in (False, True):
        own_anchors = dataclasses.replace(net.anchors, over_padding=over_padding)
        net = dataclasses.replace(net, anchors=own_anchors)
        here, there = (_loss(net, output, own).classification for output in outputs)
        assert (abs(here - there) > 1e-4) == over_padding
        assert over_padding or here == there


def test_classes_start_improbable():
    """About the prior, so that the many background anchors do not outweigh all else at first."""
    net, variables = small(prior=0.02)
    for output in _predict(net, variables, features_of(1)):
        scores = jax.nn.sigmoid(output.logits)
        np.testing.assert_allclose(scores, 0.02, rtol=0.2)


def test_bfloat16_features_give_float32_losses():
    """Near those of float32; so are boxes and scores."""
    net, variables = small()
    own = truth([_TWO], [[0, 2]])
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        outputs = _predict(net, variables, features_of(1, dtype=dtype))
        found[dtype] = _loss(net, outputs, own)
        chex.assert_trees_all_equal_dtypes(found[dtype], retinanet.Losses(*jnp.zeros((2, 1))))
        detected = jax.eval_shape(
            lambda x: retinanet.detections(net, x, own.sizes, Options()), outputs
        )
        assert detected.boxes.dtype == detected.scores.dtype == jnp.float32
    chex.assert_trees_all_close(*found.values(), rtol=0.02)


def scene(scores):
    """Outputs of one level of 2 x 2 positions, all of logit -9 but those given by (anchor, class)."""
    net, _ = small(levels=1, convs=0, key=None)
    logits = np.full((1, 36, 3), -9, np.float32)
    for (anchor, label), probability in scores.items():
        logits[0, anchor, label] = np.log(probability / (1 - probability))
    deltas = np.zeros((1, 36, 4), np.float32)
    return net, [anchors.Output(logits.reshape(1, 2, 2, 9, 3), deltas.reshape(1, 2, 2, 9, 4))]


def test_detections_by_hand():
    """The threshold, suppression within classes, clipping, order, and padding behind."""
    # Anchor 3 is the square of 32 pixels around the corner, 12 that around (8, 0), 4 a larger one.
    net, outputs = scene(
        {(3, 0): 0.9, (3, 2): 0.5, (12, 0): 0.8, (4, 0): 0.3, (21, 1): 0.04, (30, 1): 0.06}
    )
    found = _detections(net, outputs, np.int32([[14, 20]]), Options(limit=6))
    assert found.count.tolist() == [3]
    # Clipped, anchor 12's 20 x 14 overlaps anchor 3's 16 x 14 by 0.8; anchor 4's likewise.
    assert found.classes.tolist() == [[0, 2, 1, -1, -1, -1]]
    np.testing.assert_allclose(found.scores[0], [0.9, 0.5, 0.06, 0, 0, 0], rtol=1e-5)
    expected = [[0, 0, 16, 14], [0, 0, 16, 14], [0, 0, 20, 14], *[[0, 0, 0, 0]] * 3]
    np.testing.assert_allclose(found.boxes[0], expected, atol=1e-5)
    one = _detections(net, outputs, np.int32([[14, 20]]), Options(limit=6, per_level=1))
    assert one.count.tolist() == [1] and one.classes[0, 0] == 0


@pytest.mark.parametrize("count", [7, 40, 500])
def test_the_best_pairs_are_those_of_all_pairs(count):
    """Two short sorts find what sorting all pairs of anchor and class finds, among ties too."""
    generator = np.random.default_rng(count)
    logits = generator.integers(-3, 3, (50, 4)).astype(np.float32)
    deltas = 0.1 * generator.normal(size=(50, 4)).astype(np.float32)
    own = np.tile(np.float32([0, 0, 10, 10]), (50, 1)) + np.arange(50, dtype=np.float32)[:, None]
    boxes, scores, classes = _candidates(own, logits, deltas, count)
    order = np.argsort(-logits.ravel(), kind="stable")[:count]
    np.testing.assert_array_equal(classes, order % 4)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits.ravel()[order])), rtol=1e-6)
    centres = own[order // 4, :2] + 5 + 10 * deltas[order // 4, :2]
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, centres, atol=1e-4)


def test_one_trace_a_canvas():
    """Three epochs over four canvases trace four programs, although the structure is built anew."""
    own = truth([_TWO], [[0, 2]])

    @jax.jit(static_argnums=0)
    @chex.assert_max_traces(n=4)
    def step(net, variables, features, truth):
        return retinanet.loss(net, retinanet.predict(net, variables, features), truth)

    for epoch in range(3):
        net, variables = small(key=None)
        for height, width in ((4, 8), (8, 4), (8, 8), (5, 7)):
            step.trace(net, variables, features_of(1, height, width, epoch), own)


def test_too_few_levels_are_refused():
    """With the keys that say so."""
    with pytest.raises(UserError, match=r"config\.fpn\.levels=2, .* reads 3 levels"):
        retinanet.build(WIDTHS, STRIDES, 7, levels=2, key=None)

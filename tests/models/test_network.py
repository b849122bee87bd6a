"""The derived network: structure, training, and its values against NumPy."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.handcrafted import HANDCRAFTED
from ddarts_jax.models import network
from ddarts_jax.models.layers import Variables

SMALL = Genotype(
    [
        [("max_pool_3x3", 2, 0), ("skip_connect", 2, 1), ("dil_conv_3x3", 3, 1)],
        [("skip_connect", 2, 0), ("avg_pool_3x3", 2, 1), ("skip_connect", 3, 2)],
        [("sep_conv_3x3", 2, 0), ("skip_connect", 3, 1)],
    ],
    reductions=(1,),
    concat=(2, 3),
)


def build(genotype, image_size=8, key=None, **options):
    """The network and its variables; without a key the kernels stay zero."""
    options = {"channels": 4, "num_classes": 5, "image_channels": 1, **options}
    return network.build(genotype, image_size=image_size, key=key, **options)


def build_random(genotype, image_size=8, **options):
    """The network with random weights of the size of trained ones, and variances above zero."""
    net, variables = build(genotype, image_size, **options)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan_in = max(1, math.prod(leaf.shape[:-1]))
        return jnp.asarray(random.normal(0, fan_in**-0.5, leaf.shape), jnp.float32)

    return net, jax.tree_util.tree_map_with_path(draw, variables)


def trace(net, variables, image_size, train=True, dtype=jnp.float32):
    """What `forward` computes and returns for two images, without running it."""
    images = jax.ShapeDtypeStruct((2, image_size, image_size, 1), dtype)

    def run(variables, images):
        return network.forward(net, variables, images, train)

    return jax.make_jaxpr(run, return_shape=True)(variables, images)


# Structure.


def test_equals_numpy():
    """One cell of skips, with known statistics, gives what NumPy computes in float64."""
    genotype = Genotype(
        [[("skip_connect", 2, 0), ("skip_connect", 2, 1), ("skip_connect", 3, 2)]], (), (2,)
    )
    net, variables = build_random(genotype, image_size=4)
    images = np.random.default_rng(1).normal(size=(2, 4, 4, 1)).astype(np.float32)
    logits, _, statistics = network.forward(net, variables, jnp.asarray(images), train=False)

    weights, moments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)

    def norm(x, affine, moments):
        scaled = (x - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
        return scaled * affine["scale"] + affine["bias"]

    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    stem = np.einsum("bhwcij,ijco->bhwo", windows, weights["stem"]["kernel"])
    stem = norm(stem, weights["stem"]["norm"], moments["stem"]["norm"])
    node = 0
    for name in ("preprocess0", "preprocess1"):
        cell, cell_moments = weights["cells"]["0"][name], moments["cells"]["0"][name]
        x = np.maximum(stem, 0) @ cell["kernel"][0, 0]
        node = node + norm(x, cell["norm"], cell_moments["norm"])
    features = np.concatenate([node, node], -1).mean((1, 2))
    classifier = weights["head"]["classifier"]
    expected = features @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, statistics, variables.statistics)


def test_node_without_inputs_does_not_exist():
    """Edges from a node without inputs, directly or not, change nothing; outputs skip the node."""
    cell = [("max_pool_3x3", 3, 1), ("skip_connect", 5, 3)]
    dangling = [("sep_conv_3x3", 4, 2), ("sep_conv_3x3", 5, 4), ("skip_connect", 5, 2)]
    clean, variables = build(Genotype([cell], (), (2, 3, 4, 5)))
    same, same_variables = build(Genotype([cell + dangling], (), (2, 3, 4, 5)))
    assert (clean, hash(clean)) == (same, hash(same))
    jax.tree.map(np.testing.assert_array_equal, variables, same_variables)
    assert clean.num_nodes == (2,)
    assert variables.weights["head"]["classifier"]["kernel"].shape == (2 * 4, 5)


def test_all_existing_nodes_are_concatenated():
    """The network ignores `concat`, as the authors' does."""
    cell = [("skip_connect", 2, 0), ("skip_connect", 3, 0)]
    assert build(Genotype([cell], (), (3,)))[0].num_nodes == (2,)


def test_reduction_cell():
    """It doubles the channels, and strides exactly the edges that leave its inputs."""
    _, variables = build(SMALL)
    cells = variables.weights["cells"]
    assert set(cells["1"]["operations"]) == {"0_to_2_skip_connect"}  # the other one is an identity
    assert cells["1"]["operations"]["0_to_2_skip_connect"]["even"].shape == (1, 1, 8, 4)
    assert cells["1"]["preprocess1"]["kernel"].shape == (1, 1, 8, 8)
    assert set(cells["2"]["preprocess0"]) == {"even", "odd", "norm"}
    assert cells["2"]["operations"]["0_to_2_sep_conv_3x3"]["first"]["spatial"].shape == (3, 3, 1, 8)


def test_cells_stand_in_the_order_of_seq():
    """A gene that stands twice has weights of its own in each place."""
    repeated = Genotype(SMALL.genes, (1, 3), (2, 3), seq=(0, 1, 0, 1, 2))
    cells = build(repeated)[1].weights["cells"]
    assert list(cells) == ["0", "1", "2", "3", "4"]
    assert "1_to_3_dil_conv_3x3" in cells["0"]["operations"]
    assert cells["2"]["operations"]["1_to_3_dil_conv_3x3"]["spatial"].shape == (3, 3, 1, 8)


@pytest.mark.parametrize("image_size", [1, 5, 8, 9])
def test_any_image_size(image_size):
    """Odd sizes run through two reductions, and the statistics keep their structure."""
    repeated = Genotype(SMALL.genes, (1, 2), (2, 3))
    net, variables = build(repeated, image_size)
    _, (logits, auxiliary, statistics) = trace(net, variables, image_size)
    assert logits.shape == (2, 5) and auxiliary is None
    assert jax.tree.structure(statistics) == jax.tree.structure(variables.statistics)


def test_cell_without_nodes_is_refused():
    """The message names the cell and what to change."""
    empty = Genotype([SMALL.genes[0], [("skip_connect", 3, 2)]], (1,), (2, 3))
    with pytest.raises(UserError, match=r"Cell 1 .*parse\.threshold.*parse\.method"):
        build(empty)


def test_unknown_primitive_is_refused():
    """The message names the primitive."""
    with pytest.raises(UserError, match="conv_9x9"):
        build(Genotype([[("conv_9x9", 2, 0)]], (), (2,)))


# Training only: auxiliary head and drop path.


@pytest.mark.parametrize("image_size", [15, 16, 64])
def test_auxiliary_head(image_size):
    """It reads the last reduction cell's output, and gives logits in training only."""
    net, variables = build(SMALL, image_size, auxiliary=True)
    assert variables.weights["auxiliary"]["project"].shape == (1, 1, 16, 128)
    _, (logits, auxiliary, _) = trace(net, variables, image_size)
    assert logits.shape == auxiliary.shape == (2, 5)
    _, (logits, auxiliary, statistics) = trace(net, variables, image_size, train=False)
    assert logits.shape == (2, 5) and auxiliary is None
    assert jax.tree.structure(statistics) == jax.tree.structure(variables.statistics)


def test_auxiliary_head_refuses_small_images():
    """The message names the option, the size that the images have and the one that is needed."""
    with pytest.raises(UserError, match=r"train\.auxiliary_weight.*15x15.*14x14"):
        build(SMALL, 14, auxiliary=True)


@pytest.mark.parametrize(("stem", "sizes"), [("half", (32, 16)), ("strided", (16, 8))])
def test_large_stems(stem, sizes):
    """What the first cell reads, and the auxiliary head's 7 x 7 features; both have the same weights."""
    plain = Genotype(SMALL.genes[1:2], (), (2, 3))
    net, variables = build(plain, 64, stem=stem)
    assert variables.weights["stem"]["first"]["kernel"].shape == (3, 3, 1, 2)
    assert variables.weights["stem"]["second"]["kernel"].shape == (3, 3, 2, 4)
    assert variables.weights["second_stem"]["kernel"].shape == (3, 3, 4, 4)
    assert set(variables.weights["cells"]["0"]["preprocess0"]) == {"even", "odd", "norm"}
    other = build(plain, 64, stem="half" if stem == "strided" else "strided")[1]
    jax.tree.map(np.testing.assert_array_equal, variables, other)
    jaxpr, (logits, _, _) = trace(net, variables, 64)
    assert logits.shape == (2, 5)
    for size in (32, *sizes, sizes[1]):
        assert f"f32[2,{size},{size}," in str(jaxpr)
    assert f"f32[2,{sizes[1] // 2},{sizes[1] // 2}," not in str(jaxpr)

    smallest = 6 * 2 * 64 // sizes[1] + 1  # of 7 pixels, after the stem's halvings and one more
    assert network.smallest_image(SMALL, stem) == smallest
    with pytest.raises(UserError, match=f"{smallest}x{smallest}"):
        build(SMALL, smallest - 1, stem=stem, auxiliary=True)
    net, variables = build(SMALL, smallest, stem=stem, auxiliary=True)
    _, (_, auxiliary, _) = trace(net, variables, smallest)
    assert auxiliary.shape == (2, 5)
    # At a ResNet's last reduction cell images of 224 pixels are large enough with one stem alone.
    resnet = network.smallest_image(HANDCRAFTED["ResNet18"], stem)
    assert (resnet <= 224) == (stem == "half")
    assert network.smallest_image(HANDCRAFTED["Xception"], stem) > 224


# Feature maps.


@pytest.fixture(scope="module")
def read():
    """A network with the half stem, its variables, and images that are no squares."""
    cells = [
        [("skip_connect", 2, 0), ("skip_connect", 3, 1)],
        [("skip_connect", 2, 1), ("max_pool_3x3", 3, 0)],
        [("skip_connect", 2, 0), ("simple_conv_1x1", 3, 1)],
    ]
    net, variables = build_random(Genotype(cells, (1,), (2, 3)), stem="half")
    images = np.random.default_rng(1).normal(size=(2, 18, 16, 1)).astype(np.float32)
    return net, variables, images


def test_features_are_what_the_classifier_reads(read):
    """In any order, each of its own size; with the statistics that `forward` gives."""
    net, variables, images = read

    @jax.jit
    def run(variables, images):
        maps, moved = network.features(net, variables, images, True, (2, -2, -1, 1))
        still = network.features(net, variables, images, False, (2,))[1]
        return maps, moved, still, network.forward(net, variables, images, True)

    maps, moved, still, (logits, _, statistics) = run(variables, images)
    assert [m.shape for m in maps] == [(2, 3, 2, 16), (2, 5, 4, 4), (2, 9, 8, 4), (2, 3, 2, 16)]
    classifier = variables.weights["head"]["classifier"]
    found = maps[0].mean((1, 2)) @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(moved, statistics, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(still, variables.statistics)


def test_cells_behind_the_last_level_do_not_run(read):
    """Nor does the classifier; a position that is not there is an error."""
    net, variables, images = read

    def run(variables):
        return network.features(net, variables, images, True, (0, -1))

    assert "cell_0" in (text := jax.jit(run).lower(variables).as_text(debug_info=True))
    assert "cell_1" not in text and "cell_2" not in text and "head" not in text
    with pytest.raises(ValueError, match="3"):
        network.features(net, variables, images, True, (3,))
    plain, small = build(SMALL)
    with pytest.raises(ValueError, match="-2"):
        network.features(plain, small, images, True, (-2,))


@pytest.mark.parametrize(("train", "frozen"), [(False, 0), (True, 2), (False, 1)])
def test_what_learns(read, train, frozen):
    """With running statistics scales and biases do too; of frozen cells nothing, and nothing moves."""
    net, variables, images = read

    def loss(weights):
        whole = Variables(weights, variables.statistics)
        maps, statistics = network.features(net, whole, images, train, (0, 2), frozen_cells=frozen)
        return sum(jnp.sum(m**2) for m in maps), statistics

    gradient, statistics = jax.jit(jax.grad(loss, has_aux=True))(variables.weights)

    def constant(path):
        part, *rest = (key.key for key in path)
        return part != "head" and frozen and (part != "cells" or int(rest[0]) < frozen)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf != 0) == (path[0].key != "head" and not constant(path)), path
    before = dict(jax.tree_util.tree_leaves_with_path(variables.statistics))
    for path, leaf in jax.tree_util.tree_leaves_with_path(statistics):
        assert np.array_equal(leaf, before[path]) == (not train or bool(constant(path))), path


@pytest.mark.usefixtures("library")
def test_every_weight_learns():
    """Both losses together have a finite gradient that is not zero for every array of weights."""
    genotype = Genotype(
        [[("skip_connect", 2, 0), ("max_pool_3x3", 2, 1), ("dil_conv_3x3", 3, 2)]], (0,), (2, 3)
    )
    net, variables = build_random(genotype, 15, auxiliary=True)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 15, 15, 1)), jnp.float32)

    def loss(weights):
        whole = Variables(weights, variables.statistics)
        logits, auxiliary, _ = network.forward(net, whole, images, train=True)
        return jnp.sum(logits**2) + jnp.sum(auxiliary**2)

    gradient = jax.jit(jax.grad(loss))(variables.weights)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), path


def test_drop_path_scales():
    """A node is dropped with the given probability, per image, and its expectation is kept."""
    draw = jax.jit(network.drop_path_scales, static_argnums=(2, 3))
    scales = np.asarray(draw(jax.random.key(0), 0.2, (2, 3, 1), 1000))
    assert scales.shape == (3, 3, 1000, 1, 1, 1)
    np.testing.assert_allclose(np.unique(scales), [0, 1.25], rtol=1e-6)
    assert abs(scales.mean() - 1) < 0.03  # 9000 draws: 5 standard deviations
    assert not np.array_equal(scales[0, 0], scales[0, 1])
    assert not np.array_equal(scales, draw(jax.random.key(1), 0.2, (2, 3, 1), 1000))
    np.testing.assert_array_equal(draw(jax.random.key(0), 0.0, (2, 3, 1), 1000), 1)


@pytest.mark.usefixtures("library")
def test_drop_path_acts_in_training_only():
    """It changes logits in training with a probability above 0, never in evaluation."""
    net, variables = build_random(Genotype(SMALL.genes[:1], (), (2, 3)))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 1)), jnp.float32)
    key = jax.random.key(0)

    def logits(train, **drop):
        return np.asarray(network.forward(net, variables, images, train, **drop)[0])

    np.testing.assert_array_equal(logits(False), logits(False, drop_path=0.5, key=key))
    np.testing.assert_array_equal(logits(True), logits(True, drop_path=0.0, key=key))
    assert not np.array_equal(logits(True), logits(True, drop_path=0.5, key=key))


def test_computes_in_the_dtype_of_the_images():
    """With bfloat16 images the features are bfloat16; logits and statistics stay float32."""
    net, variables = build(SMALL)
    jaxpr, (logits, _, statistics) = trace(net, variables, 8, dtype=jnp.bfloat16)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype("float32")}
    assert "bf16[2,4,4,8]" in str(jaxpr)


def test_initial_weights():
    """Kernels and their spread are PyTorch's default, BatchNorm starts as the identity."""
    genotype = Genotype([[("dil_conv_5x5", 2, 0)]], (), (2,))
    _, (weights, statistics) = build(genotype, channels=16, key=jax.random.key(0))
    operation = weights["cells"]["0"]["operations"]["0_to_2_dil_conv_5x5"]
    for kernel in (weights["stem"]["kernel"], operation["spatial"], operation["pointwise"]):
        bound = math.prod(kernel.shape[:-1]) ** -0.5
        assert 0.9 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_array_equal(operation["norm"]["scale"], 1)
    np.testing.assert_array_equal(operation["norm"]["bias"], 0)
    assert type(weights) is type(statistics) is dict

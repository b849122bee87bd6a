"""Every program that runs on a GPU compiles for a described one, in bfloat16 (no GPU is needed).

XLA's compiler ends the whole process where it fails; pytest-xdist then reports the test whose worker
crashed. Networks are small: what is tested is which operations there are, not how large they are.
"""

import dataclasses

import gpu_program
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.configuration import default_config, score_config
from ddarts_jax.distributed import sharding
from ddarts_jax.genotypes import spaces
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.handcrafted import HANDCRAFTED
from ddarts_jax.searching import discretisation, stages
from ddarts_jax.tasks import export, scoring
from ddarts_jax.training import evaluate, train

_REASON = gpu_program.unavailable()
needs_compiler = pytest.mark.skipif(bool(_REASON), reason=_REASON)

_IMAGE = (8, 8, 3)
# What a search is about apart from its candidates: one with and one without weights, and strided skips.
_FEW = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
# Both skips, and all primitives with weights, strided or not.
_ALL = Genotype(
    genes=(
        [(name, 2 + k, k % 2) for k, name in enumerate(spaces.DARTOPTI_PRIMITIVES)],
        [(name, 2 + k, k % 2) for k, name in enumerate(spaces.DARTOPTI_PRIMITIVES)],
    ),
    reductions=(0,),
    concat=tuple(range(2, 14)),
)


def small_config():
    """2 cells of 1 node, both of which reduce, and little augmentation."""
    config = default_config()
    config.data.batch_size = 8
    config.search.num_cells = 2
    config.search.num_nodes = 1
    config.search.channels = 4
    config.search.stem_multiplier = 1
    config.search.augment.crop_padding = 1
    config.train.channels = 4
    config.train.stem_multiplier = 1
    return config


@pytest.fixture
def few(monkeypatch):
    """A space of few candidates, in which variants of the search compile quickly."""
    monkeypatch.setitem(spaces.SPACES, "darts", _FEW)


def check(program, loops=True):
    """Compiles a program; its text has loops of known length and holds no float64."""
    text = program.compile().as_text()
    found = gpu_program.describe(text)
    assert found["kernels"] > 0
    assert found["unknown_loops"] == 0
    assert "f64[" not in text
    assert ("while(" in text) == loops
    return text


@needs_compiler
@pytest.mark.parametrize("space", ["darts", "dartopti"])
def test_search_in_both_spaces(space):
    """The chunk of the loop, with all candidates and the exact gradient of the ablation loss."""
    config = small_config()
    config.search.space = space
    config.search.num_cells = 1
    check(gpu_program.search_program(config, _IMAGE))


@needs_compiler
def test_search_from_a_handcrafted_network(monkeypatch):
    """DARTOpti: ResNet18's shared block, whose alphas stand still at first, at two positions."""
    few = ("max_pool_3x3", "skip_connect", "simple_conv_3x3")
    monkeypatch.setitem(spaces.SPACES, "dartopti", few)
    config = small_config()
    config.search.space = "dartopti"
    block = HANDCRAFTED["ResNet18"]
    start = Genotype(block.genes, (1,), block.concat, (0, 0))
    check(gpu_program.search_program(config, _IMAGE, start=start))


_VARIANTS = {
    # The published difference takes two gradients as any method does.
    "shared cells, softmax, exact second order": {
        "method": "darts_second",
        "darts_second.difference": 0.0,
        "num_cells": 1,
    },
    "the pieces of other methods": {
        "ddarts.partial_channels": 2,
        "ddarts.edge_strengths": True,
        "ddarts.auxiliary_skip": 1.0,
        "ddarts.beta_decay_weight": 1.0,
        "num_cells": 1,
    },
    "the authors' program": {"method": "authors_program"},
    "all activations kept, one ablated network at a time": {
        "remat": False,
        "unroll": 3,
        "ddarts.microbatch": 1,
    },
    "strided stem, constant ablation loss, random removal": {
        "stem": "strided",
        "ddarts.ablation.gradient": "none",
        "ddarts.ablation.removal": "random",
    },
}


@needs_compiler
@pytest.mark.parametrize("variant", _VARIANTS)
def test_variants_of_the_search(few, variant):
    """Each option that changes the step's program."""
    config = small_config()
    config.search.update_from_flattened_dict(_VARIANTS[variant])
    image = (32, 32, 3) if variant.startswith("strided stem") else _IMAGE
    stage = None
    if variant == "the pieces of other methods":  # with the second of two stages
        kept = ((True, False, True), (True, True, False))
        stage = stages.Stage(1, (kept,), skip_dropout=0.3)
    check(gpu_program.search_program(config, image, stage=stage))


@needs_compiler
@pytest.mark.parametrize(
    ("stem", "size", "auto_augment"), [("plain", 32, "cifar10"), ("strided", 97, "imagenet")]
)
def test_training(stem, size, auto_augment):
    """The whole recipe, and all primitives: strided ones are those on which XLA aborted."""
    config = small_config()
    config.train.stem = stem
    config.train.augment.auto_augment = auto_augment
    config.train.auxiliary_weight = 0.4
    config.train.drop_path = 0.2
    config.train.average = 0.999
    config.train.accumulate = 2
    config.train.label_smoothing = 0.1
    config.train.augment.color_jitter = 0.4 if stem == "strided" else 0.0
    # One program has all strided primitives, the other all of stride 1; the other cell is a small one.
    few = [("skip_connect", node, 0) for node in (2, 3)]
    genes = (_ALL.genes[0], few) if stem == "strided" else (few, _ALL.genes[1])
    genotype = dataclasses.replace(_ALL, genes=genes)
    check(gpu_program.training_program(config, genotype, (size, size, 3)))


@needs_compiler
@pytest.mark.parametrize("phase", ["search", "train"])
def test_streamed_steps(few, phase):
    """Batches of a stream, already split over two devices."""
    config = small_config()
    config.data.stream = True
    config.train.auxiliary_weight = 0.0
    config[phase].augment.color_jitter = 0.4
    if phase == "search":
        check(gpu_program.search_program(config, _IMAGE, devices=2), loops=False)
    else:
        image = (16, 16, 3)
        program = gpu_program.training_program(config, tiny.GENOTYPE, image, devices=2)
        check(program, loops=False)


@needs_compiler
def test_scoring():
    """A training of the proxy network in which an operation is scored."""
    config = score_config()
    config.data.batch_size = 8
    config.train.channels = 4
    genotype = scoring.proxy(config.train.num_cells, 1, 2, "conv_7x1_1x7")
    check(gpu_program.training_program(config, genotype, _IMAGE))


def derived(dtype="bfloat16"):
    """A derived network with all primitives, and its variables."""
    dataset = harness.blank_dataset(_IMAGE)
    config = small_config()
    return train.build(config, _ALL, dataset, dtype, trained=True)


@needs_compiler
def test_evaluation():
    """All batches of the test images in one program."""
    net, variables = derived()
    mesh = gpu_program.mesh(8)
    arguments = variables, jnp.zeros((20, *_IMAGE), jnp.uint8), jnp.zeros(20, jnp.int32)
    arguments += jnp.zeros(3), jnp.ones(3)
    described = gpu_program.described(arguments, sharding.replicated(mesh))
    static = {"batch_size": 8, "dtype": "bfloat16", "mesh": mesh}
    check(gpu_program.Program(evaluate._sums, (net, *described), static))


@needs_compiler
def test_discretisation_gap(few):
    """The supernet under masked gates."""
    config = small_config()
    dataset = harness.blank_dataset(_IMAGE, count=8)
    net, variables, alphas = gpu_program.search.build(config, dataset, "bfloat16")
    mesh = gpu_program.mesh(8)
    accuracy = discretisation.make_accuracy(net, dataset.mean, dataset.std, "bfloat16", mesh)
    batch = jnp.zeros((8, *_IMAGE), jnp.uint8), jnp.zeros(8, jnp.int32)
    described = gpu_program.described(
        (variables, net.gates(alphas), *batch), sharding.replicated(mesh)
    )
    check(gpu_program.Program(accuracy, described), loops=False)


@needs_compiler
def test_exported_program():
    """What `model.stablehlo` holds for CUDA, exported on a CPU and read again."""
    net, variables = derived("float32")
    with jax.default_matmul_precision("highest"):
        exported = export.stablehlo(net, jax.tree.map(np.asarray, variables), _IMAGE)
    program = jax.export.deserialize(exported.serialize())
    placement = sharding.replicated(gpu_program.mesh(8))
    images = gpu_program.described(jnp.zeros((8, *_IMAGE)), placement)
    check(gpu_program.Program(jax.jit(program.call), (images,)), loops=False)


@needs_compiler
@pytest.mark.parametrize("phase", ["search", "train"])
def test_eight_devices(few, phase):
    """Data parallelism: no device gets another's images, and all sums over devices are of float32.

    XLA adds the devices' parts in the dtype of the product that they belong to: weights' gradients
    would be added in bfloat16. And it gathers images whose axis becomes one with that of `vmap`.
    """
    config = small_config()
    if phase == "search":
        program = gpu_program.search_program(config, _IMAGE, devices=8)
    else:
        config.train.auxiliary_weight = 0.0
        program = gpu_program.training_program(config, tiny.GENOTYPE, (16, 16, 3), devices=8)
    counts = gpu_program.collectives(check(program))
    kinds = {kind for operation, kind in counts if operation == "all-reduce"}
    assert "f32" in kinds
    assert "bf16" not in kinds, counts
    assert not any(kind == "u8" for _, kind in counts), counts
    assert not any(operation == "all-gather" for operation, _ in counts), counts


# Reading a compiled program.

_TEXT = """\
HloModule jit_f

%fused (p0: f32[4,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,8}
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/step/mul"}
  %sum = bf16[1,8]{1,0} all-reduce(%row), replica_groups={}, to_apply=%add
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%i, %x)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %zero.1 = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero.1, %x.1)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %copied = f32[4,8]{1,0} copy(%x.1)
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_kernels_and_bytes_are_counted_by_hand():
    """A loop of three with a fusion that reads a row of 32 bytes and its number, and a copy."""
    found = gpu_program.describe(_TEXT, scopes=1)
    assert found["kernels"] == found["small"] == 3 * 2 + 1
    assert found["distinct"] == 3
    assert found["kinds"] == {"fusion": 3, "all-reduce": 3, "copy": 1}
    read_and_written = [moved[2:4] for moved in gpu_program.launches(_TEXT)]
    assert read_and_written == [(32 + 4, 32), (32, 16), (128, 128)]
    assert found["seconds_at_least"] == pytest.approx(7 * gpu_program.LAUNCH, abs=1e-4)
    assert found["scopes"][0][1] == 4  # the collective and the copy name none
    assert gpu_program.collectives(_TEXT) == {("all-reduce", "bf16"): 3}

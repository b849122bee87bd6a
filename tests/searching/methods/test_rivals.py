"""The rivals' methods against numbers of their public programs, and what all methods have in common."""

import dataclasses
import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from ml_collections import ConfigDict
from scipy import special, stats

from ddarts_jax.configuration import default_config
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import parse
from ddarts_jax.models import edges, supernet
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.layers import Variables, apply, split
from ddarts_jax.models.relaxation import Relaxation, hashable
from ddarts_jax.searching import bilevel, discretisation, hypergradient, losses, methods, search
from ddarts_jax.searching.stages import Stage
from ddarts_jax.tasks.importing.names import torch_names
from ddarts_jax.training import optim

ARRAYS = tiny.SHARED / "methods"
needs_arrays = pytest.mark.skipif(not ARRAYS.is_dir(), reason="needs the rivals' parity arrays")

_CANDIDATE = re.compile(r"cells\.(\d+)\._ops\.(\d+)\._ops\.(\d+)\.")

# float64 against float64, summed in another order.
EXACT = {"rtol": 1e-9, "atol": 1e-11}


class Program:
    """The numbers that one run of a public program has left."""

    def __init__(self, name):
        with np.load(ARRAYS / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.meta = json.loads(str(self.arrays["meta"]))

    def __getitem__(self, key):
        return jnp.asarray(self.arrays[key], "float64")

    def both(self, name):
        """An array [2, ...] of both kinds of cells, the last axis one of columns."""
        kinds = jnp.stack([self[f"{name}_{kind}"] for kind in self.meta["distinct"]])
        return kinds[..., None] if kinds.ndim == 2 else kinds

    @property
    def alphas(self):
        """Ours, [2, E, columns]; 7 in place of those of candidates that are gone."""
        own = self.both("alphas")
        if (kept := self.kept) is not None:
            own = jnp.full(kept.shape, 7.0).at[kept].set(own.ravel())
        betas = [self.both("betas")] if "betas_normal" in self.arrays else []
        return jnp.concatenate([own, *betas], -1)

    def of_dots(self, prefix=""):
        """Ours, [2, E, columns], or with prefix "ce_grad_" their gradient, of both stages of DOTS."""

        def both(name):
            kinds = (name.format(kind) for kind in self.meta["distinct"])
            return np.stack([self.arrays[prefix + kind] for kind in kinds])

        if "mask_normal" not in self.arrays:
            groups = both("alphas_{}_non_params"), both("alphas_{}_params")
            return jnp.asarray(np.concatenate(groups, -1))
        found, start, betas = np.zeros((2, 14, 12)), 0, both("betas_{}")
        found[..., :8][self.mask] = both("alphas_{}_balance").ravel()
        for sources in range(2, 6):  # of each node
            for first, second in itertools.combinations(range(sources), 2):
                row = sources * (sources - 1) // 2 - 1 + first
                found[:, row, 8 + second - 1] = betas[:, start]
                start += 1
        return jnp.asarray(found)

    @property
    def mask(self):
        """Which two candidates DOTS has left, bool [2, E, candidates]."""
        return np.stack([self.arrays[f"mask_{kind}"] > 0 for kind in self.meta["distinct"]])

    @property
    def of_stage(self):
        """What distinguishes the relaxations of DOTS's stages."""
        if "mask_normal" not in self.arrays:
            return {"kind": "groups"}
        temperatures = {"temperature": 10.0, "final_temperature": 0.02, "epochs": (20, 40)}
        kept = hashable(self.mask.tolist())
        kind = {"kind": "balance", "topology": "pairs", "num_nodes": 4}
        return {**kind, "kept": kept, **temperatures}

    @property
    def last(self):
        """DOTS's BatchNorm and ReLU before the classifier; of the others `on` is False."""
        prefix, width = "state/lastact.0.", 4 * 4 * self.meta["C"]
        names = "weight", "bias", "running_mean", "running_var"
        on = f"{prefix}weight" in self.arrays
        own = {name: self[prefix + name] if on else jnp.ones(width) for name in names}
        return own | {"on": jnp.array(on)}

    @property
    def kept(self):
        """Which candidates are left, bool [2, E, candidates]; None: all."""
        if "switches_normal" not in self.arrays:
            return None
        return np.stack([self.arrays[f"switches_{kind}"] for kind in self.meta["distinct"]])

    def batch(self, suffix=""):
        images = self[f"input{suffix}"].transpose(0, 2, 3, 1)
        return images, self.arrays[f"target{suffix}"]

    def build(self, **options):
        """Our supernet with the program's weights."""
        reductions, count = self.meta["reductions"], self.meta["num_cells"]
        kept = self.kept
        kept = None if kept is None or kept.all() else hashable(kept.tolist())
        net, zeros = supernet.build(
            num_cells=count,
            num_nodes=self.meta["num_nodes"],
            channels=self.meta["C"],
            num_classes=10,
            image_channels=3,
            primitives=[p for p in self.meta["primitives"] if p != "none"],
            reductions=reductions,
            seq=[int(position in reductions) for position in range(count)],
            relaxation="softmax",
            none="none" in self.meta["primitives"],
            kept=kept,
            key=None,
            **options,
        )
        return net, Variables(*(self.filled(net, tree, "state/") for tree in zeros))

    def filled(self, net, tree, prefix):
        """A tree like our weights with the program's tensors, whose names have a prefix."""

        def load(keys, zeros):
            parts = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
            names = torch_names(parts, net.reductions, None, net)
            rows = zeros if "mixed" in parts else [zeros]
            own = [self.tensor(prefix + name, like.shape) for name, like in zip(names, rows)]
            return jnp.asarray(own if "mixed" in parts else own[0])

        return jax.tree_util.tree_map_with_path(load, tree)

    def tensor(self, name, shape):
        """A tensor in our order of axes; NaN in place of those of candidates that are gone."""
        if (kept := self.kept) is not None and (place := _CANDIDATE.search(name)):
            # The program numbers the candidates that are left.
            cell, edge, candidate = map(int, place.groups())
            own = kept[int(cell in self.meta["reductions"]), edge]
            if not own[candidate]:
                return np.full(shape, np.nan)
            number = own[:candidate].sum()
            new = f"cells.{cell}.cell_ops.{edge}.m_ops.{number}."
            name = f"{name[: place.start()]}{new}{name[place.end() :]}"
        x = self.arrays[name].astype(np.float64)
        x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
        return x.reshape(shape)


@needs_arrays
@pytest.mark.parametrize(
    ("name", "options", "progress"),
    [
        ("darts_none", {}, 0.0),
        ("p_darts_stage2", {}, 0.0),
        pytest.param("p_darts_stage3", {}, 0.0, marks=pytest.mark.slow),
        ("pc_darts", {"partial_channels": 4, "topology": "edges"}, 0.0),
        ("darts_minus", {"auxiliary_skip": 1.0}, 17 / 50),
        ("beta_darts", {}, 20 / 50),
        ("dots_operations", {}, 0.0),
        ("dots_topology", {}, (20 + 7) / 40),
    ],
)
@pytest.mark.usefixtures("library", "x64")
def test_loss_and_gradient_of_the_public_program(name, options, progress):
    """Logits, cross-entropy, and the gradients by alphas, betas and weights."""
    program = Program(name)
    net, variables = program.build(**options)
    rule, batch = net.relaxation, program.batch()
    if name.startswith("dots"):
        rule = Relaxation(primitives=net.primitives, none=True, **program.of_stage)
        alphas, gradient = program.of_dots(), program.of_dots("ce_grad_")
    else:
        alphas, gradient = program.alphas, program.both("ce_grad_alphas")

    relaxed = jax.jit(lambda alphas: rule.gates(alphas, progress))
    gates, pull_back = jax.vjp(relaxed, alphas)
    logits, ((loss, statistics), (by_weights, by_gates)) = _differentiate(
        _of_any_relaxation(net), variables, program.last, gates, *batch
    )
    (by_alphas,) = pull_back(by_gates)
    if rule.topology == "pairs":
        assert rule._annealed(progress) == pytest.approx(program.meta["T"], rel=1e-12)
        weighed = rule.strengths(alphas, program.meta["T"])
        np.testing.assert_allclose(weighed, program.both("edges")[..., 0], **EXACT)
    np.testing.assert_allclose(logits, program["logits_eval"], **EXACT)
    np.testing.assert_allclose(loss, program["ce_train"], **EXACT)
    if net.relaxation.kept is not None:
        assert not by_alphas[~program.kept].any()
        by_alphas = by_alphas[program.kept].reshape(gradient.shape)
    if net.relaxation.topology == "edges":
        gradient = jnp.concatenate([gradient, program.both("ce_grad_betas")], -1)
    np.testing.assert_allclose(by_alphas, gradient, **EXACT)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(by_weights)))
    np.testing.assert_allclose(norm, program["ce_grad_weights_norm"], **EXACT)
    moved = statistics["stem"]["norm"]["mean"]
    np.testing.assert_allclose(
        moved, program["after_one_train_forward/stem.1.running_mean"], **EXACT
    )


def _of_any_relaxation(net):
    """The supernet without its rule from alphas to gates, so that those alike are compiled once."""
    return dataclasses.replace(net, relaxation=Relaxation("softmax", net.primitives))


@functools.partial(jax.jit, static_argnums=0)
def _differentiate(net, variables, last, gates, images, labels):
    """Logits in evaluation; loss and statistics in training, by all weights and by the gates."""

    def run(weights, gates, train):
        own = Variables(weights[0], variables.statistics)
        logits, outputs, statistics = supernet.forward(net, own, gates, images, train)
        x = outputs[-1]
        moments = (
            (x.mean((0, 1, 2)), x.var((0, 1, 2)))
            if train
            else (last["running_mean"], last["running_var"])
        )
        x = (x - moments[0]) / jnp.sqrt(moments[1] + 1e-5) * weights[1] + weights[2]
        rectified = net.run_head(own, jax.nn.relu(x))
        return jnp.where(last["on"], rectified, logits), statistics

    def loss(weights, gates):
        logits, statistics = run(weights, gates, True)
        return cross_entropy(logits, labels), statistics

    weights = variables.weights, last["weight"], last["bias"]
    differentiated = jax.value_and_grad(loss, (0, 1), has_aux=True)(weights, gates)
    return run(weights, gates, False)[0], differentiated


def _weights_settings(rate, momentum, weight_decay):
    settings = default_config().search.weights
    settings.update(learning_rate=rate, final_learning_rate=rate)
    settings.update(momentum=momentum, weight_decay=weight_decay)
    return settings


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _hypergradients(net, settings, difference, variables, alphas, state, batches):
    """As published, and exact; compiled once for both recordings."""
    settings = ConfigDict(dict(settings))
    context = bilevel.Context({}, 1.0, None, batches[0], settings, state, total_steps=10)
    arguments = net, variables, alphas, batches[1], context
    return [hypergradient.hypergradient(*arguments, d) for d in (difference, 0)]


@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_a_hypergradient_with_and_without_clipping(clip):
    """The step ahead, which is not clipped, has the state of the weights' own optimizer."""
    net, variables = supernet.build(
        **{"num_cells": 1, "num_nodes": 1, "channels": 2, "num_classes": 2, "image_channels": 3},
        primitives=("skip_connect",),
        key=jax.random.key(0),
    )
    settings = _weights_settings(0.1, 0.9, 1e-3)
    settings.clip = clip
    state = optim.weights_optimizer(settings, 10).init(variables.weights)
    batch = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2, jnp.int32)
    found, exact = jax.eval_shape(
        functools.partial(_hypergradients, net, tuple(settings.items()), 0.01),
        *(variables, jnp.zeros(net.alphas_shape), state, (batch, batch)),
    )
    assert found.implicit.shape == exact.implicit.shape == net.alphas_shape


@needs_arrays
@pytest.mark.parametrize(
    "name", [pytest.param("second_order", marks=pytest.mark.slow), "second_order_momentum"]
)
@pytest.mark.usefixtures("library", "x64")
def test_hypergradient_of_the_public_program(name):
    """As published, by a finite difference, and exact: the two differ by as much as their size."""
    program = Program(name)
    net, variables = program.build()
    settings = _weights_settings(*map(program.meta.get, ("eta", "momentum", "weight_decay")))
    state = optim.weights_optimizer(settings, 10).init(variables.weights)
    if "momentum" in name:
        buffers = program.filled(net, variables.weights, "momentum/")
        state = jax.tree.map(
            lambda leaf: (
                leaf._replace(trace=buffers) if isinstance(leaf, optax.TraceState) else leaf
            ),
            state,
            is_leaf=lambda leaf: isinstance(leaf, optax.TraceState),
        )
    batches = program.batch("_weights"), program.batch("_alphas")
    found, exact = _hypergradients(
        *(net, tuple(settings.items()), program.meta["r"]),
        *(variables, program.alphas, state, batches),
    )
    np.testing.assert_allclose(found.loss, program["ce_unrolled"], **EXACT)
    np.testing.assert_allclose(found.direct, program.both("direct_alphas"), **EXACT)
    eta, theirs = program.meta["eta"], program.both("hypergradient_alphas")
    # A difference of two gradients near each other, over a small number.
    np.testing.assert_allclose(found.direct - found.implicit, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(exact.implicit, eta * program.both("mixed_alphas"), **EXACT)
    exact_theirs = program.both("hypergradient_exact_alphas")
    np.testing.assert_allclose(exact.direct - exact.implicit, exact_theirs, **EXACT)
    assert jnp.linalg.norm(theirs - exact_theirs) > 0.5 * jnp.linalg.norm(exact_theirs)


@needs_arrays
@pytest.mark.usefixtures("x64")
def test_beta_decay_of_the_public_program():
    """The loss of each kind of cell and its gradient, at the weight of its epoch."""
    program = Program("beta_darts")
    net, _ = program.build()
    values, pull_back = jax.vjp(lambda a: losses.beta_decay(net.relaxation, a), program.alphas)
    (gradient,) = pull_back(jnp.ones_like(values))
    kinds = program.meta["distinct"]
    np.testing.assert_allclose(values, [program[f"beta_decay_{kind}"] for kind in kinds], **EXACT)
    np.testing.assert_allclose(gradient, program.both("beta_decay_grad_alphas"), **EXACT)
    progress = bilevel.progress_at(jnp.array(20 * 7 + 3), total_steps=50 * 7, epochs=50)
    weight = program.meta["final_weight"] * progress
    total = program.both("ce_grad_alphas") + weight * gradient
    np.testing.assert_allclose(total, program.both("total_grad_alphas"), rtol=1e-6)


@needs_arrays
@pytest.mark.usefixtures("x64")
def test_the_zero_one_weight_of_the_public_program():
    """Its 10 for one mean over both cells is our 5 for a mean of each."""
    with np.load(ARRAYS / "fairdarts_zero_one.npz", allow_pickle=False) as file:
        alphas, theirs = (jnp.asarray(file[key], "float64") for key in ("alphas", "weighted_grad"))
    weight = default_config().search.fairdarts.zero_one_weight
    ours = jax.grad(lambda a: weight * losses.zero_one_loss(a).sum())(alphas)
    np.testing.assert_allclose(ours, theirs, **EXACT)


@needs_arrays
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", ["__call__", "joined"])
@pytest.mark.usefixtures("library", "x64")
def test_partial_channels_of_the_public_program(stride, way):
    """The order of the channels, and those that pass by, pooled where the edge is strided."""
    program, prefix = Program("pc_darts"), f"mixed_stride{stride}/"
    images = program[prefix + "input"].transpose(0, 2, 3, 1)
    names = tuple(program.meta["primitives"][1:])
    graph, zeros = split(edges.MixedOperation(names, images.shape[-1], stride, partial=4))

    class Net:
        """What `torch_names` asks of a supernet: this operation is edge 0 of a reduction cell."""

        class relaxation:
            candidates = ("none", *names)

        num_nodes = 1

    def load(keys, leaf):
        parts = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
        (name, *_) = torch_names(["cells", "0", "strided", "mixed", *parts], (0,), None, Net)
        own = program[prefix + name.removeprefix("cells.0._ops.0.")]
        return (own.transpose(2, 3, 1, 0) if own.ndim == 4 else own).reshape(leaf.shape)

    variables = Variables(*(jax.tree_util.tree_map_with_path(load, tree) for tree in zeros))
    gates = jnp.append(program[prefix + "weights"][1:], 1.0)
    if way == "joined":
        variables = jax.tree.map(lambda leaf: leaf[None], variables)
        gates = gates[None, None]
    output, _ = apply(graph, variables, images, gates, True, method=way)
    np.testing.assert_allclose(output.transpose(0, 3, 1, 2), program[prefix + "output"], **EXACT)


# What all methods have in common, on one cell of two nodes, with strided and other edges.

PRIMITIVES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
PIECES = {
    "partial_channels": 4,
    "edge_strengths": True,
    "auxiliary_skip": 1.0,
    "beta_decay_weight": 1.0,
}
CASES = {name: {} for name in ("darts", "darts_second", "pc_darts", "fairdarts")}
CASES |= {"darts_minus": {}, "beta_darts": {}, "gdas": {}, "sdarts_rs": {}, "ddarts": PIECES}
CASES |= {"drnas": {"kl_weight": 0.1}, "dots": {}}
# Behind the method's name, what else is tested of it.
CASES |= {"ddarts with pairs": PIECES | {"edge_strengths": False, "pairs": True}}
# The second stage of DOTS; the first is a step of DARTS with other gates.
LEFT = ((False, True, False, True), (True, False, False, True), (False, False, True, True))
STAGES = {
    "dots": Stage(1, (LEFT + LEFT[:2],), relaxation="balance", topology="pairs", one_level=True)
}
TOTAL, EPOCHS = 12, 4


@pytest.fixture(scope="module", params=CASES)
def method(request):
    """A method's supernet, its state after the first epoch of four, and its compiled step."""
    return Case(request.param, CASES[request.param])


class Case:
    """A method on noise."""

    def __init__(self, case, options):
        name, *_ = case.split()
        config = tiny.config("")
        config.search.update(method=name, num_cells=1, num_nodes=2, channels=8)
        config.search.space = ",".join(PRIMITIVES)
        if options:
            config.search[name].update(options)
        self.config, self.name = config, name

        class Data:
            """What `search.build` asks of a data set."""

            num_classes, channels = 3, 1

        stage = STAGES.get(name)
        self.net, variables, alphas = search.build(config, Data, "float32", stage=stage)
        spread = jnp.asarray(tiny.normal(7, *alphas.shape), alphas.dtype)
        init, step = search.search_step(self.net, config.search, TOTAL, epochs=EPOCHS)
        self.start = init(variables, spread)._replace(step=jnp.array(TOTAL // EPOCHS, jnp.int32))
        self.batches = [
            (jnp.asarray(tiny.normal(k, 8, 8, 8, 1), jnp.float32), jnp.arange(8) % 3)
            for k in range(2 - (stage is not None and stage.one_level))
        ]
        self.step = step
        self.state, self.measured = step(self.start, jax.random.key(0), *self.batches)


def test_every_method_steps_once_and_again(method):
    """One trace; the state keeps its shapes and dtypes; everything is finite and the alphas move."""
    key = jax.random.key(1)
    again, _ = method.step(method.state, key, *method.batches)
    assert method.step._cache_size() == 1
    for leaf, before in zip(jax.tree.leaves(again), jax.tree.leaves(method.start), strict=True):
        assert (leaf.shape, leaf.dtype) == (before.shape, before.dtype)
        assert bool(jnp.isfinite(leaf.astype(jnp.float32)).all())
    distinct = (len(method.start.alphas),)
    assert {value.shape for value in method.measured.values()} <= {(), distinct}
    named = {"loss", "accuracy", "gradient_norm_alphas", "gradient_norm_weights"}
    assert named | ({"weights_loss"} if len(method.batches) > 1 else set()) <= set(method.measured)
    moved = (method.state.alphas != method.start.alphas).all(axis=(0, 1))
    assert moved.all(), f"columns {method.net.relaxation.columns} moved: {moved}"


def test_every_method_goes_on_from_its_state_alone(method):
    """What a checkpoint holds, numbers on the host: the next step is bit for bit the same."""
    kept = jax.tree.map(np.asarray, method.state)
    key = jax.random.key(1)
    unbroken, resumed = (
        method.step(state, key, *method.batches)
        for state in (method.state, jax.tree.map(jnp.array, kept))
    )
    assert method.step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


def test_every_method_steps_closely_in_bfloat16(method):
    """Losses and the alphas' first gradient in bfloat16 point where those in float32 do.

    Adam's first moment after one step is the gradient, scaled.
    """
    rounded = [(images.astype(jnp.bfloat16), labels) for images, labels in method.batches]
    state, measured = method.step(method.start, jax.random.key(0), *rounded)
    for leaf, exact in zip(jax.tree.leaves(state), jax.tree.leaves(method.state), strict=True):
        assert leaf.dtype == exact.dtype
    got, expected = (
        np.asarray(optax.tree.get(each.alphas_optimizer, "mu"), np.float64).ravel()
        for each in (state, method.state)
    )
    cosine = got @ expected / np.linalg.norm(got) / np.linalg.norm(expected)
    off = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    # Measured: cosine 0.9997 or above, at most 2.9% off; losses 0.1% off.
    assert cosine > 0.999 and off < 0.05, f"cosine {cosine:.5f}, {off:.3f} off"
    np.testing.assert_allclose(measured["loss"], method.measured["loss"], rtol=0.005)


def test_every_method_has_gates_in_range_and_a_genotype(method):
    """Softmax shares sum to at most 1, strengths of edges to 1 or 2 a node; no genotype has `none`."""
    net, alphas = method.net, method.state.alphas
    gates = np.asarray(net.gates(alphas, 0.25))
    assert gates.shape == (
        1,
        5,
        len(net.relaxation.modules) + (net.relaxation.partial_channels > 1),
    )
    assert (gates >= 0).all() and (gates <= 1).all()
    probabilities = np.asarray(net.relaxation.probabilities(alphas))
    assert probabilities.shape == (1, 5, len(PRIMITIVES))
    if net.relaxation.kind == "softmax":
        total = probabilities.sum(-1)
        assert (total < 1).all() if net.relaxation.none else np.allclose(total, 1)
    paired = net.relaxation.topology == "pairs"
    if net.relaxation.weighs_edges:
        strengths = np.asarray(net.relaxation.strengths(alphas, net.relaxation._annealed(0.25)))
        sums = np.add.reduceat(strengths, [0, 2], -1)
        np.testing.assert_allclose(sums, 2 if paired else 1, rtol=1e-6)
        if net.relaxation.kind != "balance":  # whose shares have a temperature, too
            np.testing.assert_allclose(gates[..., -1], strengths, rtol=1e-6)
            weighed = probabilities * strengths[..., None]
            np.testing.assert_allclose(gates[..., :3], weighed, rtol=1e-6)
    if net.relaxation.kept is not None:
        assert not gates[~net.relaxation.kept_primitives].any()
    if net.relaxation.auxiliary_skip:
        np.testing.assert_allclose(gates[..., 3], 0.75)
        assert not np.asarray(net.gates(alphas))[..., 3].any()
    parse = method.config.parse
    parse.method = "pairs" if paired else "darts"
    genotype = search.derive(alphas, net, parse)
    assert genotype.num_cells == 1
    assert {name for cell in genotype.genes for name, _, _ in cell} <= set(PRIMITIVES)
    kept = np.asarray(discretisation.masked(gates, genotype, net.primitives))
    assert kept.shape == gates.shape and ((kept == gates) | (kept == 0)).all()
    if paired:  # which choose the edges alone
        best = [(0, 1), (0, 2), (1, 2)][int(net.relaxation.betas(alphas)[1].argmax())]
        sources = [source for _, node, source in genotype.genes[0] if node == 3]
        assert sorted(sources) == list(best)
    if net.relaxation.kind != "balance":  # by which a gate may be 0 beside `none`
        assert (kept > 0).any(-1).sum() == sum(map(len, genotype.genes))


@pytest.mark.usefixtures("library")
def test_every_method_follows_the_derivative_of_its_loss(method, x64):
    """The gradient of the alphas, by central differences of the loss along a random direction.

    Of those that differ in what they compute; second order has its own test.
    """
    if method.name not in ("pc_darts", "fairdarts", "darts_minus"):
        pytest.skip("computes what these do")
    net, settings = method.net, method.config.search
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), method.start.variables)
    alphas = jnp.asarray(method.start.alphas, "float64")
    images, labels = method.batches[1]
    images = jnp.asarray(images, "float64")
    options = settings.get(method.name)
    context = bilevel.Context(options, 0.25, None, None, settings.weights, None, TOTAL)
    gradient, _ = jax.jit(
        lambda alphas: methods.find(method.name).gradient(
            net, wide, alphas, images, labels, context
        )
    )(alphas)

    @jax.jit
    def loss(alphas):
        value, _ = supernet.weights_loss(
            wide.weights, alphas, net, wide.statistics, images, labels, 0.25
        )
        if method.name == "fairdarts":
            value += options.zero_one_weight * losses.zero_one_loss(alphas).sum()
        return value

    direction = jnp.asarray(tiny.normal(3, *alphas.shape))
    step = 1e-5 * direction
    quotient = (loss(alphas + step) - loss(alphas - step)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(gradient, direction), quotient, rtol=1e-6)


def test_pieces_that_are_off_change_nothing():
    """D-DARTS with K = 1 and the other pieces off has the alphas, gates and modules it had before."""
    config = tiny.config("")

    class Data:
        """What `search.build` asks of a data set."""

        num_classes, channels = 3, 1

    net, _, alphas = search.build(config, Data, "float32")
    rule = net.relaxation
    assert rule.columns == rule.modules == rule.primitives
    np.testing.assert_array_equal(net.gates(alphas, 0.5), jax.nn.sigmoid(alphas))


def test_the_absence_of_an_edge_needs_a_softmax():
    """With sigmoids it would compete with nothing."""
    with pytest.raises(UserError, match="candidates do not compete"):
        Relaxation("sigmoid", PRIMITIVES, none=True)


def test_channels_that_cannot_be_divided_are_refused():
    """Of 10 channels a quarter cannot be mixed."""
    with pytest.raises(UserError, match=r"there are 10: use a multiple of 4"):
        supernet.build(
            num_cells=1,
            num_nodes=1,
            channels=10,
            num_classes=2,
            image_channels=1,
            partial_channels=4,
            key=None,
        )


def test_strengths_rank_edges_and_thresholds_ignore_them():
    """A weak edge is not chosen, however sure its primitive; a chosen one needs no strong strength."""
    probabilities = np.full((1, 9, 1), 0.9)
    strengths = np.array([[0.5, 0.5, 0.1, 0.5, 0.4, 0.4, 0.1, 0.2, 0.3]])
    found = parse(
        *(probabilities, ("skip_connect",), "sparse", 0.85, (), None), strengths=strengths
    )
    sources = {(node, source) for _, node, source in found.genes[0]}
    assert sources == {(2, 0), (2, 1), (3, 1), (3, 2), (4, 0), (4, 3)}
    with pytest.raises(UserError, match="Strengths"):
        parse(*(probabilities, ("skip_connect",), "sparse", 0.85, ()), strengths=strengths[:, 1:])


def test_drawn_gates_are_one_candidate_with_the_gradient_of_its_probability():
    """As often as the softmax says, `none` included; the gradient is that of the soft gates."""
    rule = Relaxation("gumbel", PRIMITIVES, none=True, temperature=2.0, final_temperature=0.5)
    alphas = jnp.asarray(tiny.normal(0, 1, 5, 4), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: rule.gates(alphas, 0.0, key))(keys))
    assert set(np.unique(np.round(drawn, 5))) <= {0.0, 1.0} and (drawn.sum(-1) < 1.5).all()
    np.testing.assert_allclose(drawn.mean(0), rule.probabilities(alphas), atol=0.04)
    most = np.asarray(rule.gates(alphas))
    np.testing.assert_allclose(most, np.eye(4)[np.argmax(alphas, -1)][..., 1:], atol=1e-6)

    direction = jnp.asarray(tiny.normal(1, 1, 5, 3), jnp.float32)
    gradient = jax.grad(lambda a: jnp.vdot(rule.gates(a, 0.5, keys[0]), direction))(alphas)

    def soft(alphas):
        noise = jax.random.gumbel(keys[0], alphas.shape, alphas.dtype)
        shares = jax.nn.softmax((jax.nn.log_softmax(alphas) + noise) / 1.25)  # halfway
        return jnp.vdot(shares[..., 1:], direction)

    np.testing.assert_allclose(gradient, jax.grad(soft)(alphas), rtol=1e-5, atol=1e-6)


def test_gates_of_a_dirichlet_distribution_have_its_moments_and_their_derivatives():
    """Mean and second moment in closed form; the pathwise gradients have theirs as expectation."""
    kept = ((((True, True, True),) * 4) + ((True, False, True),),)
    rule = Relaxation("dirichlet", PRIMITIVES, kept=kept)
    alphas = jnp.asarray(tiny.normal(0, 1, 5, 3), jnp.float32)
    factors = jnp.asarray(tiny.normal(1, 1, 5, 3), jnp.float32)

    def drawn(alphas):
        # One independent draw for every cell, and here all cells have the same alphas.
        gates = rule.gates(jnp.broadcast_to(alphas, (8000, 5, 3)), 0.5, jax.random.key(0))
        means = gates.mean(0), (gates**2).mean(0)
        return [jnp.vdot(factors, mean) for mean in means], (gates, means)

    def expected(alphas):
        c = jnp.where(np.array(kept), jax.nn.elu(alphas) + 1, 0)
        total = c.sum(-1, keepdims=True)
        means = c / total, c * (c + 1) / (total * (total + 1))
        return [jnp.vdot(factors, mean) for mean in means], (None, means)

    _, pull_back, (gates, means) = jax.vjp(drawn, alphas, has_aux=True)
    _, pull_back_expected, (_, wanted) = jax.vjp(expected, alphas, has_aux=True)
    np.testing.assert_allclose(gates.sum(-1), 1, rtol=1e-5)
    assert not gates[:, 4, 1].any() and (gates >= 0).all()
    np.testing.assert_allclose(rule.gates(alphas), wanted[0], rtol=1e-6)
    for found, own in zip(means, wanted):
        np.testing.assert_allclose(found, own[0], atol=0.02)
    for k in range(2):
        cotangent = [jnp.float32(k == other) for other in range(2)]
        (found,), (own,) = pull_back(cotangent), pull_back_expected(cotangent)
        np.testing.assert_allclose(found, own, atol=0.02)
        assert np.abs(own).max() > 0.1 and not found[0, 4, 1]


def test_small_concentrations_draw_finite_gates_and_gradients():
    """An alpha that has fallen to -30 is a concentration of 1e-13, which elu(alpha) + 1 rounds to 0."""
    rule = Relaxation("dirichlet", PRIMITIVES)
    alphas = jnp.array([[[-30.0, -30.0, -30.0], [-30.0, 0.0, 3.0]]])

    def value(alphas, key):
        return jnp.vdot(rule.gates(alphas, 0.0, key), jnp.arange(6.0).reshape(1, 2, 3))

    for seed in range(3):
        found = jax.value_and_grad(value)(alphas, jax.random.key(seed))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("x64")
def test_the_divergence_from_a_flat_distribution():
    """As minus the entropy that SciPy gives, and the flat one's constant density; 0 at alphas of 0."""
    kept = ((((True, True, True),) * 4) + ((True, False, True),),)
    rule = Relaxation("dirichlet", PRIMITIVES, kept=kept)
    alphas = tiny.normal(0, 1, 5, 3)
    concentrations = np.where(alphas > 0, alphas + 1, np.exp(alphas))
    wanted = 0.0
    for own, there in zip(concentrations[0], kept[0]):
        own = own[list(there)]
        wanted -= stats.dirichlet(own).entropy() + special.gammaln(len(own))
    np.testing.assert_allclose(losses.divergence(rule, jnp.asarray(alphas)), [wanted], rtol=1e-9)
    flat = losses.divergence(rule, jnp.zeros((1, 5, 3)))
    np.testing.assert_allclose(flat, [0.0], atol=1e-12)


def test_perturbed_gates_stay_near_and_keep_their_sum():
    """Within the bound of the epoch before they are brought to their sum; the alphas see none."""
    rule = Relaxation("softmax", PRIMITIVES, first_noise=0.03, noise=0.3)
    alphas, key = jnp.asarray(tiny.normal(0, 1, 5, 3), jnp.float32), jax.random.key(1)
    plain = np.asarray(rule.gates(alphas, 0.5, key))
    np.testing.assert_array_equal(plain, jax.nn.softmax(alphas))
    for progress, bound in ((0.0, 0.03), (1.0, 0.3)):
        noisy = np.asarray(rule.gates(alphas, progress, key, noisy=True))
        np.testing.assert_allclose(noisy.sum(-1), 1, rtol=1e-5)
        raw = np.maximum(plain + bound * np.asarray(_uniform(key, plain.shape)), 0)
        np.testing.assert_allclose(noisy, raw / raw.sum(-1, keepdims=True), rtol=1e-5)
        assert np.abs(noisy - plain).max() > bound / 4
    np.testing.assert_array_equal(rule.gates(alphas, 0.5, None, noisy=True), plain)


def _uniform(key, shape):
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)

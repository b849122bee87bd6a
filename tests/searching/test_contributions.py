"""Marginal contributions and the per-cell gradients against the loss written out plainly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from ddarts_jax.errors import UserError
from ddarts_jax.models import supernet
from ddarts_jax.models.relaxation import hashable
from ddarts_jax.searching import bilevel
from ddarts_jax.searching.contributions import contributions
from ddarts_jax.searching.losses import EPSILON
from ddarts_jax.searching.methods import ddarts

PRIMITIVES = ("avg_pool_3x3", "skip_connect")
ABLATION_WEIGHT, ZERO_ONE_WEIGHT = 0.5, 7.0


@pytest.fixture(autouse=True)
def double_precision():
    """Everything here is compared in float64, where rounding cannot hide a wrong term."""
    with jax.enable_x64(True):
        yield


@functools.cache
def problem(seq, remat=True):
    """A supernet of one node a cell with alphas for the distinct cells of `seq`, and a batch."""
    net, variables = supernet.build(
        num_cells=len(seq),
        num_nodes=1,
        channels=2,
        num_classes=3,
        image_channels=1,
        primitives=PRIMITIVES,
        remat=remat,
        key=jax.random.key(0),
    )
    net = dataclasses.replace(net, seq=seq)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    rng = np.random.default_rng(1)
    alphas = jnp.array(rng.normal(size=net.alphas_shape))
    images = jnp.array(rng.normal(size=(6, 8, 8, 1)))
    labels = jnp.array(rng.integers(0, 3, 6))
    return net, variables, alphas, images, labels


def plain_bypass(net, variables, position, before_last, last):
    """The mean of a cell's two inputs for every node; in a reduction cell that of 3x3 pixels."""
    parts = (own["cells"][position] for own in (variables.weights, variables.statistics))
    cell = nnx.merge(net.cells[position], *parts)
    node = (cell.preprocess0(before_last, True) + cell.preprocess1(last, True)) / 2
    if position in net.reductions:
        ones, sums = jnp.ones(node.shape[1:3]), []
        for x in (node, ones[None, :, :, None]):
            padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            rows, columns = x.shape[1:3]
            shifts = [(a, b) for a in range(3) for b in range(3)]
            summed = sum(padded[:, a : a + rows, b : b + columns] for a, b in shifts)
            sums.append(summed[:, ::2, ::2])
        node = sums[0] / sums[1]
    return jnp.tile(node, (1, 1, 1, net.num_nodes))


def plain_loss(seq, alphas, removed, table, bypass=False):
    """L_CE of the network without the distinct cell `removed` (-1: with all).

    Its output is zero, or with `bypass` its inputs; with numbers in `table`, in place of NaN, they are
    its gates instead.
    """
    net, variables, _, images, labels = problem(seq)
    before_last = last = net.run_stem(variables, images, True)[0]
    for position, distinct in enumerate(seq):
        gates = jax.nn.sigmoid(alphas[distinct])
        gates = jnp.where(distinct == removed, jnp.nan_to_num(table[distinct]), gates)
        output = net.run_cell(position, variables, before_last, last, gates, True)[0]
        zero = (distinct == removed) & jnp.isnan(table).any()
        instead = plain_bypass(net, variables, position, before_last, last) if bypass else 0
        before_last, last = last, jnp.where(zero, instead, output)
    log_p = jax.nn.log_softmax(net.run_head(variables, last))
    return -log_p[jnp.arange(len(labels)), labels].mean()


@functools.cache
def plain_program(seq, stopped=False, bypass=False, but_last=False, spread=False):
    """Compiled: (alphas, table, w_AB) to the gradients, L_T and M of all cells.

    L_T is written as in D-DARTS section 3.2 (with the absolute value of the mean) and differentiated
    as a whole: for each cell i, dL_T_i/dalpha_i; if `stopped` the mean is a constant. The mean may be
    of all cells but the last one's, and what it divides by the spread, which is a constant.
    """

    def total(alphas, table, ablation_weight):
        removed = jnp.arange(-1, len(alphas))
        full, *without = jax.lax.map(lambda i: plain_loss(seq, alphas, i, table, bypass), removed)
        marginal = full - jnp.stack(without)
        of_mean = [m for cell, m in enumerate(marginal) if not (but_last and cell == seq[-1])]
        mean = sum(of_mean) / len(of_mean)
        mean = jax.lax.stop_gradient(mean) if stopped else mean
        scale = jax.lax.stop_gradient(jnp.stack(of_mean).std()) if spread else abs(mean)
        ablation = (marginal - mean) / (scale + EPSILON)
        zero_one = -jnp.mean((jax.nn.sigmoid(alphas) - 0.5) ** 2, axis=(1, 2))
        losses = full + ZERO_ONE_WEIGHT * zero_one + ablation_weight * ablation
        return losses, (losses, marginal)

    @jax.jit
    def answers(alphas, table, ablation_weight):
        jacobian, (losses, marginal) = jax.jacrev(total, has_aux=True)(
            alphas, table, ablation_weight
        )
        return jnp.stack([jacobian[i, i] for i in range(len(alphas))]), losses, marginal

    return answers


def plain_answers(seq, removal="zero", ablation_weight=ABLATION_WEIGHT):
    alphas = problem(seq)[2]
    table = jnp.full(alphas.shape, jnp.nan)
    if removal == "random":
        table = jax.random.uniform(jax.random.key(0), alphas.shape, alphas.dtype)
    return plain_program(seq)(alphas, table, ablation_weight)


@functools.cache
def program(seq, **ablation):
    """Compiled: a random key to the gradient and the metrics of `architecture_gradient`."""
    net, variables, alphas, images, labels = problem(seq)
    default = {"weight": ABLATION_WEIGHT, "gradient": "full", "removal": "zero"}
    default |= {"mean_gradient": "full", "mean_of": "all", "relative_to": "mean"}
    settings = ConfigDict(
        {"zero_one_weight": ZERO_ONE_WEIGHT, "ablation": default | ablation} | {"microbatch": 0}
    )

    @jax.jit
    def measure(key):
        context = bilevel.Context(settings, 1.0, key, None, None, None, 1)
        return ddarts.architecture_gradient(net, variables, alphas, images, labels, context)

    return measure


def architecture_gradient(seq, key=0, **ablation):
    return program(seq, **ablation)(jax.random.key(key))


DISTINCT, SHARED = (0, 1, 2), (0, 1, 0, 2)


@pytest.mark.parametrize(
    ("seq", "removal"), [(DISTINCT, "zero"), (DISTINCT, "random"), (SHARED, "zero")]
)
def test_gradient_equals_that_of_the_plainly_written_loss(seq, removal):
    """Two backward passes give every cell exactly dL_T_i/dalpha_i, also for cells that repeat.

    float64; tolerance 1e-9 relative to the largest entry, some 1e5 roundings.
    """
    expected, losses, marginal = plain_answers(seq, removal)
    gradient, measured = architecture_gradient(seq, removal=removal)
    np.testing.assert_allclose(measured["marginal_contribution"], marginal, atol=1e-11)
    np.testing.assert_allclose(measured["loss_total"], losses, atol=1e-10)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * scale)
    # The ablation loss has a say in it.
    assert np.abs(expected - plain_answers(seq, removal, 0.0)[0]).max() > 1e-3 * scale


def test_gradient_equals_finite_differences():
    """The plainly written loss itself changes as the gradient says (central differences, 1e-5)."""
    alphas = problem(DISTINCT)[2]
    expected, _, _ = plain_answers(DISTINCT)

    def losses(alphas):
        return plain_program(DISTINCT)(alphas, jnp.full(alphas.shape, jnp.nan), ABLATION_WEIGHT)[1]

    rng = np.random.default_rng(0)
    step = 1e-5
    for cell in range(len(alphas)):
        # Along a random direction of this cell's alphas: all its entries at once.
        direction = np.zeros(alphas.shape)
        direction[cell] = rng.normal(size=alphas.shape[1:])
        ahead, behind = losses(alphas + step * direction), losses(alphas - step * direction)
        slope = (ahead[cell] - behind[cell]) / (2 * step)
        np.testing.assert_allclose(np.sum(expected[cell] * direction[cell]), slope, rtol=1e-5)


def test_reported_losses_are_those_of_the_paper():
    """L_AB is relative to the mean, and L_T is the weighted sum of the reported losses."""
    _, measured = architecture_gradient(DISTINCT, removal="zero")
    np.testing.assert_allclose(measured["loss_ablation"].mean(), 0, atol=1e-12)
    parts = (
        measured["loss"]
        + ZERO_ONE_WEIGHT * measured["loss_zero_one"]
        + ABLATION_WEIGHT * measured["loss_ablation"]
    )
    np.testing.assert_allclose(measured["loss_total"], parts, atol=1e-12)


def test_gradient_none_reports_the_loss_and_lets_no_gradient_through():
    """`ablation.gradient=none` is the gradient of w_AB = 0 with the losses still measured."""
    seq = (0, 1)
    without, silent = architecture_gradient(seq, weight=0.0)
    none, measured = architecture_gradient(seq, gradient="none")
    np.testing.assert_allclose(none, without, atol=1e-12)
    assert "loss_ablation" in measured and "loss_ablation" not in silent


def test_random_removal_depends_on_the_key_alone():
    """`removal=random` draws its table from the step's key, so a run can be repeated."""
    draws = [architecture_gradient(DISTINCT, key, removal="random")[1] for key in (0, 0, 1)]
    draws = [np.asarray(draw["marginal_contribution"]) for draw in draws]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-6


@pytest.mark.parametrize(
    ("seq", "removal", "microbatch", "remat"),
    [
        (DISTINCT, "zero", 1, False),
        (DISTINCT, "random", 2, True),
        (SHARED, "zero", 1, True),
        (SHARED, "bypass", 1, True),
    ],
)
def test_less_memory_gives_the_same(seq, removal, microbatch, remat):
    """Some ablated networks at a time, edges kept or computed again: only rounding differs."""
    net, variables, alphas, images, labels = problem(seq, remat)
    table = jax.random.uniform(jax.random.key(0), alphas.shape, alphas.dtype)
    grouped = jax.jit(
        functools.partial(contributions, net, microbatch=microbatch, bypass=removal == "bypass")
    )(variables, alphas, images, labels, table=table if removal == "random" else None)
    expected, measured = architecture_gradient(seq, removal=removal)
    np.testing.assert_allclose(grouped.marginal, measured["marginal_contribution"], atol=1e-12)
    gradient = ddarts.gradient_parts(grouped, alphas, ABLATION_WEIGHT, ZERO_ONE_WEIGHT).total
    np.testing.assert_allclose(gradient, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("seq", [DISTINCT, SHARED])
def test_a_mean_that_is_a_constant(seq):
    """`mean_gradient=stopped` is the loss as printed with the mean held, and needs no gradient h."""
    alphas = problem(seq)[2]
    table = jnp.full(alphas.shape, jnp.nan)
    expected, losses, _ = plain_program(seq, stopped=True)(alphas, table, ABLATION_WEIGHT)
    gradient, measured = architecture_gradient(seq, mean_gradient="stopped")
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(measured["loss_total"], losses, rtol=1e-9)
    assert (measured["factor_ablated"] == 0).all()
    full = architecture_gradient(seq)[1]
    assert (full["factor_ablated"] != 0).all()


@pytest.mark.parametrize(
    ("seq", "plain", "options"),
    [
        (DISTINCT, {"bypass": True}, {"removal": "bypass"}),
        # Each of the three enters by itself, so a fault of one is seen here too.
        (
            SHARED,
            {"bypass": True, "but_last": True, "spread": True},
            {"removal": "bypass", "mean_of": "but_last", "relative_to": "spread"},
        ),
    ],
)
def test_other_ablation_losses_equal_the_plainly_written_ones(seq, plain, options):
    """A cell passed by, the last cell left out of the mean, the spread in place of the mean."""
    alphas = problem(seq)[2]
    table = jnp.full(alphas.shape, jnp.nan)
    expected, losses, marginal = plain_program(seq, **plain)(alphas, table, ABLATION_WEIGHT)
    gradient, measured = architecture_gradient(seq, **options)
    np.testing.assert_allclose(measured["marginal_contribution"], marginal, atol=1e-11)
    np.testing.assert_allclose(measured["loss_total"], losses, atol=1e-9)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * np.abs(expected).max())
    usual = plain_answers(seq)[0]
    assert np.abs(usual - expected).max() > 1e-3 * np.abs(expected).max()


def test_a_mean_of_no_cell_is_refused():
    """Where all cells share one architecture there is none but the last."""
    with pytest.raises(UserError, match="leaves no cell for the mean"):
        architecture_gradient((0, 0), mean_of="but_last")


def test_a_random_removal_leaves_out_what_a_stage_has_dropped():
    """A CPU does not run those candidates and a GPU does, so their gates must be 0."""
    net, _, alphas, *_ = problem(DISTINCT)
    shape = *alphas.shape[:2], len(net.primitives)
    kept = np.random.default_rng(0).random(shape) < 0.5
    rule = dataclasses.replace(net.relaxation, kept=hashable(kept.tolist()))
    parted = dataclasses.replace(net, relaxation=rule)
    drawn = ddarts.random_gates(parted, alphas, 1.0, jax.random.key(0))
    whole = ddarts.random_gates(net, alphas, 1.0, jax.random.key(0))
    np.testing.assert_array_equal(drawn, np.where(kept, whole, 0))
    assert 0 < np.min(whole) and np.max(whole) < 1


@pytest.mark.parametrize("mean_gradient", ["full", "stopped"])
def test_the_parts_of_the_gradient_are_reported(mean_gradient):
    """Their norms, and how often the sum holds g and h, tell where a cell climbs the cross-entropy."""
    net, variables, alphas, images, labels = problem(DISTINCT)
    own = jax.jit(functools.partial(contributions, net))(variables, alphas, images, labels)
    gradient, measured = architecture_gradient(DISTINCT, mean_gradient=mean_gradient)
    sigmoid = jax.nn.sigmoid(alphas)
    zero_one = -2 * (sigmoid - 0.5) * sigmoid * (1 - sigmoid) / alphas[0].size * ZERO_ONE_WEIGHT
    g, h = own.gradient, own.ablated_gradient
    factors = [measured[name][:, None, None] for name in ("factor_full", "factor_ablated")]
    ablation = (factors[0] - 1) * g + factors[1] * h
    np.testing.assert_allclose(g + zero_one + ablation, gradient, atol=1e-12)
    for name, part in (("cross_entropy", g), ("zero_one", zero_one), ("ablation", ablation)):
        norms = np.linalg.norm(np.reshape(part, (3, -1)), axis=1)
        np.testing.assert_allclose(measured[f"gradient_norm_{name}"], norms, rtol=1e-9)


def test_a_single_distinct_cell_has_no_ablation_loss():
    """All copies are removed at once, the mean is the cell's own M, so L_AB and its gradient are 0."""
    net, variables, alphas, images, labels = problem((0, 0))
    measured = jax.jit(functools.partial(contributions, net))(variables, alphas, images, labels)
    with_ablation, without = (
        ddarts.gradient_parts(measured, alphas, weight, ZERO_ONE_WEIGHT).total
        for weight in (0.5, 0.0)
    )
    np.testing.assert_allclose(with_ablation, without, atol=1e-12)
    # Nothing is left of the network but the classifier's bias.
    np.testing.assert_allclose(measured.ablated_losses[0], np.log(3), atol=0.7)

"""Marginal contributions and the per-cell gradients against the loss written out plainly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from ddarts_jax import architect, supernet
from ddarts_jax.contributions import contributions
from ddarts_jax.losses import EPSILON

PRIMITIVES = ("avg_pool_3x3", "skip_connect", "dil_conv_3x3")
ABLATION_WEIGHT, ZERO_ONE_WEIGHT = 0.5, 7.0


@pytest.fixture(autouse=True)
def double_precision():
    """Everything here is compared in float64, where rounding cannot hide a wrong term."""
    with jax.enable_x64(True):
        yield


@functools.cache
def problem(seq):
    """A supernet of 4 cells of 2 nodes with alphas for the distinct cells of `seq`, and a batch."""
    net, variables = supernet.build(
        num_cells=4,
        num_nodes=2,
        channels=2,
        num_classes=3,
        image_channels=1,
        primitives=PRIMITIVES,
        key=jax.random.key(0),
    )
    net = dataclasses.replace(net, seq=seq)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    rng = np.random.default_rng(1)
    alphas = jnp.array(rng.normal(size=net.alphas_shape))
    images = jnp.array(rng.normal(size=(6, 8, 8, 1)))
    labels = jnp.array(rng.integers(0, 3, 6))
    table = jnp.array(rng.uniform(size=alphas.shape))
    return net, variables, alphas, images, labels, table


def plain_loss(net, variables, alphas, images, labels, removed=None, table=None):
    """L_CE of the network with one distinct cell removed, one cell after another."""
    before_last = last = net.run_stem(variables, images, True)[0]
    for position, distinct in enumerate(net.seq):
        gates = jax.nn.sigmoid(alphas[distinct])
        if distinct == removed and table is not None:
            gates = table[distinct]
        output = net.run_cell(position, variables, before_last, last, gates, True)[0]
        if distinct == removed and table is None:
            output = 0 * output
        before_last, last = last, output
    log_p = jax.nn.log_softmax(net.run_head(variables, last))
    return -log_p[jnp.arange(len(labels)), labels].mean()


def plain_total(net, variables, alphas, images, labels, table):
    """L_T of every distinct cell, as D-DARTS section 3.2 writes it (absolute mean, see DESIGN)."""
    loss = functools.partial(plain_loss, net, variables, alphas, images, labels, table=table)
    full = loss()
    marginal = jnp.stack([full - loss(removed=i) for i in range(len(alphas))])
    mean = marginal.mean()
    ablation = (marginal - mean) / (abs(mean) + EPSILON)
    zero_one = -jnp.mean((jax.nn.sigmoid(alphas) - 0.5) ** 2, axis=(1, 2))
    return full + ZERO_ONE_WEIGHT * zero_one + ABLATION_WEIGHT * ablation, marginal


@functools.cache
def plain_answers(seq, removal):
    """Marginal contributions, and dL_T_i/dalpha_i for each cell i, by differentiating all of it."""
    net, variables, alphas, images, labels, table = problem(seq)

    def total(alphas):
        return plain_total(
            net, variables, alphas, images, labels, table if removal == "random" else None
        )

    @jax.jit
    def answers(alphas):
        jacobian, marginal = jax.jacrev(total, has_aux=True)(alphas)
        return jnp.stack([jacobian[i, i] for i in range(len(alphas))]), marginal, total(alphas)[0]

    return answers(alphas)


CASES = [((0, 1, 2, 3), "zero"), ((0, 1, 2, 3), "random"), ((0, 1, 2, 1), "zero")]


@pytest.mark.parametrize(("seq", "removal"), CASES)
def test_gradient_equals_that_of_the_plainly_written_loss(seq, removal):
    """Two backward passes give every cell exactly dL_T_i/dalpha_i, also for cells that repeat.

    float64; tolerance 1e-9 relative to the largest entry, some 1e5 roundings.
    """
    net, variables, alphas, images, labels, table = problem(seq)
    expected, marginal, _ = plain_answers(seq, removal)
    measured = jax.jit(functools.partial(contributions, net))(
        variables, alphas, images, labels, table=table if removal == "random" else None
    )
    np.testing.assert_allclose(measured.marginal, marginal, atol=1e-11)
    gradient = architect.total_gradient(measured, alphas, ABLATION_WEIGHT, ZERO_ONE_WEIGHT)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * scale)
    assert np.linalg.norm(measured.ablated_gradient) > 1e-3 * np.linalg.norm(measured.gradient)


def test_gradient_equals_finite_differences():
    """The plainly written loss itself changes as the gradient says (central differences, 1e-5)."""
    seq = (0, 1, 2, 3)
    net, variables, alphas, images, labels, _ = problem(seq)
    expected, _, _ = plain_answers(seq, "zero")
    total = jax.jit(lambda a: plain_total(net, variables, a, images, labels, None)[0])
    rng = np.random.default_rng(0)
    step = 1e-5
    for cell in range(4):
        # Along a random direction of this cell's alphas: all its entries at once.
        direction = np.zeros(alphas.shape)
        direction[cell] = rng.normal(size=alphas.shape[1:])
        ahead, behind = total(alphas + step * direction), total(alphas - step * direction)
        slope = (ahead[cell] - behind[cell]) / (2 * step)
        np.testing.assert_allclose(np.sum(expected[cell] * direction[cell]), slope, rtol=1e-5)


def settings(**ablation):
    return ConfigDict(
        {
            "zero_one_weight": ZERO_ONE_WEIGHT,
            "ablation": {"weight": ABLATION_WEIGHT, "gradient": "full", "removal": "zero"} | ablation,
        }
    )


def architecture_gradient(key=0, **ablation):
    net, variables, alphas, images, labels, _ = problem((0, 1, 2, 3))

    @jax.jit
    def measure(variables, alphas):
        return architect.architecture_gradient(
            net, variables, alphas, images, labels, settings(**ablation), jax.random.key(key)
        )

    return measure(variables, alphas)


def test_reported_losses_are_those_of_the_paper():
    """Metrics hold L_CE, L_01, L_AB, their weighted sum and M, each cell's own."""
    _, marginal, total = plain_answers((0, 1, 2, 3), "zero")
    _, measured = architecture_gradient()
    np.testing.assert_allclose(measured["loss_total"], total, atol=1e-10)
    np.testing.assert_allclose(measured["marginal_contribution"], marginal, atol=1e-11)
    np.testing.assert_allclose(measured["loss_ablation"].mean(), 0, atol=1e-12)
    parts = (
        measured["loss"]
        + ZERO_ONE_WEIGHT * measured["loss_zero_one"]
        + ABLATION_WEIGHT * measured["loss_ablation"]
    )
    np.testing.assert_allclose(measured["loss_total"], parts, atol=1e-12)


def test_gradient_none_reports_the_loss_and_lets_no_gradient_through():
    """`ablation.gradient=none` is the gradient of w_AB = 0 with the losses still measured."""
    without, silent = architecture_gradient(weight=0.0)
    none, measured = architecture_gradient(gradient="none")
    full, _ = architecture_gradient()
    np.testing.assert_allclose(none, without, atol=1e-12)
    assert np.abs(full - none).max() > 1e-4
    assert "loss_ablation" in measured and "loss_ablation" not in silent


def test_random_removal_depends_on_the_key_alone():
    """`removal=random` draws its table from the step's key, so a run can be repeated."""
    draws = [architecture_gradient(key, removal="random")[1] for key in (0, 0, 1)]
    draws = [np.asarray(draw["marginal_contribution"]) for draw in draws]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-6


def test_a_single_distinct_cell_has_no_ablation_loss():
    """All copies are removed at once, the mean is the cell's own M, so L_AB and its gradient are 0."""
    net, variables, _, images, labels, _ = problem((0, 0, 0, 0))
    alphas = jnp.array(np.random.default_rng(2).normal(size=net.alphas_shape))
    measured = jax.jit(functools.partial(contributions, net))(variables, alphas, images, labels)
    with_ablation, without = (
        architect.total_gradient(measured, alphas, weight, ZERO_ONE_WEIGHT) for weight in (0.5, 0.0)
    )
    np.testing.assert_allclose(with_ablation, without, atol=1e-12)
    # Nothing is left of the network but the classifier's bias.
    np.testing.assert_allclose(measured.ablated_losses[0], np.log(3), atol=0.7)

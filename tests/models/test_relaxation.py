"""How alphas become gates, by hand; test_rivals.py compares with public programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.relaxation import Relaxation
from ddarts_jax.searching import losses

NAMES = ("skip_connect", "sep_conv_3x3")


@pytest.fixture(name="paired")
def _paired():
    """Sigmoids whose edges are weighed by pairs, of three epochs with moving alphas after a fixed one."""
    temperatures = {"temperature": 2.0, "final_temperature": 0.5, "epochs": (1, 4)}
    return Relaxation(
        "sigmoid", NAMES, topology="pairs", num_nodes=2, partial_channels=2, **temperatures
    )


@pytest.fixture(name="alphas")
def _alphas():
    """Sigmoids of 0.8 and 0.5 everywhere; betas into node 3 whose exponentials are 1, 2 and 5."""
    alphas = np.full((1, 5, 4), np.log(3.0))  # a beta where there is no pair, too
    alphas[..., :2] = np.log(4.0), 0.0
    alphas[0, 2, 2:] = np.log([1.0, 2.0])  # of the edges from 0 and 1, and from 0 and 2
    alphas[0, 3, 3] = np.log(5.0)  # from 1 and 2
    return jnp.asarray(alphas, jnp.float32)


@pytest.mark.parametrize(("progress", "temperature"), [(0, 2.0), (0.25, 2), (0.5, 1), (1, 0.5)])
def test_gates_of_sigmoids_times_the_shares_of_pairs(paired, alphas, progress, temperature):
    """An edge has the shares of the pairs that hold it: a node's sum to 2, an only pair has it all."""
    odds = np.array([1.0, 2.0, 5.0]) ** (1 / temperature)
    a, b, c = odds / odds.sum()  # of (0, 1), (0, 2) and (1, 2)
    strengths = np.array([1, 1, a + b, a + c, b + c])
    assert strengths[2:].sum() == pytest.approx(2)
    gates = np.asarray(paired.gates(alphas, progress))
    np.testing.assert_allclose(gates[0], strengths[:, None] * [0.8, 0.5, 1.0], rtol=1e-6)


def test_what_is_lost_or_decayed_of_candidates_leaves_the_pairs_alone(paired, alphas):
    """Zero-one loss and beta decay are of the sigmoids alone, whatever weighs the edges."""
    plain = Relaxation("sigmoid", NAMES)
    for loss in (
        lambda rule, alphas: losses.zero_one_loss(rule.of_candidates(alphas)).sum(),
        lambda rule, alphas: losses.beta_decay(rule, alphas).sum(),
    ):
        gradient = jax.grad(loss, 1)(paired, alphas)
        assert not gradient[..., 2:].any() and gradient[..., 0].all()
        np.testing.assert_array_equal(gradient[..., :2], jax.grad(loss, 1)(plain, alphas[..., :2]))


def test_pairs_are_equal_at_first(paired):
    """Exactly, as a low temperature would tell the smallest differences apart; candidates are nearly."""
    start = paired.initial(jax.random.key(0), (3, 5, 4))
    assert not start[..., 2:].any()
    assert 0.0005 < jnp.std(start[..., :2]) < 0.002
    genotype = Genotype([[("skip_connect", 2, 0), ("sep_conv_3x3", 3, 2)]], (), (2, 3))
    encoded = np.asarray(paired.encode(genotype, 2.0))
    assert encoded.shape == (1, 5, 4) and not encoded[..., 2:].any()
    np.testing.assert_array_equal(encoded[0, [0, 4], :2], [[2, -2], [-2, 2]])


@pytest.mark.parametrize("topology", ["all", "edges", "pairs"])
def test_edges_are_weighed_alike_by_any_relaxation(topology):
    """How candidates compete and how edges do are independent: gates are shares times strengths."""
    alphas = jnp.asarray(tiny.normal(0, 2, 5, 4), jnp.float32)
    for kind in ("sigmoid", "softmax"):
        rule = Relaxation(kind, NAMES, topology=topology, num_nodes=2)
        own = alphas[..., : len(rule.columns)]
        shares = (jax.nn.sigmoid if kind == "sigmoid" else jax.nn.softmax)(own[..., :2])
        if topology != "all":
            sums = np.add.reduceat(np.asarray(rule.strengths(own)), [0, 2], -1)
            np.testing.assert_allclose(sums, {"edges": 1, "pairs": 2}[topology], rtol=1e-6)
            shares *= rule.strengths(own)[..., None]
        np.testing.assert_array_equal(rule.gates(own), shares)

"""The losses against float64 NumPy and hand-computed cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.searching.losses import ablation_loss, zero_one_loss

MARGINALS = hnp.arrays(np.float32, st.integers(1, 8), elements=st.floats(-5, 5, width=32))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_cross_entropy_is_that_of_numpy(smoothing, scale):
    """Mean negative log-likelihood, smoothed or not, also where exp(logits) overflows float32."""
    rng = np.random.default_rng(0)
    logits = scale * rng.normal(size=(6, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 6)
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probabilities = z - np.log(np.exp(z).sum(1, keepdims=True))
    targets = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    expected = -(targets * log_probabilities).sum(1).mean()
    actual = cross_entropy(jnp.array(logits), jnp.array(labels), smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_cross_entropy_of_undecided_logits_is_log_of_the_classes():
    """A network without an opinion has loss log(10), smoothed or not."""
    for smoothing in (0.0, 0.3):
        loss = cross_entropy(jnp.zeros((3, 10)), jnp.array([0, 4, 9]), smoothing)
        np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)


def test_zero_one_loss_by_hand():
    """Probabilities 0.9, 0.5 | 0.2, 0.7 in one cell and all one half in the other."""
    probabilities = np.array([[[0.9, 0.5], [0.2, 0.7]], [[0.5, 0.5], [0.5, 0.5]]])
    alphas = jnp.array(np.log(probabilities / (1 - probabilities)))
    by_hand = [-(0.16 + 0.0 + 0.09 + 0.04) / 4, 0.0]
    np.testing.assert_allclose(zero_one_loss(alphas), by_hand, atol=1e-7)


def test_a_candidate_that_is_gone_has_no_part_in_the_zero_one_loss():
    """Two candidates of four left weigh as two of two: value and gradient."""
    own = jnp.array([[[0.5, -2.0], [1.0, 0.1]]])
    gone = jnp.full_like(own, -jnp.inf)

    def of_all(own):
        return zero_one_loss(jnp.concatenate([own, gone], -1)).sum()

    np.testing.assert_allclose(of_all(own), zero_one_loss(own)[0], rtol=1e-6)
    expected = jax.grad(lambda a: zero_one_loss(a).sum())(own)
    np.testing.assert_allclose(jax.grad(of_all)(own), expected, rtol=1e-6)


@settings(deadline=None)  # the first example of every shape compiles
@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_zero_one_loss_lies_between_decided_and_undecided(alphas):
    """Any alphas, however large, give -0.25 <= L_01 <= 0."""
    loss = np.asarray(zero_one_loss(jnp.array(alphas)))
    assert loss.shape == (2,)
    assert np.all((-0.25 - 1e-7 <= loss) & (loss <= 0))


def test_zero_one_loss_pushes_away_from_one_half():
    """Descending moves an alpha above 0 up and one below 0 down."""
    gradient = jax.grad(lambda a: zero_one_loss(a).sum())(jnp.array([[[0.5, -0.5]]]))
    assert gradient[0, 0, 0] < 0 < gradient[0, 0, 1]


def test_ablation_loss_by_hand():
    """(M_i - mean) / (|mean| + eps) for a negative and a positive mean."""
    helpful = jnp.array([-0.3, -0.1, -0.2])
    np.testing.assert_allclose(
        ablation_loss(helpful, helpful.mean(), epsilon=0.05), [-0.4, 0.4, 0.0], atol=1e-6
    )
    harmful = jnp.array([0.5, -0.1, 0.2])
    np.testing.assert_allclose(
        ablation_loss(harmful, harmful.mean(), epsilon=0.3), [0.6, -0.6, 0.0], atol=1e-6
    )


@settings(deadline=None)  # the first example of every shape compiles
@given(MARGINALS)
def test_ablation_loss_ranks_cells_by_how_much_they_help(marginal):
    """For any sign of the mean: finite, mean zero, and never higher for a smaller M."""
    loss = np.asarray(ablation_loss(jnp.array(marginal), jnp.mean(marginal)), np.float64)
    assert np.all(np.isfinite(loss))
    # Rounding of the mean (M up to 5) is divided by at least epsilon = 1e-3.
    assert abs(loss.mean()) <= 5 * 8 * np.finfo(np.float32).eps / 1e-3
    assert np.all(np.diff(loss[np.argsort(marginal)]) >= 0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_descending_the_ablation_loss_lowers_the_own_contribution(sign):
    """At a fixed mean of either sign the derivative by M_i is positive."""
    assert jax.grad(ablation_loss)(0.1, sign * 0.2) > 0


def test_ablation_loss_is_finite_at_mean_zero():
    """Value and both derivatives stay finite where the contributions cancel."""
    assert np.isfinite(ablation_loss(jnp.array([0.1, -0.1]), 0.0)).all()
    assert np.isfinite(jax.grad(ablation_loss, argnums=(0, 1))(0.1, 0.0)).all()


def test_single_cell_has_no_ablation_loss():
    """The only cell is the average cell."""
    assert ablation_loss(jnp.array([-0.7]), jnp.array([-0.7]).mean()) == 0

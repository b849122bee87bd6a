"""Losses of detectors, element by element, and their gradients, against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import arrays, assert_near

from ddarts_jax.detection import losses


def values_and_gradient(loss, at):
    return loss(at), jax.grad(lambda x: loss(x).sum())(at)


@pytest.mark.parametrize(
    ("name", "alpha", "gamma", "factor"),
    [
        ("alpha0.25_gamma2.0", 0.25, 2.0, 1),
        ("alpha0.4_gamma1.5", 0.4, 1.5, 1),
        ("alpha-1.0_gamma2.0", 0.5, 2.0, 2),  # without alpha: twice what equal weights give
    ],
)
def test_focal_loss_is_torchvision_s(name, alpha, gamma, factor):
    """Logits of +-40 too, where a naive formula gives infinity or nothing."""
    data = arrays("losses")
    targets = data["targets"] > 0
    values, gradient = values_and_gradient(
        lambda x: factor * losses.sigmoid_focal(x, targets, alpha, gamma), data["logits"]
    )
    assert_near(values, data[f"focal_{name}/values"])
    assert_near(gradient, data[f"focal_{name}/gradient"], 1e-4)


def test_focal_loss_of_any_logits_is_finite():
    """With its gradient: a diverging network is told by its loss, not by a nan from nowhere."""
    logits = jnp.array([-1e30, -200.0, 0.0, 200.0, 1e30])
    for targets in (True, False):
        values, gradient = values_and_gradient(
            lambda x, targets=targets: losses.sigmoid_focal(x, jnp.full(5, targets)), logits
        )
        assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(values[2], 0.75 * 0.25 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "beta"), [("smooth_l1_beta_1_9", 1 / 9), ("smooth_l1_beta_1", 1.0), ("l1", 0.0)]
)
def test_smooth_l1_is_torchvision_s(name, beta):
    """Equal predictions and targets have gradient 0, those at beta the line's."""
    data = arrays("losses")
    values, gradient = values_and_gradient(
        lambda x: losses.smooth_l1(x, data["box_targets"], beta), data["box_predictions"]
    )
    assert_near(values, data[f"{name}/values"])
    assert_near(gradient, data[f"{name}/gradient"], 1e-4)

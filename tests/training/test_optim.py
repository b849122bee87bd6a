"""Optimizers against float64 NumPy versions of PyTorch's SGD and Adam."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from ddarts_jax.configuration import default_config
from ddarts_jax.errors import UserError
from ddarts_jax.training.optim import (
    alphas_learning_rates,
    alphas_optimizer,
    cosine,
    exponential,
    in_tenths,
    sgd,
    weights_learning_rate,
    weights_optimizer,
)

STEPS = 20
TOLERANCE = {"rtol": 2e-6, "atol": 1e-6}  # float32 against float64 over 20 steps


def cosine_at(step, first, final):
    """torch.optim.lr_scheduler.CosineAnnealingLR, in closed form."""
    return final + (first - final) * (1 + np.cos(np.pi * step / STEPS)) / 2


def torch_sgd(weights, gradients, settings):
    """clip_grad_norm_, then torch.optim.SGD with momentum and weight decay; yields the weights."""
    buffers = None
    for step, gradient in enumerate(gradients):
        norm = np.sqrt(sum((g**2).sum() for g in gradient))
        gradient = [g * min(1.0, settings.clip / (norm + 1e-6)) for g in gradient]
        gradient = [g + settings.weight_decay * w for g, w in zip(gradient, weights)]
        if buffers is None:
            buffers = gradient
        else:
            buffers = [settings.momentum * b + g for b, g in zip(buffers, gradient)]
        rate = cosine_at(step, settings.learning_rate, settings.final_learning_rate)
        weights = [w - rate * b for w, b in zip(weights, buffers)]
        yield weights


def torch_adam(alphas, gradients, settings, first, final):
    """torch.optim.Adam with weight decay as L2; yields the alphas."""
    m = v = np.zeros_like(alphas)
    for step, gradient in enumerate(gradients):
        gradient = gradient + settings.weight_decay * alphas
        m = settings.b1 * m + (1 - settings.b1) * gradient
        v = settings.b2 * v + (1 - settings.b2) * gradient**2
        denominator = np.sqrt(v) / np.sqrt(1 - settings.b2 ** (step + 1)) + 1e-8
        rate = cosine_at(step, first, final) / (1 - settings.b1 ** (step + 1))
        alphas = alphas - rate * m / denominator
        yield alphas


def run(optimizer, params, gradients):
    """Yields (params, state) after each update, jitted as the search does it."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for gradient in gradients:
        params, state = step(
            params, state, jax.tree.map(lambda g: jnp.asarray(g, "float32"), gradient)
        )
        yield params, state


@pytest.mark.parametrize("first, final", [(0.025, 0.0), (0.005, 0.001), (0.0, 0.0), (0.0, 0.1)])
def test_cosine_goes_from_first_to_final_and_stays(first, final):
    """The schedule is CosineAnnealingLR's, also from a rate of 0."""
    schedule = cosine(first, final, STEPS)
    for step in range(STEPS + 1):
        np.testing.assert_allclose(schedule(step), cosine_at(step, first, final), atol=1e-8)
    np.testing.assert_allclose(schedule(STEPS + 5), final, atol=1e-8)


@pytest.mark.parametrize("scale", [0.1, 10.0], ids=["not clipped", "clipped"])
@pytest.mark.parametrize("phase", ["search", "train"])
def test_weights_follow_pytorch_sgd(scale, phase):
    """Clip, decay, momentum and schedule act in PyTorch's order."""
    config = default_config()
    settings = config.search.weights if phase == "search" else config.train
    with settings.unlocked():
        settings.weight_decay = 0.1  # large enough to show in 20 steps
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 4)), rng.normal(size=(5,))]
    gradients = [[scale * rng.normal(size=w.shape) for w in weights] for _ in range(STEPS)]
    expected = torch_sgd(weights, gradients, settings)
    start = [jnp.asarray(w, jnp.float32) for w in weights]
    for step, (params, state) in enumerate(
        run(weights_optimizer(settings, STEPS), start, gradients)
    ):
        for got, want in zip(params, next(expected)):
            np.testing.assert_allclose(got, want, **TOLERANCE)
        rate = cosine_at(step, settings.learning_rate, settings.final_learning_rate)
        np.testing.assert_allclose(weights_learning_rate(state), rate, rtol=1e-5, atol=1e-9)


def test_learning_rate_warms_up():
    """It rises linearly from 0 to its peak, then falls by a cosine over the steps that are left."""
    settings = default_config().train
    settings.learning_rate, settings.final_learning_rate = 0.4, 0.1
    rates = list(rates_of(settings, 12, warmup_steps=4))
    rise = [0.4 * step / 4 for step in range(4)]
    fall = [0.1 + 0.3 * (1 + np.cos(np.pi * step / 8)) / 2 for step in range(8)]
    np.testing.assert_allclose(rates, rise + fall, rtol=1e-5, atol=1e-7)


def rates_of(settings, steps, warmup_steps=0):
    optimizer = weights_optimizer(settings, steps, warmup_steps)
    params = jnp.ones(3)
    state = optimizer.init(params)
    for _ in range(steps):
        _, state = optimizer.update(params, state, params)
        yield float(weights_learning_rate(state))


def test_the_rate_of_a_detector_falls_in_tenths():
    """MMDetection's: linear from a thousandth in the warm-up, a tenth from each given step on."""
    schedule = in_tenths(0.02, [6, 9], 4)
    expected = [0.02 * (0.001 + 0.999 * step / 4) for step in range(4)]
    expected += [0.02] * 2 + [0.002] * 3 + [0.0002] * 3
    np.testing.assert_allclose([schedule(step) for step in range(12)], expected, rtol=1e-4)
    assert in_tenths(0.02, [], 0)(0) == pytest.approx(0.02)


def test_what_does_not_learn_does_not_decay():
    """By the mask of a detector's frozen leaves, whose gradient is zero; without clipping at 0."""
    settings = ml_collections.ConfigDict({"momentum": 0.9, "weight_decay": 0.5, "clip": 0.0})
    mask = {"frozen": False, "learns": True}
    optimizer = sgd(in_tenths(0.1, [], 0), settings, mask)
    weights = {"frozen": np.full(2, 3.0, np.float32), "learns": np.full(2, 3.0, np.float32)}
    gradient = {"frozen": np.zeros(2, np.float32), "learns": np.full(2, 1e4, np.float32)}
    updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    np.testing.assert_array_equal(updates["frozen"], 0)
    np.testing.assert_allclose(updates["learns"], -0.1 * (1e4 + 1.5), rtol=1e-6)


def test_an_exponential_rate_is_that_of_pytorchs_step_lr():
    """DARTS on ImageNet: 0.1, times 0.97 after every epoch, 250 of them."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.97)
    expected = []
    for _ in range(250):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates = exponential(0.1, 0.97, 7)(jnp.arange(7 * 250))
    np.testing.assert_allclose(rates, np.repeat(expected, 7), rtol=1e-5)


def test_the_schedule_is_a_choice_of_the_training():
    """Exponential by epochs of the steps; after a warm-up it falls from the peak on."""
    settings = default_config().train
    settings.epochs, settings.schedule, settings.decay = 4, "exponential", 0.5
    rates = [0.025 * 0.5**epoch for epoch in range(4) for _ in range(3)]
    np.testing.assert_allclose(list(rates_of(settings, 12)), rates, rtol=1e-6)
    warm = [0.0, 0.025 / 3, 0.05 / 3, *rates[:9]]
    np.testing.assert_allclose(list(rates_of(settings, 12, 3)), warm, rtol=1e-6)


def alphas_case(cells=4, edges=5, primitives=7):
    rng = np.random.default_rng(1)
    alphas = rng.normal(size=(cells, edges, primitives))
    return alphas, rng.normal(size=(STEPS, *alphas.shape))


def alphas_settings(rates=(), weight_decay=1e-3):
    settings = default_config().search.alphas
    settings.cell_learning_rates = rates
    settings.weight_decay = weight_decay
    return settings


def test_rates_for_another_number_of_cells_are_refused():
    """The message names the key, how many rates there are and how many distinct cells."""
    optimizer = alphas_optimizer(alphas_settings((0.1,) * 3), STEPS)
    with pytest.raises(UserError, match=r"cell_learning_rates has 3 rates.*4 distinct cells"):
        optimizer.init(jnp.zeros((4, 5, 7)))


@pytest.mark.parametrize("rates", [(), (3e-3, 0.0, 1e-2, 1)])
def test_alphas_follow_one_pytorch_adam_a_cell(rates):
    """Every cell's alphas move as by an Adam of their own, its rate falling to a third."""
    alphas, gradients = alphas_case()
    settings = alphas_settings(rates, weight_decay=0.1)
    firsts = rates or (3e-3,) * 4
    expected = [
        torch_adam(alphas[i], gradients[:, i], settings, firsts[i], firsts[i] / 3) for i in range(4)
    ]
    optimizer = alphas_optimizer(settings, STEPS)
    for step, (got, state) in enumerate(run(optimizer, jnp.float32(alphas), gradients)):
        for i in range(4):
            atol = 2e-6 * max(1, 10 * firsts[i])  # float32 against float64 over 20 steps
            np.testing.assert_allclose(got[i], next(expected[i]), rtol=1e-5, atol=atol)
        want = [cosine_at(step, first, first / 3) for first in firsts]
        np.testing.assert_allclose(alphas_learning_rates(state), want, rtol=1e-5)


def test_a_cell_with_rate_0_does_not_move_and_the_others_do():
    """A learning rate of one cell is its own; weight decay does not move a cell at rest either."""
    alphas, gradients = alphas_case()
    start = jnp.float32(alphas)
    *_, (end, _) = run(
        alphas_optimizer(alphas_settings((1e-3, 0, 1e-3, 1e-3)), STEPS), start, gradients
    )
    moved = (end != start).all((1, 2))
    assert moved.tolist() == [True, False, True, True]


def test_each_cell_is_optimised_as_if_alone():
    """State and alphas of a cell are, bit for bit, those of the cell optimised alone."""
    alphas, gradients = alphas_case()
    rates = (1e-3, 2e-3, 0.0, 5e-3)
    *_, together = run(
        alphas_optimizer(alphas_settings(rates), STEPS), jnp.float32(alphas), gradients
    )
    for i, rate in enumerate(rates):
        optimizer = alphas_optimizer(alphas_settings((rate,)), STEPS)
        *_, alone = run(optimizer, jnp.float32(alphas[i : i + 1]), gradients[:, i : i + 1])
        for all_cells, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
            np.testing.assert_array_equal(all_cells[i : i + 1], one)


def test_the_gradient_of_one_cell_reaches_no_other():
    """Cells share nothing: changing one cell's gradients leaves the others' state alone."""
    alphas, gradients = alphas_case()
    other = gradients.copy()
    other[:, 2] *= -3
    optimizer = alphas_optimizer(alphas_settings(), STEPS)
    *_, a = run(optimizer, jnp.float32(alphas), gradients)
    *_, b = run(optimizer, jnp.float32(alphas), other)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x[jnp.array([0, 1, 3])], y[jnp.array([0, 1, 3])])


def test_rates_before_the_first_update_are_the_first_ones():
    """What the log says before a step is what the step will use."""
    settings = alphas_settings((1e-3, 2e-3))
    state = alphas_optimizer(settings, STEPS).init(jnp.zeros((2, 5, 7)))
    np.testing.assert_allclose(alphas_learning_rates(state), [1e-3, 2e-3])
    settings = default_config().train
    state = weights_optimizer(settings, STEPS).init({"w": jnp.zeros(3)})
    np.testing.assert_allclose(weights_learning_rate(state), 0.025)

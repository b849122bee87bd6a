"""Tests of the step with piled-up gradients, against two recorded steps of the authors' program."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.configuration import default_config
from ddarts_jax.models import supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.searching import search
from ddarts_jax.tasks.importing import load_torch

PATH = tiny.SHARED / "reference" / "search_step_layers5_C4.npz"


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(not PATH.exists(), reason="needs the authors' parity arrays")
def test_two_steps_of_the_authors_program(tmp_path):
    """Alphas, weights, the gradient's norm before it is clipped and what is left over for later.

    The authors' float32 is off by some 1e-3 of a gradient, and Adam's first steps magnify what is
    near 0: how far the weights have moved agrees to 2 per cent, what is left over to 5.
    """
    with np.load(PATH, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays["meta"]))

    def variables_with(prefix):
        # Statistics are those of the start: the authors' also move in passes that ours leaves alone.
        state = {k.replace("state0/", "state/"): v for k, v in arrays.items() if "state0/" in k}
        new = {k.replace(prefix, "state/"): v for k, v in arrays.items() if k.startswith(prefix)}
        np.savez(tmp_path / "x.npz", **state | new)
        return load_torch(tmp_path / "x.npz", None).variables

    net, _ = supernet.build(
        num_cells=meta["layers"],
        num_nodes=4,
        channels=meta["C"],
        num_classes=10,
        image_channels=3,
        key=None,
    )
    settings = default_config().search
    settings.method = "authors_program"
    settings.authors_program.ablation.removal = "random"
    settings.authors_program.zero_one_weight = float(meta["weight"])
    for section in (settings.alphas, settings.weights):
        section.final_learning_rate = section.learning_rate
    init, step = search.search_step(net, settings, total_steps=2)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, "float64"), variables_with("state0/"))
        state = init(Variables(*wide), jnp.asarray(arrays["alphas0"], "float64"))
        for t in (0, 1):
            batches = [
                (
                    jnp.asarray(arrays[f"x_{s}"][t].transpose(0, 2, 3, 1), "float64"),
                    arrays[f"y_{s}"][t],
                )
                for s in ("train", "val")
            ]
            state, measured = step(state, jax.random.key(t), *batches)
            np.testing.assert_allclose(measured["loss"], arrays[f"val_ce{t + 1}"], rtol=1e-5)
            norm = measured["gradient_norm_weights"]
            np.testing.assert_allclose(norm, arrays[f"grad_norm_before_clip{t + 1}"], rtol=1e-4)
            # Adam's first steps are about the rate times the gradient's sign: where the gradient is
            # near 0 the authors' float32 may go the other way.
            off = np.abs(state.alphas - arrays[f"alphas{t + 1}"])
            assert np.quantile(off, 0.9) < 1e-4 and off.max() < 2 * (t + 1) * 3e-3, t
            expected = variables_with(f"weights{t + 1}/").weights
            moved = difference(expected, wide.weights)
            assert difference(state.variables.weights, expected) < 0.02 * moved, t
            left = arrays[f"alpha_grads_left_after_step{t + 1}"]
            assert difference(state.leftover, left) < 0.05 * np.linalg.norm(left), t


def test_alphas_stand_still_while_they_are_fixed():
    """In the first steps of a search from a network nothing of the alphas moves or accumulates."""
    net, variables = supernet.build(
        num_cells=2,
        num_nodes=1,
        channels=2,
        num_classes=3,
        image_channels=1,
        primitives=("max_pool_3x3", "skip_connect"),
        stem_multiplier=1,
        key=jax.random.key(0),
    )
    settings = default_config().search
    settings.method = "authors_program"
    init, step = search.search_step(net, settings, total_steps=6, fixed_steps=2)
    alphas = 0.1 * jax.random.normal(jax.random.key(1), net.alphas_shape)
    state, fresh = init(variables, alphas), init(variables, alphas)
    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
    batch = images, jnp.array([0, 1, 2, 0])

    for _ in range(2):
        state, _ = step(state, jax.random.key(3), batch, batch)
        for name in ("alphas", "alphas_optimizer", "leftover"):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(fresh, name))
    assert difference(state.variables.weights, variables.weights) > 0, "the weights settle"

    state, _ = step(state, jax.random.key(3), batch, batch)
    assert np.abs(state.alphas - alphas).max() > 1e-4 and np.abs(state.leftover).max() > 0


def difference(tree, other):
    """The norm of the difference of all leaves."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return np.sqrt(sum(np.sum(np.square(np.asarray(a) - b)) for a, b in pairs))

"""The benchmark of a training step: its programs still fit what the package trains with."""

from types import SimpleNamespace

import jax
import pytest
import tiny
import training_step


@pytest.mark.parametrize("program", ["classifier", "detector"])
def test_the_steps_can_be_traced_and_count_their_arithmetic(program, tmp_path):
    """Traced, not compiled: a step that takes other arguments, or a state that changes, shows here."""
    path = tmp_path / "genotype.json"
    tiny.GENOTYPE.save(path)
    arguments = SimpleNamespace(batch=2, dtype="bfloat16", genotype=str(path), channels=4, size=64)
    step, state, given, macs = getattr(training_step, program)(arguments)
    after, metrics = jax.eval_shape(step, state, *given)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert metrics["loss"].shape == () and macs > 0

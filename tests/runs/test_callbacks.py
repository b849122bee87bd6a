"""A run's writer tells callbacks what is measured, and an error says whose it is."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ddarts_jax.runs.callbacks import Callback
from ddarts_jax.runs.metrics import MetricsWriter


class Broken(Callback):
    """Raises in both of what a writer tells."""

    def on_step(self, phase, step, metrics):
        raise LookupError(step)

    def on_epoch(self, phase, epoch, metrics):
        raise LookupError(epoch)


def test_an_error_names_the_callback_and_keeps_its_type(tmp_path):
    """The epoch's line is written before, and callbacks that come earlier have been told."""
    told = []

    class First(Callback):
        def on_step(self, phase, step, metrics):
            told.append(metrics)

    writer = MetricsWriter(tmp_path, callbacks=(First(), Broken()))
    with pytest.raises(LookupError) as caught:
        writer.steps("train", 6, {"loss": jnp.array([3.0, 6.0])}, 3)
    assert caught.value.__notes__ == ["Raised in train by the callback Broken.on_step."]
    np.testing.assert_array_equal(told[0]["loss"], [1, 2])
    with pytest.raises(LookupError) as caught:
        writer.write("train", 1, {"loss": 1.0})
    assert caught.value.__notes__ == ["Raised in train by the callback Broken.on_epoch."]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1

"""Tests of the training loop with a step that compiles in no time."""

import functools
import json
import logging
import os
import signal
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.data.dataset import Dataset
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.training import feeds, loop, schedule, signals
from ddarts_jax.training.checkpoint import Checkpoints

# Image i is filled with the number i, which is also its label; normalising leaves it as it is.
_IMAGES = np.arange(40, dtype=np.uint8)
_DATASET = Dataset(
    name="numbers",
    train_images=np.tile(_IMAGES[:, None, None, None], (1, 4, 4, 1)),
    train_labels=_IMAGES.astype(np.int32),
    test_images=np.zeros((1, 4, 4, 1), np.uint8),
    test_labels=np.zeros(1, np.int32),
    class_names=tuple(str(i) for i in _IMAGES),
    mean=np.zeros(1, np.float32),
    std=np.full(1, 1 / 255, np.float32),
)
_SPLITS = (np.arange(20, 40), np.arange(0, 20))
_PLAN = schedule.Schedule(
    epochs=3, chunks=2, chunk=2, batch_size=4
)  # leaves out one batch an epoch


class _State(NamedTuple):
    step: jax.Array
    weight: jax.Array  # depends on every batch and key, in their order
    seen: jax.Array  # [steps, splits, batch]: the images of each step


class _Run:
    """Everything that `loop.run` needs, for a step that may be spoilt."""

    def __init__(self, plan=_PLAN, splits=_SPLITS, seed=0, bad_step=None):
        self.traces = 0

        def step(state, key, *batches):
            self.traces += 1
            images = jnp.stack([images.mean((1, 2, 3)) for images, _ in batches])
            labels = jnp.stack([labels for _, labels in batches])
            noise = jax.random.normal(key)
            weight = 0.9 * state.weight + jnp.sum(images[0] * jnp.arange(plan.batch_size)) + noise
            seen = state.seen.at[state.step].set(jnp.round(images).astype(jnp.int32))
            spoilt = jnp.where(state.step + 1 == (bad_step or 0), jnp.nan, 0.0)
            measured = {
                "loss": weight,
                "loss_ablation": jnp.arange(3) + spoilt,
                "mislabelled": jnp.sum(jnp.round(images) != labels),
            }
            return _State(state.step + 1, weight, seen), measured

        self.plan = plan
        settings = ml_collections.ConfigDict({"crop_padding": 0, "flip": False, "cutout": 0})
        mesh = sharding.data_mesh(plan.batch_size, jax.devices()[:1])
        seen = jnp.zeros((plan.total, len(splits), plan.batch_size), jnp.int32)
        state = _State(jnp.int32(0), jnp.float32(0), seen)
        step = jax.jit(step)
        self.data = feeds.on_device(_DATASET, splits, mesh)
        self.running = feeds.start(state, step, len(splits), (4, 4, 1), plan, "float32", mesh)
        self.chunk = feeds.make_chunk(step, plan, settings, "float32", mesh)
        self.seed = np.uint32(seed)

    def __call__(
        self,
        workdir,
        kill_after=None,
        stop=lambda epoch: None,
        profile=None,
        kill_in_evaluation=None,
    ):
        """Runs in `workdir`.

        Gets SIGTERM when the checkpoint of step `kill_after` is saved, or while the epoch
        `kill_in_evaluation` is evaluated.
        """

        class Killing(Checkpoints):
            def save(self, step, *arguments, **named):
                super().save(step, *arguments, **named)
                if step == kill_after:
                    os.kill(os.getpid(), signal.SIGTERM)

        def end_epoch(epoch, state, means):
            if epoch == kill_in_evaluation:
                os.kill(os.getpid(), signal.SIGTERM)
            return means | {"accuracy": epoch / 10}

        writer = MetricsWriter(workdir)
        try:
            with Killing(workdir / "checkpoints", {}, keep_last=2) as checkpoints:
                return loop.run(
                    "search",
                    self.running,
                    functools.partial(feeds.resident, self.chunk, self.data, self.seed),
                    len(_SPLITS),
                    self.plan,
                    checkpoints,
                    writer,
                    0.0,
                    end_epoch,
                    stop,
                    profile=profile,
                )
        finally:
            writer.close()


def _metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second")}
        for record in records
    ]


def _assert_same(state, other):
    for leaf, other_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, other_leaf)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An unbroken run: its final state and its metrics."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return jax.device_get(_Run()(workdir)), _metrics(workdir)


@given(
    num_images=st.integers(1, 60_000),
    batch_size=st.integers(1, 512),
    epochs=st.integers(1, 600),
    chunk_steps=st.integers(1, 500),
)
def test_schedule_laws(num_images, batch_size, epochs, chunk_steps):
    """Chunks of one length never ask for more images than there are and leave out few steps."""
    available = num_images // batch_size
    if not available:
        with pytest.raises(UserError, match=f"batch_size={batch_size} .* {num_images}"):
            schedule.schedule(num_images, batch_size, epochs, chunk_steps)
        return
    plan = schedule.schedule(num_images, batch_size, epochs, chunk_steps)
    assert 1 <= plan.chunk <= chunk_steps
    assert plan.epoch * batch_size <= num_images
    assert 0 <= available - plan.epoch < plan.chunks
    assert plan.total == epochs * plan.chunks * plan.chunk
    assert (plan.epochs, plan.batch_size) == (epochs, batch_size)


def test_an_epoch_draws_every_split_without_repetition(unbroken):
    """The batches of an epoch are disjoint, lie in their split, and differ from epoch to epoch."""
    state, metrics = unbroken
    epochs = state.seen.reshape(_PLAN.epochs, _PLAN.epoch, len(_SPLITS), _PLAN.batch_size)
    for position, split in enumerate(_SPLITS):
        orders = [tuple(epoch[:, position].ravel()) for epoch in epochs]
        for order in orders:
            assert len(set(order)) == len(order) and set(order) <= set(split)
            assert list(order) != sorted(order)
        assert len(set(orders)) == _PLAN.epochs
        assert len({frozenset(order) for order in orders}) > 1, "the same images are left out"
    assert [record["mislabelled"] for record in metrics] == [0, 0, 0]


def test_an_epoch_that_fits_is_a_permutation(tmp_path):
    """Where batches and chunks divide the data, an epoch takes every image once."""
    plan = schedule.schedule(20, 5, epochs=2, chunk_steps=2)
    state = _Run(plan)(tmp_path)
    for epoch in np.asarray(state.seen).reshape(2, 4, 2, 5):
        for position, split in enumerate(_SPLITS):
            assert sorted(epoch[:, position].ravel()) == list(split)


def test_the_seed_chooses_the_order(tmp_path, unbroken):
    """The same seed draws the same batches and keys, another seed others."""
    _assert_same(jax.device_get(_Run(seed=0)(tmp_path / "same")), unbroken[0])
    other = _Run(seed=1)(tmp_path / "other")
    assert not np.array_equal(other.seen, unbroken[0].seen)
    assert other.weight != unbroken[0].weight


def test_means_are_those_of_the_epoch(unbroken):
    """A line of metrics holds the mean over the steps of its own epoch, arrays too."""
    state, metrics = unbroken
    assert [record["epoch"] for record in metrics] == [1, 2, 3]
    for record in metrics:
        np.testing.assert_allclose(record["loss_ablation"], [0, 1, 2])
    # The weights of all steps, from the batches that were seen, but for the noise of each step.
    weight, weights = 0.0, []
    for images in state.seen[:, 0].astype(np.float64):
        weight = 0.9 * weight + images @ np.arange(_PLAN.batch_size)
        weights.append(weight)
    means = np.reshape(weights, (_PLAN.epochs, _PLAN.epoch)).mean(1)
    np.testing.assert_allclose([record["loss"] for record in metrics], means, atol=10)


def test_the_step_is_traced_once(tmp_path):
    """Neither the second chunk nor the second epoch traces the step again."""
    run = _Run()
    run(tmp_path)
    assert run.traces == 1


@pytest.mark.parametrize("step", [2, 4, 6, 10, 12])
def test_sigterm_saves_and_the_same_command_continues_bit_equal(tmp_path, unbroken, step):
    """After SIGTERM within an epoch (2, 6, 10), at its end (4) or at the last (12): as if unbroken."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        signals.Stopped, match=f"SIGTERM in search, saved at step {step}:"
    ) as stopped:
        _Run()(tmp_path, kill_after=step)
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    _assert_same(jax.device_get(_Run()(tmp_path)), unbroken[0])
    assert _metrics(tmp_path) == unbroken[1]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_signal_in_an_evaluation_is_not_lost(tmp_path, unbroken, epoch):
    """The run stops after the evaluation, the last one too, and continues as if unbroken."""
    with pytest.raises(signals.Stopped, match=f"saved at step {epoch * _PLAN.epoch}:"):
        _Run()(tmp_path, kill_in_evaluation=epoch)
    _assert_same(jax.device_get(_Run()(tmp_path)), unbroken[0])
    assert _metrics(tmp_path) == unbroken[1]


def test_a_signal_at_an_early_stop_is_not_lost(tmp_path):
    """The phase has ended early, but the next one must not begin; the same command goes on there."""
    with pytest.raises(signals.Stopped, match=f"saved at step {_PLAN.epoch}:"):
        _Run()(tmp_path, kill_after=_PLAN.epoch, stop=lambda epoch: "enough")
    again = _Run()
    again.chunk = None  # nothing is compiled
    assert again(tmp_path, stop=lambda epoch: "enough").step == _PLAN.epoch


def test_a_finished_run_is_not_repeated(tmp_path, unbroken):
    """Started again after its end, a run returns its state without compiling anything."""
    _Run()(tmp_path)
    again = _Run()
    again.chunk = None
    _assert_same(jax.device_get(again(tmp_path)), unbroken[0])
    assert _metrics(tmp_path) == unbroken[1]


def test_a_run_that_stops_early_stays_stopped(tmp_path, unbroken, caplog):
    """It ends after the epoch that says so, with the reason; the same command does not go on."""

    def stop(epoch):
        return "enough" if epoch == 2 else None

    with caplog.at_level(logging.INFO, "ddarts_jax"):
        state = jax.device_get(_Run()(tmp_path, stop=stop))
    assert state.step == 2 * _PLAN.epoch and "search: enough" in caplog.text
    assert _metrics(tmp_path) == unbroken[1][:2]
    again = _Run()
    again.chunk = None  # nothing is compiled
    _assert_same(jax.device_get(again(tmp_path, stop=stop)), state)


def test_a_run_killed_before_it_stops_early_ends_alike(tmp_path):
    """The reason is asked for again after a restart at the end of the epoch."""
    with pytest.raises(signals.Stopped):
        _Run()(tmp_path, kill_after=_PLAN.epoch, stop=lambda epoch: None)
    again = _Run()
    again.chunk = None
    assert again(tmp_path, stop=lambda epoch: "enough").step == _PLAN.epoch


def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, unbroken, caplog):
    """A damaged newest checkpoint costs the steps since the one before it, nothing else."""
    _Run()(tmp_path)
    newest = tmp_path / "checkpoints" / str(_PLAN.total)
    for path in newest.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.INFO, "ddarts_jax"):
        _assert_same(jax.device_get(_Run()(tmp_path)), unbroken[0])
    assert any(str(newest) in r.message and r.levelname == "WARNING" for r in caplog.records)
    assert f"continues after step {_PLAN.total - 2} of {_PLAN.total}" in caplog.text
    assert _metrics(tmp_path) == unbroken[1]


def test_nan_names_step_and_part_and_keeps_the_last_checkpoint(tmp_path):
    """A NaN in one cell's loss of step 8 stops the run; what was saved before it is whole."""
    with pytest.raises(UserError) as error:
        _Run(bad_step=8)(tmp_path)
    message = str(error.value)
    assert "search diverged at step 8 (epoch 2): loss_ablation is NaN or infinite" in message
    assert "the checkpoint of step 6 is kept" in message
    run = _Run()
    with Checkpoints(tmp_path / "checkpoints", {}, keep_last=2) as checkpoints:
        step, running = checkpoints.restore(run.running)
    assert step == running.state.step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(running))


def test_nan_before_the_first_checkpoint(tmp_path):
    """A run that diverges at once says that nothing is saved."""
    with pytest.raises(UserError, match=r"at step 1 .*there was no checkpoint yet"):
        _Run(bad_step=1)(tmp_path)


def test_a_profile_changes_nothing(tmp_path, unbroken, capsys):
    """The second chunk is traced, its scopes are printed, and the run ends as one without."""
    state = _Run()(tmp_path, profile=tmp_path / "profile")
    _assert_same(jax.device_get(state), unbroken[0])
    assert _metrics(tmp_path) == unbroken[1]
    printed = capsys.readouterr().out
    assert f"search: 2 warm steps, traced in {tmp_path / 'profile'}" in printed
    assert "ms/step" in printed
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_profile_of_one_chunk_is_that_of_the_first(tmp_path, capsys):
    """Where no second chunk follows, the only one is traced, and the printed line says so."""
    plan = schedule.Schedule(epochs=1, chunks=1, chunk=2, batch_size=4)
    _Run(plan)(tmp_path, profile=tmp_path / "profile")
    printed = capsys.readouterr().out
    assert f"search: 2 first steps, traced in {tmp_path / 'profile'}" in printed
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_an_interrupted_epoch_counts_all_of_its_seconds(tmp_path, monkeypatch):
    """The line of an epoch has the time of its steps in every start, the speed that of this start."""
    now, resident = 0.0, feeds.resident
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: now))

    def slow(*arguments):
        program = resident(*arguments)

        def advance(*arguments):
            nonlocal now
            now += 10
            return program.advance(*arguments)

        return feeds.Program(advance, program.compiled)

    monkeypatch.setattr(feeds, "resident", slow)
    with pytest.raises(signals.Stopped):
        _Run()(tmp_path, kill_after=6)
    now += 1000  # between the starts
    _Run()(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["seconds"] for line in lines] == [20, 20, 20]
    speeds = {json.loads(line)["images_per_second"] for line in lines}
    assert speeds == {2 * 2 * _PLAN.batch_size / 10}


def test_memory_is_told_before_the_run(tmp_path, caplog, monkeypatch):
    """What the program needs and what there is; where it does not fit, what to change."""
    with caplog.at_level(logging.INFO, "ddarts_jax"):
        _Run()(tmp_path / "enough")
    assert "search: needs 0.00 GB of memory on each device, which has" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    monkeypatch.setattr(loop.memory, "available", lambda: 1)
    _Run()(tmp_path / "short")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "search.ddarts.microbatch" in warning and "data.batch_size" in warning

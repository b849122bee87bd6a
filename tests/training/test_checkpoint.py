"""Checkpoints: what is saved comes back bit for bit, and corruption is noticed and survived."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from ddarts_jax.errors import UserError
from ddarts_jax.training.checkpoint import Checkpoints

State = namedtuple("State", ["step", "weights", "rest"])
CONFIG = {"seed": 0, "search": {"epochs": 2, "rates": (0.1, 0.2)}}


def make_state(step, size=1000):
    """A pytree of every dtype and container that a training state has, a function of `step`."""
    rng = np.random.default_rng(step)
    weights = {
        "kernel": jnp.asarray(rng.normal(size=(4, size)), jnp.float32),
        "half/precision.1": jnp.asarray(rng.normal(size=(7,)), jnp.bfloat16),
        "list": [jnp.asarray(rng.normal(size=(2, 3)), jnp.float32), (), None],
    }
    rest = (jax.random.key_data(jax.random.key(step)), jnp.zeros((0, 3)), jnp.array([True, False]))
    return State(jnp.asarray(step, jnp.int32), weights, rest)


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert isinstance(x, jax.Array) and x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def write(directory, accuracies, keep_last=2):
    with Checkpoints(directory, CONFIG, keep_last) as checkpoints:
        for step, accuracy in accuracies.items():
            checkpoints.save(step, make_state(step), accuracy)


def restore(directory, state=None):
    with Checkpoints(directory, CONFIG, 2) as checkpoints:
        return checkpoints.restore(abstract(state or make_state(0)))


def steps_in(directory):
    return sorted(int(p.name) for p in Path(directory).iterdir() if p.name.isdecimal())


def test_restores_every_dtype_and_container_bit_for_bit(tmp_path):
    """What is restored is what was saved: values, dtypes, shapes, structure."""
    write(tmp_path, {7: None})
    step, state = restore(tmp_path)
    assert step == 7
    assert_equal(state, make_state(7))


@pytest.mark.parametrize(
    "name", ["a[1]", "sweep[lr=0.1]*?", "[", "{a,b}", "sp ace", "ü", "~", "%s"]
)
def test_a_path_of_any_characters(tmp_path, name):
    """Orbax looks for files by patterns, in which some characters of a folder have a meaning."""
    directory = tmp_path / name / "checkpoints"
    write(directory, {7: None, 8: None})
    step, state = restore(directory)
    assert step == 8 and steps_in(directory) == [7, 8]
    assert_equal(state, make_state(8))


def test_empty_directory_restores_nothing(tmp_path):
    """A fresh run starts from nothing, without an error."""
    assert restore(tmp_path) is None
    with Checkpoints(tmp_path, CONFIG, 2) as checkpoints:
        assert checkpoints.latest_step() is None


def test_keeps_the_newest(tmp_path):
    """Old checkpoints are deleted, whatever their accuracy, also those of an earlier process."""
    write(tmp_path, {1: 0.9, 2: None, 3: 0.7})
    assert steps_in(tmp_path) == [2, 3]
    write(tmp_path, {4: 0.5}, keep_last=3)
    assert steps_in(tmp_path) == [2, 3, 4]
    write(tmp_path, {5: None}, keep_last=1)
    assert steps_in(tmp_path) == [5]


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_end_the_run(tmp_path, monkeypatch):
    """As on NFS while a process has a file of it open; it is tried again after the next save."""
    remove = os.rmdir

    def busy(path, **named):
        if Path(path).name == "1":
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        remove(path, **named)

    write(tmp_path, {1: None}, keep_last=1)
    monkeypatch.setattr(os, "rmdir", busy)
    write(tmp_path, {2: None}, keep_last=1)
    assert steps_in(tmp_path) == [1, 2] and restore(tmp_path)[0] == 2
    monkeypatch.undo()
    write(tmp_path, {3: None}, keep_last=1)
    assert steps_in(tmp_path) == [3]


def test_a_step_saved_twice_is_written_once(tmp_path):
    """Saving the end of an epoch again, as SIGTERM does, neither fails nor changes what is there."""
    with Checkpoints(tmp_path, CONFIG, 2) as checkpoints:
        checkpoints.save(3, make_state(3), 0.5)
        checkpoints.wait()
        before = {path: path.read_bytes() for path in _files(tmp_path)}
        checkpoints.save(3, make_state(3), seconds=1.0)
        checkpoints.wait()
        assert {path: path.read_bytes() for path in _files(tmp_path)} == before
        assert checkpoints.seconds(3) == 0


def test_the_state_may_be_donated_at_once(tmp_path):
    """Training overwrites the buffers while the checkpoint is still being written."""
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {"a": jnp.zeros(2**20, jnp.int32), "b": jnp.ones((3, 3))}
    with Checkpoints(tmp_path, CONFIG, 10) as checkpoints:
        for step in range(3):
            checkpoints.save(step, state)
            for _ in range(5):
                donated, state = state["a"], advance(state)
                assert donated.is_deleted()
        target = abstract(state)
    for step in (2, 1, 0):
        with Checkpoints(tmp_path, CONFIG, 10) as checkpoints:
            restored = checkpoints.restore(target)
        assert restored[0] == step
        assert_equal(
            restored[1], {"a": jnp.full(2**20, 5 * step), "b": jnp.full((3, 3), 5.0 * step + 1)}
        )
        (tmp_path / str(step)).rename(tmp_path / f"seen{step}")


def _files(directory):
    return sorted((p for p in directory.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)


def _truncate(directory):
    path = _files(directory)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_bit_in_data(directory):
    path = _files(directory)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _change_accuracy(directory):
    path = directory / "record" / "metadata"
    path.write_text(path.read_text().replace("0.25", "0.95"))


def _empty(directory):
    for path in _files(directory):
        path.write_bytes(b"")


def _delete_all_files(directory):
    for path in _files(directory):
        path.unlink()


def _delete_arrays(directory):
    (directory / "state" / "manifest.ocdbt").unlink()


def _delete_record(directory):
    (directory / "record" / "metadata").unlink()


@pytest.mark.parametrize(
    "corrupt",
    [
        _truncate,
        _flip_bit_in_data,
        _change_accuracy,
        _empty,
        _delete_all_files,
        _delete_arrays,
        _delete_record,
    ],
)
def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog, corrupt):
    """However the newest is corrupted, training continues from the one before it, and says so."""
    write(tmp_path, {1: 0.5, 2: 0.25})
    corrupt(tmp_path / "2")
    step, state = restore(tmp_path)
    assert step == 1
    assert_equal(state, make_state(1))
    assert str(tmp_path / "2") in caplog.text
    # The run goes on to the same step and over it.
    write(tmp_path, {2: 0.5, 3: 0.5})
    step, state = restore(tmp_path)
    assert step == 3
    assert_equal(state, make_state(3))


def test_any_flipped_bit_is_noticed_or_harmless(tmp_path, caplog):
    """Fuzz: a bit flipped anywhere in the newest checkpoint never changes what is restored."""
    write(tmp_path, {1: None, 2: None})
    rng = np.random.default_rng(0)
    noticed = 0
    for path in _files(tmp_path / "2"):
        good = path.read_bytes()
        for position in rng.integers(len(good), size=3):
            bad = bytearray(good)
            bad[position] ^= 1 << rng.integers(8)
            path.write_bytes(bad)
            step, state = restore(tmp_path)
            assert_equal(state, make_state(step))
            noticed += step == 1
            if step == 1:
                (tmp_path / "2.corrupt").rename(tmp_path / "2")
        path.write_bytes(good)
    assert noticed > 5


def test_all_corrupt_is_an_error_that_names_the_directory(tmp_path):
    """A run never starts silently from nothing where there were checkpoints."""
    write(tmp_path, {1: None, 2: None})
    _truncate(tmp_path / "1")
    _truncate(tmp_path / "2")
    for _ in range(2):  # nor at the second attempt
        with pytest.raises(UserError, match=str(tmp_path)):
            restore(tmp_path)


def test_a_half_written_checkpoint_is_named_and_removed(tmp_path, caplog):
    """What a killed process left is not taken for a checkpoint, and does not pile up."""
    write(tmp_path, {1: None})
    (tmp_path / "1").rename(tmp_path / "2.orbax-checkpoint-tmp")
    write(tmp_path / "other", {1: None})
    (tmp_path / "other" / "1").rename(tmp_path / "1")
    assert restore(tmp_path)[0] == 1
    assert "2.orbax-checkpoint-tmp" in caplog.text
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists(), "another process may be writing it"
    write(tmp_path, {2: None})
    assert restore(tmp_path)[0] == 2
    assert not list(tmp_path.glob("*tmp*"))


def test_a_state_of_other_shape_dtype_or_structure_does_not_fit(tmp_path):
    """A checkpoint is never squeezed into a network that it was not made for."""
    write(tmp_path, {1: None})
    state = make_state(0)
    others = {
        "kernel": make_state(0, size=999),
        "step": state._replace(step=jnp.asarray(0.0)),
        "extra": state._replace(weights={**state.weights, "extra": jnp.zeros(2)}),
        "half": state._replace(
            weights={"kernel": state.weights["kernel"], "list": state.weights["list"]}
        ),
    }
    for name, other in others.items():
        with pytest.raises(UserError, match=f"does not fit.*{name}"):
            restore(tmp_path, other)
    assert restore(tmp_path)[0] == 1, "the checkpoint was not taken for corrupt"


def test_another_configuration_is_refused(tmp_path):
    """A workdir continues only the run that it belongs to; the message names the keys."""
    write(tmp_path, {1: None})
    other = {"seed": 1, "search": {"epochs": 2, "rates": (0.1, 0.3)}, "new": 1}
    with pytest.raises(UserError) as error:
        Checkpoints(tmp_path, other, 2)
    for part in ("seed: 0, 1", "search.rates", "new", "--workdir"):
        assert part in str(error.value)
    assert "epochs" not in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is corrupt"):
        Checkpoints(tmp_path, CONFIG, 2)


def test_an_unusable_directory_is_named(tmp_path):
    """A file where the directory should be is the user's to fix."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Checkpoints(tmp_path / "file" / "checkpoints", CONFIG, 2)


def test_a_full_disk_is_named_and_leaves_the_earlier_checkpoints(tmp_path):
    """Writing fails (here over a limit on file size) with a clear message; the earlier stay."""
    random = {"a": jnp.asarray(np.random.default_rng(0).integers(0, 2**31, 2**18), jnp.int32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, CONFIG, 2)
    checkpoints.save(1, random)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(UserError, match=r"/2 could not be written.*\[1\] are intact"):
            checkpoints.save(2, random)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*tmp*"))
    checkpoints.save(3, random)  # once there is room again
    checkpoints.close()
    assert steps_in(tmp_path) == [1, 3]


def test_a_disk_without_room_is_told_before_a_save(tmp_path, monkeypatch):
    """Nothing of the checkpoint is begun; the next save finds room."""
    state = {"a": jnp.zeros(2**18)}
    with Checkpoints(tmp_path, CONFIG, 2) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        full = shutil.disk_usage(tmp_path)._replace(free=2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
        with pytest.raises(UserError, match=r"/2 .*needs 2\.1 MB, .* has 1\.0 MB left.*\[1\] are"):
            checkpoints.save(2, state)
        assert sorted(os.listdir(tmp_path)) == ["1", "config.json"]
        monkeypatch.undo()
        checkpoints.save(3, state)
    assert steps_in(tmp_path) == [1, 3]


def _run(code, *arguments, devices=1):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            map(str, (Path(__file__).parent, tiny.ROOT / "tests", tiny.ROOT))
        ),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_the_number_of_devices_may_change(tmp_path):
    """Saved from arrays split over 4 devices, restored on 4, on 8 and on one."""
    code = """
import sys, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ddarts_jax.training.checkpoint import Checkpoints
mesh = jax.make_mesh((jax.device_count(),), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (["data"], []))
state = jax.device_put({"a": jnp.arange(8.0), "b": jnp.ones(3)}, {"a": split, "b": whole})
with Checkpoints(sys.argv[1], {}, 2) as checkpoints:
    if jax.device_count() == 4:
        checkpoints.save(1, state)
    step, restored = checkpoints.restore(state)
    assert restored["a"].sharding == split and restored["b"].sharding == whole
    assert (restored["a"] == state["a"]).all() and (restored["b"] == 1).all()
"""
    assert _run(code, tmp_path, devices=4).wait() == 0
    assert _run(code, tmp_path, devices=8).wait() == 0
    state = {"a": jnp.arange(8.0), "b": jnp.ones(3)}
    with Checkpoints(tmp_path, {}, 2) as checkpoints:
        _, restored = checkpoints.restore(abstract(state))
        assert_equal(restored, state)
        sharding = NamedSharding(jax.make_mesh((1,), ("data",)), PartitionSpec())
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
        )
        _, restored = checkpoints.restore(target)
        assert restored["a"].sharding == sharding


def test_kill_minus_9_loses_at_most_the_checkpoint_under_way(tmp_path):
    """A process killed while it saves without pause leaves an intact, recent checkpoint."""
    code = """
import sys
import test_checkpoint as test
from ddarts_jax.training.checkpoint import Checkpoints
first = int(sys.argv[2])
with Checkpoints(sys.argv[1], test.CONFIG, 2) as checkpoints:
    for step in range(first, first + 1000):
        checkpoints.save(step, test.make_state(step), 0.5)
        print(step, flush=True)
"""
    for first, last in ((1, 5), (101, 108)):
        process = _run(code, tmp_path, first)
        for line in process.stdout:
            if int(line) >= last:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        step, state = restore(tmp_path)
        assert step >= last - 1
        assert_equal(state, make_state(step))

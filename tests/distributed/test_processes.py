"""Several processes: they compute what one does, share the reading, and none survives another."""

import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from jax.experimental import multihost_utils
from PIL import Image

from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype

_FLAGS = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=1"]

# The command line, but for a note of every image that is read.
_MAIN = """
import os, sys
from ddarts_jax import main
from ddarts_jax.data.sources import folder

read = folder.Folder.read

def noting(self, index):
    if log := os.environ.get("READ_LOG"):
        with open(log, "a") as file:
            file.write(os.fsdecode(self.files[index]) + "\\n")
    return read(self, index)

folder.Folder.read = noting
sys.exit(main.main(["main", *sys.argv[1:]]))
"""

# Steps without end in which each process needs the other.
_TOGETHER = """
import sys, time
from ddarts_jax.distributed import processes

processes._SILENCE_SECONDS = 10
processes.start(processes.parse_flags(sys.argv[1:])[0])
try:
    with processes.scratch() as scratch:
        print("scratch", scratch, flush=True)
        while True:
            processes.highest(1)
            print("step", flush=True)
            time.sleep(0.1)
except Exception:
    processes.wait_for_verdict()
"""

# The same without a step that fails when the other process is gone.
_APART = _TOGETHER.replace("processes.highest(1)", "pass")


def _group():
    """Flags of two processes at a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [[f"--coordinator={address}", "--num_processes=2", f"--process_id={i}"] for i in (0, 1)]


def _start(place, arguments, devices, **variables):
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    return tiny.start(arguments, place / "cache", XLA_FLAGS=flags, **variables)


def _finish(running, status=0):
    outputs = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [status] * len(running), outputs
    return outputs


def _assert_close(path, other, tolerance):
    arrays, others = np.load(path), np.load(other)
    if isinstance(arrays, np.ndarray):
        arrays, others = {"": arrays}, {"": others}
    for name in arrays:
        np.testing.assert_allclose(arrays[name], others[name], rtol=0, atol=tolerance)


def _records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def test_a_search_in_two_processes_that_is_finished_by_one(tmp_path):
    """2 x 2 devices find what 1 x 4 find, stop together at one SIGTERM, and one goes on alone."""
    tiny.write_noise(tmp_path / "noise.npz")
    tiny.write_config(tmp_path)
    arguments = ["-m", "ddarts_jax.main", "--config", str(tmp_path / "tiny_config.py")]
    arguments += [f"--config.data.name=npz:{tmp_path / 'noise.npz'}"]
    arguments += ["--config.task=search", "--config.dtype=float64", "--config.search.epochs=2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _finish([_start(tmp_path, [*arguments, f"--workdir={whole}"], 4)])

    pair = [_start(tmp_path, [*arguments, f"--workdir={broken}", *flags], 2) for flags in _group()]
    first = broken / "checkpoints" / "search"
    while not any(path.name.isdecimal() for path in first.glob("*")):
        assert all(process.poll() is None for process in pair), [p.communicate() for p in pair]
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGTERM)  # the other one is not told
    outputs = _finish(pair, 128 + signal.SIGTERM)
    (step,) = {re.search(r"saved at step (\d+)", output)[1] for output in outputs}
    assert 0 < int(step) < 8
    assert "search: compiled in" in outputs[0] and "search:" not in outputs[1]

    (output,) = _finish([_start(tmp_path, [*arguments, f"--workdir={broken}"], 4)])
    assert f"search: continues after step {step} of 8" in output
    _assert_close(whole / "alphas.npy", broken / "alphas.npy", 1e-6)
    assert (whole / "genotype.json").read_bytes() == (broken / "genotype.json").read_bytes()
    records, expected = _records(broken), _records(whole)
    assert [record["epoch"] for record in records] == [1, 2], "written once each"
    for record, other in zip(records, expected):
        for name in ("loss", "accuracy", "marginal_contribution"):
            np.testing.assert_allclose(record[name], other[name], rtol=1e-9)


def test_a_streamed_training_in_two_processes(tmp_path):
    """The network is that of one process; each reads its own half of every batch, and no more."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 3)):
        for name, level in (("dark", 40), ("bright", 200)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(level, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    cells = [[("skip_connect", 2, 0), ("skip_connect", 2, 1)]]
    Genotype(cells, (), (2,)).save(tmp_path / "genotype.json")
    tiny.write_config(tmp_path)
    arguments = ["-c", _MAIN, "--config", str(tmp_path / "tiny_config.py"), "--config.task=train"]
    arguments += [f"--config.data.name=folder:{tmp_path / 'images'}", "--config.data.stream=True"]
    arguments += ["--config.data.num_workers=0", "--config.data.image_size=8"]
    arguments += [f"--config.genotype={tmp_path / 'genotype.json'}", "--config.train.epochs=2"]
    arguments += ["--config.dtype=float64"]
    _finish([_start(tmp_path, [*arguments, f"--workdir={tmp_path / 'one'}"], 4)])
    pair = [
        _start(
            tmp_path,
            [*arguments, f"--workdir={tmp_path / 'two'}", *flags],
            2,
            READ_LOG=str(tmp_path / f"read{index}"),
        )
        for index, flags in enumerate(_group())
    ]
    outputs = _finish(pair)
    assert "test accuracy" in outputs[0] and "test accuracy" not in outputs[1]
    _assert_close(tmp_path / "one" / "network.npz", tmp_path / "two" / "network.npz", 1e-6)
    records = _records(tmp_path / "two")
    assert [record["loss"] for record in records] == pytest.approx(
        [record["loss"] for record in _records(tmp_path / "one")], rel=1e-9
    )

    for index in (0, 1):
        read = (tmp_path / f"read{index}").read_text().split()
        train = [path for path in read if path.startswith("train")]
        # The heads of all 32 for their kind, all 32 for mean and spread; then half of 2 epochs of 32, and
        # of the 2 batches ahead.
        assert 64 + 32 <= len(train) <= 64 + 32 + 4 * 4, train
        # Of 6 test images in one batch of 8, twice while training and once at the end.
        assert len(read) - len(train) == 3 * (4 if index == 0 else 2)


@pytest.mark.parametrize("victim, script", [(0, _TOGETHER), (1, _TOGETHER), (1, _APART)])
def test_a_process_that_is_killed_ends_the_other(tmp_path, victim, script):
    """Within a minute, with a status that is not 0 and a message that says how to continue.

    JAX's own message before it names the dead process. The survivor leaves nothing behind either.
    """
    pair = [_start(tmp_path, ["-c", script, *flags], 1) for flags in _group()]
    folders = []
    for process in pair:
        for line in process.stdout:
            if line.startswith("scratch "):
                folders.append(Path(line.split()[1]))
            if line == "step\n":
                break
    assert all(folder.is_dir() for folder in folders)
    pair[victim].kill()
    output, _ = pair[1 - victim].communicate(timeout=60)
    pair[victim].communicate()
    assert pair[1 - victim].returncode == 3, output
    assert f"error: process {1 - victim} of 2 was aborted." in output
    # Another thread may still write a line.
    assert "--workdir continue from the last checkpoint.\n" in output
    named = "leader task was preempted/died" if victim == 0 else "stopped sending heartbeats):\n1\n"
    assert named in output
    assert not folders[1 - victim].exists()
    shutil.rmtree(folders[victim])  # nobody can ask a killed process for that


def test_a_process_that_fails_ends_the_other(tmp_path):
    """The process that saw what the user can mend tells it, and the other one ends."""
    tiny.write_config(tmp_path)
    arguments = ["-m", "ddarts_jax.main", "--config", str(tmp_path / "tiny_config.py")]
    arguments += ["--workdir", str(tmp_path / "run")]
    first, second = _group()
    missing = [*second, "--config.data.name=npz:/nowhere/data.npz"]
    pair = [_start(tmp_path, [*arguments, *flags], 1) for flags in (first, missing)]
    outputs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [3, 2], outputs
    assert "error: process 0 of 2 was aborted." in outputs[0]
    assert "stopped sending heartbeats):\n1\n" in outputs[0]
    assert outputs[1].count("error:") == 1 and "/nowhere" in outputs[1]
    assert "Traceback" not in outputs[1]


def test_flags_are_taken_out_of_the_command_line():
    """All three together say which process this is; without them nothing changes."""
    flags, others = processes.parse_flags(["main", *_FLAGS, "--config", "c.py"])
    assert flags == processes.Flags("localhost:1234", 2, 1)
    assert others == ["main", "--config", "c.py"]
    assert processes.parse_flags(["main", "--config", "c.py"]) == (
        None,
        ["main", "--config", "c.py"],
    )


@pytest.mark.parametrize(
    "flags, named",
    [
        (_FLAGS[:1], ["--num_processes and --process_id missing"]),
        (_FLAGS[1:], ["--coordinator missing"]),
        (["--coordinator=host", *_FLAGS[1:]], ["--coordinator=host", "HOST:PORT"]),
        ([*_FLAGS[:2], "--process_id=2"], ["--process_id=2"]),
        ([*_FLAGS[:2], "--process_id=x"], ["--process_id=x"]),
    ],
)
def test_impossible_flags_are_named(flags, named):
    """A flag that is missing or wrong is named."""
    with pytest.raises(UserError) as error:
        processes.parse_flags(["main", *flags])
    assert all(part in str(error.value) for part in named), error.value


def test_a_launcher_is_asked_only_where_it_started_several(monkeypatch):
    """SLURM and Open MPI variables of several processes join them; of one, or none, nothing does."""
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: joined.append(a))
    monkeypatch.setattr(processes, "_catch_aborts", lambda: None)
    monkeypatch.setattr(processes, "_group", processes._Group())
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_"))]:
        monkeypatch.delenv(name)
    processes.start(None)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # in a batch script, outside srun
    processes.start(None)
    assert not joined
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    processes.start(None)
    assert joined == [()]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"--process_id=\$OMPI_COMM_WORLD_RANK"):
        processes.start(None)
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    processes.start(None)
    assert joined == [(), ()]


@pytest.mark.parametrize("length", [0, 1, 300])
def test_what_the_first_process_read_is_sent_in_pieces(monkeypatch, length):
    """No number or array is longer than a piece, so that more than an int32 can count comes through."""
    sent = []

    def send(array):
        assert array.dtype in (np.uint8, np.int32) and array.size <= 64
        sent.append(array)
        return array

    monkeypatch.setattr(processes, "_PIECE", 64)
    monkeypatch.setattr(processes._group, "count", 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", send)
    state = bytes(range(256)) * 2
    assert processes.from_main(lambda: state[:length]) == state[:length]

    def receive(array):
        assert array.shape == sent[0].shape, "the others wait for as much as is sent"
        return sent.pop(0)

    monkeypatch.setattr(processes._group, "index", 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", receive)
    assert processes.from_main(lambda: pytest.fail("only the first reads")) == state[:length]
    assert not sent


def test_one_process_needs_no_other():
    """Alone, what is agreed on is one's own."""
    assert processes.is_main() and (processes.index(), processes.count()) == (0, 1)
    assert processes.highest(3) == 3
    assert processes.from_main(lambda: "read") == "read"
    processes.leave(2, failed=True)

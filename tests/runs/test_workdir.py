"""The workdir's lock, and the time of a run over its starts."""

import json
import os
import signal
import subprocess
import sys
import types

import pytest
import tiny

from ddarts_jax import main
from ddarts_jax.configuration import default_config
from ddarts_jax.errors import UserError
from ddarts_jax.runs import workdir

_HOLD = """
import sys, time
from pathlib import Path
from ddarts_jax.runs.workdir import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_command_in_a_workdir_is_refused(tmp_path, holder, capsys):
    """It ends with status 2 and a sentence that names the first, before it touches anything."""
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path}"]
    assert main.main(["main", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in (f"error: {tmp_path} is in use by process {holder.pid} on ", "--workdir"):
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_lock_of_a_killed_process_is_stale(tmp_path, holder):
    """Kill -9 leaves the file; the next command takes the lock over, and the one after it too."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / ".lock").read_text()
    for _ in range(2):
        with workdir.locked(tmp_path):
            assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """By the next one that has the lock; a folder of the name and everything else stays."""
    for name in (
        "config.json.tmp",
        "genotypes/.epoch_0001.json.77.tmp",
        "alphas/epoch_0001.npy.tmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mine.tmp").mkdir()
    (tmp_path / "config.json").touch()
    with workdir.locked(tmp_path):
        found = {path.name for path in tmp_path.rglob("*")}
    assert found == {".lock", "genotypes", "alphas", "mine.tmp", "config.json"}


def test_the_lock_ends_with_an_error(tmp_path):
    """A run that fails leaves its workdir free, and its name in no file there."""
    with pytest.raises(UserError, match="mended"), workdir.locked(tmp_path):
        raise UserError("to be mended")
    assert (tmp_path / ".lock").read_text() == ""
    with workdir.locked(tmp_path):
        pass


def test_an_export_does_not_lock(tmp_path, holder):
    """It writes elsewhere, so its workdir does not matter."""
    config = default_config().unlock()
    config.update({"task": "export", "run": "", "output": ""})
    with pytest.raises(UserError, match="Name the workdir of the training"):
        main.run(config, tmp_path)


def test_seconds_are_those_of_all_starts(tmp_path, monkeypatch):
    """Each start adds its own, also the part of one that was killed up to its last epoch."""
    now = 100.0
    monkeypatch.setattr(workdir, "time", types.SimpleNamespace(monotonic=lambda: now))
    for expected in (10.0, 20.0):
        clock = workdir.Clock(tmp_path)
        now += 10
        clock.keep()
        now += 5  # killed before it was kept again
        assert json.loads((tmp_path / "seconds.json").read_text()) == {"seconds": expected}
    clock = workdir.Clock(tmp_path)
    now += 7
    assert (clock.before, clock.total()) == (20.0, 27.0)
    evaluation = workdir.Clock(tmp_path, counts=False)
    now += 7
    evaluation.keep()
    assert evaluation.total() == workdir.Clock(tmp_path).before == 20.0


def test_what_was_compiled_for_another_run_does_not_count(tmp_path):
    """Two runs of one process, as of a script that calls `dd.search` twice."""
    clock = workdir.Clock(tmp_path, compiled=40.0)
    clock.keep(40.0)
    assert clock.compiling == 0
    clock.keep(42.5)
    assert json.loads((tmp_path / "seconds.json").read_text())["compiling"] == 2.5
    again = workdir.Clock(tmp_path, compiled=42.5)
    again.keep(43.5)
    assert again.compiling == 3.5


def test_seconds_of_an_older_run_come_from_its_summary(tmp_path):
    """There is no seconds.json yet; a broken one counts as none."""
    assert workdir.Clock(tmp_path).before == 0
    (tmp_path / "summary.json").write_text('{"seconds": 61.5}')
    assert workdir.Clock(tmp_path).before == 61.5
    (tmp_path / "seconds.json").write_text("{")
    assert workdir.Clock(tmp_path).before == 61.5


def test_results_inside_the_images_are_refused(tmp_path, monkeypatch):
    """Their folder would be taken for a class; nothing is created before the refusal."""
    monkeypatch.chdir(tmp_path)
    for folder, data in (
        (tmp_path / "x", f"folder:{tmp_path}"),
        ("runs/y", "folder:."),
        (".", "folder:."),
    ):
        with pytest.raises(UserError, match="lies inside the images"):
            workdir.check_apart(folder, data)
    with monkeypatch.context() as home:
        home.setenv("HOME", str(tmp_path))
        with pytest.raises(UserError, match="lies inside the images"):
            workdir.check_apart("~/images/x", "folder:~/images")
    for folder, data in (
        ("../x", "folder:."),
        ("x", "folder:./images"),
        ("x", "npz:x"),
        ("x", "folder:"),
    ):
        workdir.check_apart(folder, data)
    arguments = [
        "main",
        "--config",
        str(tiny.ROOT / "configs" / "digits.py"),
        "--config.data.name=folder:.",
    ]
    assert main.main(arguments) == 2
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_created(tmp_path, monkeypatch):
    """The sentence names it; ~ is the home folder."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"):
        workdir.create(tmp_path / "file" / "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.create("~/a[1]") == tmp_path / "a[1]" and (tmp_path / "a[1]").is_dir()


def test_other_tasks_do_not_write_into_a_run(tmp_path, capsys):
    """A comparison's report would replace the run's."""
    (tmp_path / "metrics.jsonl").touch()
    arguments = [
        "main",
        "--config=configs/compare.py",
        f"--workdir={tmp_path}",
        "--config.runs=a,b",
    ]
    assert main.main(arguments) == 2
    assert "holds a run, whose files task 'compare' would replace" in capsys.readouterr().err

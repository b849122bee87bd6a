"""The measurements for a GPU: steps are resumable, bounded in time, and never lose a result."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import on_gpu
import pytest

_BENCHMARKS = Path(on_gpu.__file__).parent

_MACHINE = {"devices": 1}
_PRINT = "import json; print('first'); print(json.dumps({'answer': 42}))"


def take(tmp_path, step, seconds=60):
    arguments = SimpleNamespace(output=tmp_path, data=Path("nowhere"), seconds=seconds)
    return on_gpu.take(1, step, arguments, _MACHINE)


def test_a_result_is_kept_and_not_measured_again(tmp_path):
    """The last line that a command prints is its result; a second call runs nothing."""
    step = on_gpu.Step("one", "", ("-c", _PRINT))
    assert take(tmp_path, step) == "done"
    record = json.loads((tmp_path / "1_one.json").read_text())
    assert record["answer"] == 42 and record["machine"] == _MACHINE
    assert take(tmp_path, on_gpu.Step("one", "", ("-c", "raise SystemExit(3)"))) == "has a result"


def test_a_step_that_fails_leaves_no_result(tmp_path):
    """Its output is in the log, and the next call takes it again."""
    step = on_gpu.Step("one", "", ("-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"))
    assert "status 3" in take(tmp_path, step)
    assert "why" in (tmp_path / "1_one.log").read_text()
    assert not (tmp_path / "1_one.json").exists()


def test_a_run_that_is_out_of_time_is_told_to_save(tmp_path):
    """SIGTERM, on which a run saves its state, is what it gets; then it may continue."""
    wait = (
        "import pathlib, signal, sys, time; "
        f"signal.signal(15, lambda *_: (pathlib.Path({str(tmp_path)!r}, 'saved').touch(), "
        "sys.exit(143))); time.sleep(60)"
    )
    step = on_gpu.Step("one", "", ("-c", wait), workdir="run")
    assert "continues" in take(tmp_path, step, seconds=3)
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "1_one.json").exists()


def test_what_was_compiled_is_kept_for_the_next_call(tmp_path):
    """Tuning takes longer than a call: each step has a folder for it, and the result tells of it."""
    look = "import json, os; print(json.dumps({'folder': os.environ['JAX_COMPILATION_CACHE_DIR']}))"
    assert take(tmp_path, on_gpu.Step("one", "", ("-c", look))) == "done"
    first = json.loads((tmp_path / "1_one.json").read_text())
    assert (first["folder"], first["programs_kept"]) == (str(tmp_path / "programs" / "one"), False)
    (tmp_path / "programs" / "two").mkdir(parents=True)
    assert take(tmp_path, on_gpu.Step("two", "", ("-c", look))) == "done"
    assert json.loads((tmp_path / "1_two.json").read_text())["programs_kept"] is True


def test_epochs_are_read_from_a_run(tmp_path):
    """Seconds and accuracy of every epoch."""
    rows = [{"seconds": 2.0, "accuracy": 0.5}, {"seconds": 1.0, "accuracy": 0.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = on_gpu.epochs(tmp_path)
    assert found == {"epochs": 2, "epoch_s": [2.0, 1.0], "accuracy": [0.5, 0.75]}


@pytest.mark.parametrize("arguments", [["out", "--steps=0"], ["out", "--steps=x"], ["out"]])
def test_mistakes_are_told(tmp_path, arguments):
    """Unknown steps, and a machine without a GPU: one sentence, status 2."""
    ended = subprocess.run(
        [sys.executable, str(_BENCHMARKS / "on_gpu.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "error: " in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_commands_name_what_there_is():
    """Every benchmark and config file that a step runs exists, and its other options are known."""
    options = {}
    for step in on_gpu.STEPS:
        script, *given = step.command
        if script.endswith(".py"):
            named = {word.partition("=")[0] for word in given if word.startswith("--")}
            options.setdefault(script, set()).update(named)
        for word in given:
            assert not word.startswith("configs/") or (_BENCHMARKS.parent / word).is_file()
    assert len(options) > 1
    for script, given in options.items():
        asked = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
        if "No module named 'torch'" not in asked.stderr:
            assert all(option in asked.stdout for option in given), (script, asked.stderr)

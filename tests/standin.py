"""A stand-in for the program, for tests of what starts it: a run of half a second without a network."""

import json
import sys
from pathlib import Path

import tiny

from ddarts_jax.tasks import launch, points

# Takes the time that a run takes, and fails or is stopped as a run may be.
_PROGRAM = """
import json, os, pathlib, signal, sys, time
from ddarts_jax import configuration

config, workdir = configuration.parse_flags(["main", *sys.argv[1:]])
workdir = pathlib.Path(workdir)
if config.seed == 1 and not (pathlib.Path(__file__).parent / "mended").exists():
    sys.exit("error: the disk is full")
signal.signal(signal.SIGTERM, lambda *_: sys.exit((workdir / "stopped").write_text("")))
print("runs on", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(config.train.final_learning_rate)
configuration.save(config, workdir / "config.json")
(workdir / "metrics.jsonl").write_text(json.dumps({"phase": "train", "epoch": 1, "seconds": 2.0}) + "\\n")
params = 10 * config.train.channels + 20
summary = {"test_accuracy": 0.5 + config.seed / 10, "params": params, "macs": 1000, "seconds": 9.0}
(workdir / "summary.json").write_text(json.dumps(summary))
"""


def install(config, folder: Path, monkeypatch) -> None:
    """Has three seeds of the tiny config run by the stand-in, on two devices.

    Args:
        config: of task `seeds` or `sweep`.
        folder: gets the program; seed 1 fails until there is a file `mended` in it.
        monkeypatch: of the test.
    """
    (folder / "program.py").write_text(_PROGRAM)
    assert points._PROGRAM == (sys.executable, "-m", "ddarts_jax.main")
    monkeypatch.setattr(points, "_PROGRAM", (sys.executable, str(folder / "program.py")))
    devices = [{"CUDA_VISIBLE_DEVICES": str(k)} for k in (4, 5)]
    monkeypatch.setattr(launch, "_devices", lambda: devices)
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    config.run = str(tiny.write_config(folder))
    config.overrides = ("train.channels=8",)


def mend(folder: Path) -> None:
    """Removes the cause for which seed 1 fails."""
    (folder / "mended").touch()


def add_speed(workdir: Path, milliseconds: float) -> None:
    """Writes what task `evaluate` measures of a run: batches of one image, and of 64."""
    speed = [{"batch_size": n, "milliseconds": n * milliseconds} for n in (64, 1)]
    (workdir / "evaluation.json").write_text(json.dumps({"speed": speed}))

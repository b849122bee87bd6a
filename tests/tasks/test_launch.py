"""Launchers: places on this machine, signals, and jobs by submitit's executor for one machine."""

import os
import pickle
import signal
import sys
import threading
import time

import pytest
import standin

from ddarts_jax.configuration import sweep_config
from ddarts_jax.errors import UserError
from ddarts_jax.tasks import launch, sweep
from ddarts_jax.training.signals import Stopped


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Three seeds of the tiny config, on two devices, run by the stand-in."""
    config = sweep_config()
    standin.install(config, tmp_path, monkeypatch)
    return config


def once_both_run(logs, action):
    """Calls `action` in a thread when the stand-ins with these logs have begun."""

    def wait():
        while not all(log.is_file() and "runs on" in log.read_text() for log in logs):
            time.sleep(0.1)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_a_signal_is_passed_on(config, tmp_path):
    """SIGTERM stops the runs, which save, and no other is started."""
    config.overrides = ("train.final_learning_rate=300.0",)
    config.seeds = (0, 2, 3)
    logs = [tmp_path / f"seed_{seed}" / "log.txt" for seed in (0, 2)]
    once_both_run(logs, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="Stopped by SIGTERM with the state of the runs saved"):
        sweep.run(config, tmp_path)
    assert [(tmp_path / f"seed_{seed}" / "stopped").exists() for seed in (0, 2)] == [True, True]
    assert not (tmp_path / "seed_3").exists()


def test_a_cpu_has_room_for_two(monkeypatch):
    """Two places without variables; on a machine of one core one."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert launch._devices() == [{}] * min(2, os.cpu_count())
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert launch._devices() == [{}]


def test_runs_that_share_a_device_share_its_memory(monkeypatch):
    """More runs at a time than devices: none takes all the memory at its start."""
    devices = [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    monkeypatch.setattr(launch, "_devices", lambda: devices)
    assert launch._places(0) == devices and launch._places(1) == devices[:1]
    shared = launch._places(3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in shared] == ["4", "5", "4"]
    assert all(place["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" for place in shared)


@pytest.fixture
def jobs(config, monkeypatch):
    """The same runs as jobs, by submitit's executor for one machine."""
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    monkeypatch.setattr(launch, "_CLUSTER", "local")
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.1)
    config.launcher = "slurm"
    config.slurm.gpus_per_node = 0
    return config


def test_runs_are_jobs(jobs, tmp_path):
    """One that fails is named by what it printed, the other finishes; then the failed one runs alone."""
    workdir = tmp_path / "sweep"
    workdir.mkdir()
    jobs.seeds = (0, 1)
    with pytest.raises(UserError, match=r"1 of 2 runs failed \(seed 1: error: the disk is full\)"):
        sweep.run(jobs, workdir)
    first = [(workdir / f"seed_{seed}" / "slurm_job").read_text() for seed in (0, 1)]
    assert sorted(path.name for path in (workdir / "submitit").glob("*_result.pkl")) == sorted(
        f"{job}_0_result.pkl" for job in first
    )
    standin.mend(tmp_path)
    result = sweep.run(jobs, workdir)
    assert result["points"][0]["table"]["test_accuracy"]["n"] == 2 and not result["failed"]
    again = [(workdir / f"seed_{seed}" / "slurm_job").read_text() for seed in (0, 1)]
    assert again[0] == first[0] and again[1] != first[1]


def test_a_job_that_goes_on_is_waited_for(jobs, tmp_path, monkeypatch):
    """Ctrl-C leaves the jobs; the next start submits none where there is one, and collects it."""
    import submitit

    class Job(submitit.LocalJob):
        """Goes on for two looks at it, then has run."""

        looks = 0

        def done(self, force_check=False):
            Job.looks += 1
            if Job.looks == -998:  # not from a thread: before the call waits it would end the tests
                os.kill(os.getpid(), signal.SIGINT)
            if Job.looks == 3:
                (run,) = waiting
                (run.workdir / "summary.json").write_text("{}")
            return Job.looks >= 3

    monkeypatch.setattr(submitit, "SlurmJob", Job)
    monkeypatch.setattr(
        launch, "_submit", lambda executor, runs: [Job(tmp_path, "17")][: len(runs)]
    )
    waiting = [launch.Planned("seed 0", tmp_path / "seed_0", ())]
    monkeypatch.setattr(Job, "looks", -1000)
    with pytest.raises(Stopped, match="Stopped by SIGINT while its SLURM jobs go on"):
        launch.run(waiting, jobs, tmp_path)
    monkeypatch.setattr(Job, "looks", 0)
    monkeypatch.setattr(launch, "_submit", lambda executor, runs: runs and pytest.fail("submitted"))
    assert launch.run(waiting, jobs, tmp_path) == {}


def test_a_job_saves_its_run_before_its_time_is_over(config, tmp_path):
    """As submitit does: it calls `checkpoint` amid the work, and pickles what comes back."""
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    program = "import pathlib, signal, sys, time\nplace = pathlib.Path(sys.argv[1])\n"
    program += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(place.touch()))\n"
    program += "print('runs on', flush=True)\ntime.sleep(300)"
    command = (sys.executable, "-c", program, str(tmp_path / "saved"))
    run = launch.Planned("seed 0", tmp_path / "seed_0", command)
    work, left = launch._Work(run), []
    once_both_run([run.log], lambda: os.kill(os.getpid(), signal.SIGUSR2))
    previous = signal.signal(signal.SIGUSR2, lambda *_: left.append(work.checkpoint()))
    try:
        work()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert (tmp_path / "saved").exists()
    assert pickle.loads(pickle.dumps(left[0].function))._run == run


def test_without_submitit(config, tmp_path, monkeypatch):
    """An extra: a sentence says how to get it, and nothing is started."""
    monkeypatch.setitem(sys.modules, "submitit", None)
    config.launcher = "slurm"
    with pytest.raises(UserError, match=r"pip install 'ddarts_jax\[slurm\]'"):
        sweep.run(config, tmp_path)
    assert not list(tmp_path.glob("seed_*"))


def test_without_slurm(jobs, tmp_path, monkeypatch):
    """On a machine without its commands."""
    monkeypatch.setattr(launch, "_CLUSTER", "slurm")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="There is no SLURM on this machine"):
        sweep.run(jobs, tmp_path)
    assert not list(tmp_path.glob("seed_*"))


def test_a_parameter_that_submitit_does_not_take(jobs, tmp_path):
    """Its own message, which runs over lines, is cut to one."""
    for wrong in ({"slurm_acount": "x"}, {"mem_gb": "much"}, {"timeout_min": 3}):
        jobs.slurm.parameters = wrong
        with pytest.raises(UserError, match=r"does not take config\.slurm\.parameters") as caught:
            sweep.run(jobs, tmp_path)
        assert next(iter(wrong)) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("seed_*"))

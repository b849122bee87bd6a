"""The trackers of docs/library.md with the packages themselves, offline: what they are told is on disk.

The packages are no part of the tests' extra, being large; `.ci/run` installs them for this file alone.
"""

import json
from types import SimpleNamespace

import numpy as np
import pages
import pytest
import tiny

import ddarts_jax as dd


def track(package, error, monkeypatch, tmp_path):
    """Runs the page's block for a package; its callback is told of an epoch and of the end."""
    (block,) = (
        block
        for block in pages.blocks(tiny.ROOT / "docs" / "library.md")
        if block.startswith(f"import {package}\n")
    )

    def search(config, dataset, workdir, *, callbacks):
        (callback,) = callbacks
        metrics = {"loss": np.float32(1.375), "marginal_contribution": np.zeros(5)}
        callback.on_step("search", 1, metrics)
        callback.on_epoch("search", 3, metrics)
        callback.on_end("search", error)

    config = dd.config("digits", seed=7)
    offline = SimpleNamespace(Callback=dd.Callback, search=search)
    monkeypatch.chdir(tmp_path)
    exec(block, {"dd": offline, "np": np, "config": config, "data": None})


@pytest.mark.parametrize("error, code", [(None, 0), (KeyboardInterrupt(), 1)])
def test_weights_and_biases(error, code, monkeypatch, tmp_path):
    """Config, numbers and how it ended are in the files of an offline run."""
    wandb = pytest.importorskip("wandb", reason="needs pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track("wandb", error, monkeypatch, tmp_path)
    wandb.teardown()  # what runs beside writes its last; and a process keeps its first run's folder
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"search/loss" in content and b"1.375" in content and b"zero_one_weight" in content
    assert b"marginal_contribution" not in content  # an entry for each cell
    logged = next(tmp_path.glob("wandb/offline-run-*/logs/debug.log")).read_text()
    assert f"got exitcode: {code}" in logged


@pytest.mark.parametrize("error, status", [(None, "FINISHED"), (KeyboardInterrupt(), "FAILED")])
def test_mlflow(error, status, monkeypatch, tmp_path):
    """Config, numbers and how it ended are in a store of files."""
    mlflow = pytest.importorskip("mlflow", reason="needs pip install mlflow-skinny")
    monkeypatch.setenv(
        "MLFLOW_ALLOW_FILE_STORE", "true"
    )  # that of a database is in the larger package
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    track("mlflow", error, monkeypatch, tmp_path)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == status and run.data.metrics == {"search/loss": 1.375}
    (metric,) = mlflow.MlflowClient().get_metric_history(run.info.run_id, "search/loss")
    assert metric.step == 3
    (config,) = (tmp_path / "store").rglob("config.json")
    assert json.loads(config.read_text())["seed"] == 7

"""Tests of whole runs from the command line, in processes that are really killed too."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from ddarts_jax import main
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.tasks.export import checks, formats

_SEARCH_EPOCHS, _TRAIN_EPOCHS = 12, 3
_SEARCH_STEPS, _TRAIN_STEPS = 4 * _SEARCH_EPOCHS, 8 * _TRAIN_EPOCHS
_TIMES = ("seconds", "images_per_second")
_PRIMITIVES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
# D-DARTS with what it can have of other methods: some of it changes from epoch to epoch.
_PIECES = [
    "--config.search.channels=4",
    "--config.search.warmup_epochs=2",
    "--config.search.ddarts.partial_channels=2",
    "--config.search.ddarts.edge_strengths=True",
    "--config.search.ddarts.auxiliary_skip=1",
    "--config.search.ddarts.beta_decay_weight=1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data, a config file, a genotype; compiled programs go to `cache` in it."""
    directory = tmp_path_factory.mktemp("main")
    tiny.write_config(directory)
    tiny.GENOTYPE.save(directory / "genotype.json")
    return directory


def _arguments(place, workdir, *overrides):
    config = ["--config", str(place / "tiny_config.py"), *_PIECES]
    return [*config, "--workdir", str(workdir), *overrides]


def _start(place, workdir):
    arguments = ["-m", "ddarts_jax.main", *_arguments(place, workdir)]
    return tiny.start(arguments, place / "cache")


def _main(place, workdir, *overrides):
    """Runs in this process; returns the exit status."""
    return main.main(["main", *_arguments(place, workdir, *overrides)])


def _train(place, workdir, *overrides):
    """Trains the genotype of five quick cells for one epoch in this process."""
    genotype = f"--config.genotype={place / 'genotype.json'}"
    epochs = "--config.train.epochs=1"
    return _main(place, workdir, "--config.task=train", genotype, epochs, *overrides)


@pytest.fixture(scope="module")
def unbroken(place):
    """The workdir and the output of a whole pipeline that nothing interrupted."""
    process = _start(place, place / "unbroken")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return place / "unbroken", output


@pytest.fixture(scope="module")
def trained(place):
    """The workdir of a training of 7 cells, expanded from 5."""
    assert _train(place, place / "trained", "--config.train.num_cells=7") == 0
    return place / "trained"


def _summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def _metrics(workdir, *without):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]


def test_pipeline_leaves_what_is_promised(unbroken):
    """One command searches, trains and evaluates, and everything lies in the workdir."""
    workdir, output = unbroken
    config = json.loads((workdir / "config.json").read_text())
    assert config["search"]["num_cells"] == 2 and config["task"] == "pipeline"
    alphas = np.load(workdir / "alphas.npy")
    assert alphas.dtype == np.float32 and alphas.shape == (2, 2, len(_PRIMITIVES) + 1)
    genotype = Genotype.load(workdir / "genotype.json")
    assert genotype.num_cells == 2
    assert Genotype.load(workdir / "network_genotype.json") == genotype
    of_epochs = sorted((workdir / "genotypes").iterdir())
    epochs = range(1, _SEARCH_EPOCHS + 1)
    assert [path.name for path in of_epochs] == [f"epoch_{k:04d}.json" for k in epochs]
    assert Genotype.load(of_epochs[-1]) == genotype
    for phase, last in (("search", _SEARCH_STEPS), ("train", _TRAIN_STEPS)):
        assert any((workdir / "tensorboard" / phase).glob("events.out.tfevents.*"))
        assert (workdir / "checkpoints" / phase / str(last)).is_dir()
    assert all(np.isfinite(leaf).all() for leaf in np.load(workdir / "network.npz").values())
    assert (workdir / "genotype.svg").stat().st_size and (workdir / "genotype.png").stat().st_size
    assert "<html" in (workdir / "report.html").read_text().lower()
    assert (workdir / "slide.png").stat().st_size
    assert len(list((workdir / "tensorboard" / "result").iterdir())) == 1
    versions = json.loads((workdir / "versions.json").read_text())
    assert versions["jax"] == jax.__version__ and versions["devices"] == versions["processes"] == 1
    summary = _summary(workdir)
    accuracies = [row["accuracy"] for row in _metrics(workdir) if row["phase"] == "train"]
    assert summary["test_accuracy"] == accuracies[-1], "of the last epoch"
    assert summary["test_accuracy_best_epoch"] == max(accuracies)
    data = json.loads((workdir / "dataset.json").read_text())
    assert data["image_shape"] == [8, 8, 1] and len(data["class_names"]) == 3
    supernet = json.loads((workdir / "supernet.json").read_text())
    assert supernet["primitives"] == [*_PRIMITIVES] and supernet["relaxation"] == "sigmoid"
    assert supernet["columns"] == [*_PRIMITIVES, "edge"]
    assert summary["params"] > 0 and summary["macs"] > 0 and summary["seconds"] > 0

    assert "pipeline on 1 x cpu, float32" in output
    assert "65 training and 15 test images of 8x8x1, 3 classes" in output
    for phase in ("search", "train"):
        assert re.search(rf"{phase}: compiled in \d+\.\d s", output)
        assert re.search(rf"{phase}: needs \d+\.\d+ GB of memory on each device", output)
    lines = re.findall(r"^(search|train) \d+/\d+: loss", output, re.MULTILINE)
    assert len(lines) == _SEARCH_EPOCHS + _TRAIN_EPOCHS
    assert f"test accuracy {100 * summary['test_accuracy']:.2f}%" in output
    assert str(workdir) in output.splitlines()[-1]
    assert "\r" not in output, "a progress bar although this is no terminal"


def test_metrics_hold_what_is_promised(unbroken):
    """Each epoch of each phase has one line with all parts, those of cells for every cell."""
    records = _metrics(unbroken[0])
    order = [(record["phase"], record["epoch"]) for record in records]
    assert order == [
        *(("search", epoch) for epoch in range(1, _SEARCH_EPOCHS + 1)),
        *(("train", epoch) for epoch in range(1, _TRAIN_EPOCHS + 1)),
    ]
    both = {"loss", "accuracy", "seconds", "images_per_second"}
    cells = {"loss_zero_one", "loss_ablation", "loss_total", "marginal_contribution"}
    cells |= {"learning_rate_alphas", "gradient_norm_alphas"}
    search = {"weights_loss", "weights_accuracy", "learning_rate_weights", "update_norm_weights"}
    train = {"test_loss", "train_accuracy", "learning_rate", "gradient_norm", "update_norm"}
    for record in records:
        searching = record["phase"] == "search"
        assert set(record) >= both | (search | cells if searching else train)
        for name in cells & set(record):
            assert len(record[name]) == 2 and np.isfinite(record[name]).all()
        assert all(record[name] >= 0 for name in both)
    rates = [record["learning_rate_weights"] for record in records[:_SEARCH_EPOCHS]]
    assert rates == sorted(rates, reverse=True) and 0.001 < rates[-1] < rates[0] < 0.005


def test_a_search_from_a_network(place, tmp_path, capsys):
    """Its sequence of cells is kept, alphas stand still at first, and the distance is reported."""
    start = Genotype(
        [[("skip_connect", 2, 1), ("max_pool_3x3", 2, 0)]], reductions=(1,), concat=(2,), seq=(0, 0)
    )
    start.save(tmp_path / "start.json")
    overrides = [
        "--config.task=search",
        f"--config.search.start.genotype={tmp_path / 'start.json'}",
        "--config.search.warmup_epochs=0",
        "--config.search.start.epochs=2",
        "--config.search.stop.from_epoch=1",
        "--config.search.stop.patience=2",
        "--config.search.stop.tolerance=1.0",  # any change counts as none
    ]
    assert _main(place, tmp_path / "run", *overrides) == 0
    records = _metrics(tmp_path / "run")
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5], "2 fixed, 3 till stable"
    distances = [record["distance_to_start"] for record in records]
    assert distances[:2] == [0, 0]
    assert records[0]["learning_rate_alphas"] == records[1]["learning_rate_alphas"]
    assert Genotype.load(tmp_path / "run" / "start_genotype.json").seq == (0, 0)
    assert Genotype.load(tmp_path / "run" / "genotype.json").seq == (0, 0)
    summary = _summary(tmp_path / "run")
    assert summary["from_start"]["distance"] == distances[-1]
    assert (tmp_path / "run" / "distance.svg").stat().st_size
    output = capsys.readouterr().out
    assert f"distance to {tmp_path / 'start.json'}: {distances[-1]:.4f}" in output

    # The same command finds it finished; another start, or another parsing, on which the early stop
    # depends, is another search.
    assert _main(place, tmp_path / "run", *overrides) == 0
    assert _metrics(tmp_path / "run") == records
    assert _summary(tmp_path / "run")["seconds"] > summary["seconds"], "of both starts"
    assert _main(place, tmp_path / "run", *overrides, "--config.parse.threshold=0.5") == 2
    assert "parse.threshold: 0.85, 0.5" in capsys.readouterr().err.splitlines()[-1]
    Genotype(start.genes, (0,), (2,), (0, 0)).save(tmp_path / "start.json")
    assert _main(place, tmp_path / "run", *overrides) == 2
    assert "start" in capsys.readouterr().err.splitlines()[-1]


def test_evaluate_repeats_the_accuracy(place, unbroken):
    """Task 'evaluate' in the workdir of a run finds the accuracy that the run found."""
    workdir, _ = unbroken
    before = _summary(workdir)
    config = (workdir / "config.json").read_text()
    assert _main(place, workdir, "--config.task=evaluate") == 0
    after = _summary(workdir)
    for name in ("test_accuracy", "params", "macs", "seconds"):
        assert after[name] == before[name]
    assert after["test_loss"] == pytest.approx(before["test_loss"], rel=1e-5)
    assert (workdir / "config.json").read_text() == config


def _newest(workdir, phase):
    directory = workdir / "checkpoints" / phase
    steps = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    return max(steps, default=0)


def _signal_after(process, workdir, phase, step, number):
    """Sends the signal at a random moment after the checkpoint of `step`; returns the output."""
    deadline = time.monotonic() + 400
    while _newest(workdir, phase) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


def test_a_killed_run_ends_bit_equal_to_an_unbroken_one(place, unbroken):
    """Ended by SIGTERM and killed by SIGKILL, a run still ends as if nothing had happened."""
    workdir = place / "broken"

    process = _start(place, workdir)
    output = _signal_after(process, workdir, "search", 6, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, output
    stopped = re.search(r"Stopped by SIGTERM in search, saved at step (\d+): .*", output)
    assert stopped and "the same command with the same --workdir continues" in stopped[0]
    assert _newest(workdir, "search") == int(stopped[1]) < _SEARCH_STEPS

    process = _start(place, workdir)
    output = _signal_after(process, workdir, "train", 6, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert f"search: continues after step {stopped[1]} of {_SEARCH_STEPS}" in output

    process = _start(place, workdir)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert re.search(rf"train: continues after step \d+ of {_TRAIN_STEPS}", output)

    expected = unbroken[0]
    names = ["alphas.npy", "network.npz", "genotype.json", "config.json"]
    names += [f"genotypes/epoch_{epoch:04d}.json" for epoch in range(1, _SEARCH_EPOCHS + 1)]
    for name in names:
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
    for phase, step in (("search", _SEARCH_STEPS), ("train", _TRAIN_STEPS)):
        # Holds a checksum of all arrays, those of the optimizers too.
        record = Path("checkpoints", phase, str(step), "record", "metadata")
        assert (workdir / record).read_bytes() == (expected / record).read_bytes()
    assert _metrics(workdir, *_TIMES) == _metrics(expected, *_TIMES)


def _appears(pattern, workdir):
    return any(workdir.glob(pattern))


# Moments at which a run is killed: a random one, or as soon as a file appears that is being written.
_MOMENTS = (
    None,
    "checkpoints/search/*.orbax-checkpoint-tmp*",
    "checkpoints/train/*.orbax-checkpoint-tmp*",
    "report.html.tmp",
    "*.tmp",
)


def test_a_run_survives_every_kill(place, unbroken):
    """Killed at random moments, also while it saves or reports, it ends bit by bit like the unbroken.

    DDARTS_KILLS says how often, 3 times by default; a run that ends before that is followed by another.
    """
    kills = int(os.environ.get("DDARTS_KILLS", "3"))
    workdir, done = place / "kills [1]", 0
    for attempt in itertools.count():
        process = _start(place, workdir)
        moment = _MOMENTS[(attempt + 1) % len(_MOMENTS)]
        deadline = time.monotonic() + (random.uniform(3, 30) if moment is None else 60)
        while done < kills and time.monotonic() < deadline and process.poll() is None:
            if moment and _appears(moment, workdir):
                break
            time.sleep(0.002)
        if done < kills and process.poll() is None:
            process.kill()
            done += 1
        output, _ = process.communicate(timeout=400)
        if process.returncode == -signal.SIGKILL:
            continue
        assert process.returncode == 0, output
        _assert_same_run(workdir, unbroken[0])
        if done == kills:
            break
        shutil.rmtree(workdir)


def _assert_same_run(workdir, expected):
    """Compares what two runs have left, bit by bit where it is no time."""
    names = ["alphas.npy", "network.npz", "genotype.json", "network_genotype.json", "config.json"]
    names += ["dataset.json", "training_images.npy"]
    for name in names:
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
    found, wanted = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (workdir, expected)
    )
    wanted.pop("speed", None)  # of a task 'evaluate' in the same folder
    assert found == wanted
    assert _metrics(workdir, *_TIMES) == _metrics(expected, *_TIMES)
    left = [path for path in workdir.rglob("*") if ".tmp" in path.name or "corrupt" in path.name]
    assert not left


def test_an_export_survives_every_kill(place, unbroken, monkeypatch):
    """Killed while it writes, it leaves the earlier export alone; the next one clears up and ends.

    One kill in three of DDARTS_KILLS.
    """
    output = place / "exported"
    output.mkdir()
    (output / "meta.json").write_text("{}")
    config = ["--config", str(tiny.ROOT / "configs" / "export.py")]
    arguments = [*config, f"--config.run={unbroken[0]}", f"--config.output={output}"]
    for kill in range(int(os.environ.get("DDARTS_KILLS", "3")) // 3):
        process = tiny.start(["-m", "ddarts_jax.main", *arguments], place / "cache")
        while not _appears(f".exported.{process.pid}.tmp/*", place):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.002)
        time.sleep(random.uniform(0, min(kill, 1)))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it had ended"
        assert (output / "meta.json").read_text() == "{}"
        assert len(list(place.glob(".exported.*"))) == 1, "that of an earlier kill is still there"
    # What the files compute, and that they are whole, is tested elsewhere.
    monkeypatch.setattr(formats, "write_models", lambda *_: None)
    monkeypatch.setattr(checks, "check", lambda *_: {})
    assert main.main(["main", *arguments]) == 0
    found = safetensors.numpy.load_file(output / "weights.safetensors")
    with np.load(unbroken[0] / "network.npz") as expected:
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }
    assert not list(place.glob(".exported.*"))


def test_train_another_genotype_with_more_cells(place, trained):
    """Task 'train' takes a genotype by its path, expands it, and 'evaluate' finds it again."""
    summary = _summary(trained)
    network = Genotype.load(trained / "network_genotype.json")
    assert network.num_cells == 7
    assert [record["phase"] for record in _metrics(trained)] == ["train"]
    assert not (trained / "alphas.npy").exists()
    genotype = f"--config.genotype={place / 'genotype.json'}"
    cells = "--config.train.num_cells=7"
    # The last two take the network's own genotype, which has been expanded already.
    for overrides in ([genotype, cells], [], [cells]):
        assert _main(place, trained, "--config.task=evaluate", *overrides) == 0
        assert _summary(trained)["test_accuracy"] == summary["test_accuracy"]
        assert Genotype.load(trained / "network_genotype.json") == network


def _assert_one_line_error(capsys, status, *parts):
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert status == 2
    assert len(lines) == 1 and error.splitlines()[-1] == lines[0], error
    assert "Traceback" not in error
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    "override, parts",
    [
        ("--config.serach.epochs=3", ["serach.epochs", "'search.epochs'"]),
        ("--config.search.epohcs=3", ["search.epohcs", "'search.epochs'"]),
        ("--config.search.epochs=many", ["search.epochs", "many"]),
        ("--config.task=dream", ["task", "'dream'", "pipeline"]),
        ("--num_processes=2", ["--coordinator and --process_id missing"]),
        ("--config.genotype=/nowhere/g.json", ["/nowhere/g.json"]),
        ("--config.genotype=", ["genotype.json"]),
        ("--config.data.name=npz:/nowhere/d.npz", ["/nowhere/d.npz"]),
        ("--config.data.name=digitz", ["'digitz'", "'digits'"]),
        ("--config.data.batch_size=1000", ["data.batch_size=1000", "65 images", "at most 65"]),
        ("--config.train.num_cells=2", ["2"]),
    ],
)
def test_a_mistake_is_one_line(place, tmp_path, capsys, override, parts):
    """What the user can mend ends with status 2 and one line that names it, no traceback."""
    status = _train(place, tmp_path, override)
    _assert_one_line_error(capsys, status, *parts)


def test_a_config_file_or_workdir_that_cannot_be_used(place, tmp_path, capsys):
    """A missing config file and a workdir that is a file are told in one line."""
    status = main.main(["main", "--config", "/nowhere/c.py", "--workdir", str(tmp_path)])
    _assert_one_line_error(capsys, status, "/nowhere/c.py")
    (tmp_path / "file").touch()
    _assert_one_line_error(capsys, _train(place, tmp_path / "file"), str(tmp_path / "file"))


def test_the_configs_are_listed_by_name(capsys):
    """Each file of configs/ is there with a sentence of its own; other commands are refused."""
    assert main.main(["main", "configs"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == sorted(p.stem for p in tiny.ROOT.glob("configs/*.py"))
    assert all(line.endswith(".") for _, line in rows), "a sentence that goes on"
    assert len({line for _, line in rows}) == len(rows)
    for words in (["config"], ["configs", "digits"]):
        _assert_one_line_error(
            capsys, main.main(["main", *words]), f"'{' '.join(words)}'", "doctor"
        )


def test_evaluate_without_a_network(place, tmp_path, capsys):
    """Evaluation where nothing was trained says which file is missing and how to get it."""
    tiny.GENOTYPE.save(tmp_path / "genotype.json")
    status = _main(place, tmp_path, "--config.task=evaluate")
    _assert_one_line_error(capsys, status, str(tmp_path / "network.npz"), "train")


def test_both_phases_are_checked_before_anything_is_written(place, unbroken, capsys):
    """On a finished run, another training, parsing or data are refused; every file stays as it is."""
    workdir, _ = unbroken
    kept = {path: path.read_bytes() for path in workdir.glob("*.*") if path.is_file()}
    with np.load(place / "digits.npz") as file:
        np.savez(place / "corrected.npz", images=file["images"], labels=(file["labels"] + 1) % 3)
    for override, named in (
        ("--config.train.channels=6", "train.channels: 4, 6"),
        ("--config.train.epochs=9", "a longer training is a new run"),
        ("--config.parse.threshold=0.5", "parse.threshold: 0.85, 0.5"),
        (f"--config.data.name=npz:{place}/corrected.npz", "began with other data"),
    ):
        _assert_one_line_error(capsys, _main(place, workdir, override), named)
        assert kept == {path: path.read_bytes() for path in kept}
    # The same images elsewhere are the same run.
    (place / "moved.npz").write_bytes((place / "digits.npz").read_bytes())
    assert _main(place, workdir, f"--config.data.name=npz:{place}/moved.npz") == 0


def test_results_without_their_checkpoints_are_kept(place, unbroken, tmp_path, capsys):
    """The same command does not begin anew over them, whichever phase's are gone."""
    for phase in ("search", "train"):
        workdir = tmp_path / phase
        shutil.copytree(unbroken[0], workdir)
        shutil.rmtree(workdir / "checkpoints" / phase)
        kept = {path: path.read_bytes() for path in workdir.glob("*.*") if path.is_file()}
        status = _main(place, workdir)
        _assert_one_line_error(
            capsys, status, "results of a pipeline that has ended", "summary.json"
        )
        assert kept == {path: path.read_bytes() for path in kept}


def test_a_lost_file_of_metrics_is_no_dead_end(place, trained, tmp_path):
    """A finished training is summed up again from its state, but for the best of its epochs."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert _train(place, tmp_path / "run", "--config.train.num_cells=7") == 0
    before, after = _summary(trained), _summary(tmp_path / "run")
    assert after["test_accuracy"] == before["test_accuracy"]
    assert "test_accuracy_best_epoch" not in after


def test_another_config_in_the_same_workdir(place, trained, capsys):
    """A workdir of another config is refused, the difference named, and nothing in it changed."""
    kept = {path: path.read_bytes() for path in trained.glob("*.*") if path.is_file()}
    overrides = "--config.train.num_cells=7", "--config.train.learning_rate=0.01"
    status = _train(place, trained, *overrides)
    _assert_one_line_error(capsys, status, "train.learning_rate: 0.025, 0.01", "--workdir")
    assert kept == {path: path.read_bytes() for path in kept}


def test_divergence_is_one_line(place, tmp_path, capsys):
    """A learning rate without measure ends with a sentence that names step and loss part."""
    overrides = "--config.train.learning_rate=1e30", "--config.train.clip=1e30"
    status = _train(place, tmp_path, *overrides)
    _assert_one_line_error(
        capsys, status, "train diverged at step 1 (epoch 1)", "is NaN or infinite", "learning rates"
    )


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """A directory with some real CIFAR-10 and CIFAR-100 images as TFDS prepares them."""
    if not tiny.SHARED.is_dir():
        pytest.skip(f"needs real CIFAR images in {tiny.SHARED}")
    directory = tmp_path_factory.mktemp("cifar")
    script = [str(tiny.SHARED / "data" / "cifar.py"), "prepare", str(directory), "--limit", "1000"]
    process = tiny.start(script, directory)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return directory


@pytest.mark.parametrize(
    "name", ["cifar10_train", pytest.param("cifar100_train", marks=pytest.mark.slow)]
)
def test_the_full_recipe_trains_on_real_cifar_images(cifar, tmp_path, name):
    """Every ingredient of the recipe is on: AutoAugment, cutout, drop path, the auxiliary head."""
    cell = (("skip_connect", 2, 0), ("sep_conv_3x3", 2, 1))
    Genotype((cell,), (0,), (2,), (0, 0)).save(tmp_path / "genotype.json")
    arguments = ["--config", f"configs/{name}.py", "--workdir", str(tmp_path / "run")]
    arguments += [f"--config.data.data_dir={cifar}", "--config.data.batch_size=10"]
    arguments += [f"--config.genotype={tmp_path / 'genotype.json'}"]
    arguments += ["--config.train.epochs=2", "--config.train.channels=4"]
    arguments += ["--config.data.images_per_class=3"]
    assert main.main(["main", *arguments]) == 0
    assert 0 <= _summary(tmp_path / "run")["test_accuracy"] <= 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert config["augment"]["auto_augment"] == "cifar10" and config["augment"]["cutout"] == 16
    assert config["drop_path"] > 0 and config["auxiliary_weight"] > 0


@pytest.mark.slow
def test_the_search_from_resnet18_starts_on_real_cifar_images(cifar, tmp_path, monkeypatch):
    """The config reads its data and builds its supernet; what is then compiled is tested smaller."""
    started = []

    def run(phase, running, *_, **__):
        started.append(running)
        return running.state

    monkeypatch.setattr("ddarts_jax.training.loop.run", run)
    monkeypatch.setattr("ddarts_jax.tasks.distances.draw_history", lambda *_: None)
    arguments = ["--config", "configs/cifar10_resnet18.py", "--workdir", str(tmp_path)]
    arguments += [f"--config.data.data_dir={cifar}", "--config.search.channels=2"]
    assert main.main(["main", *arguments]) == 0
    assert started[0].state.alphas.shape == (1, 14, 12)
    assert _summary(tmp_path)["from_start"]["distance"] == 0


def test_cifar10_smoke_config_searches_real_cifar_images(cifar, tmp_path):
    """configs/cifar10_smoke.py finds a genotype on CIFAR-10 images that TFDS prepared."""
    arguments = ["-m", "ddarts_jax.main", "--config", "configs/cifar10_smoke.py"]
    arguments += ["--workdir", str(tmp_path / "run"), "--config.task=search"]
    arguments += [f"--config.data.data_dir={cifar}", "--config.search.epochs=1"]
    arguments += ["--config.search.num_cells=2"]  # of 3: compiles sooner
    process = tiny.start(arguments, tmp_path / "cache")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "images of 32x32x3, 10 classes" in output
    assert Genotype.load(tmp_path / "run" / "genotype.json").num_cells == 2
    assert "params" in _summary(tmp_path / "run")

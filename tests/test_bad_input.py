"""What people really bring: every mistake ends with status 2 and one sentence, and nothing is lost."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import synthetic
import tiny
from PIL import Image

from ddarts_jax import main, predict


class Place:
    """A folder in which a case prepares its files; most commands run the tiny config."""

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name

    def file(self, name, content=""):
        """Writes a text or bytes, or an image."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content.save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def images(self, **others):
        """Writes two classes of three images each, and other files by name."""
        for name in ("images/cat", "images/dog"):
            for number in range(3):
                self.file(f"{name}/{number}.png", Image.new("L", (8, 8), 50 * number))
        for name, content in others.items():
            self.file(name, content)
        return f"--config.data.name=folder:{self.path}/images"

    def npz(self, **arrays):
        """Writes arrays, and names them."""
        given = {"images": np.zeros((9, 8, 8), np.uint8), "labels": np.arange(9) % 3} | arrays
        given = {name: array for name, array in given.items() if array is not None}
        np.savez(self.path / "data.npz", **given)
        return f"--config.data.name=npz:{self.path}/data.npz"

    def genotype(self):
        """Writes a genotype to train."""
        tiny.GENOTYPE.save(self.path / "genotype.json")
        return f"--config.genotype={self.path}/genotype.json"

    def run(self, name="run", **files):
        """Writes a workdir as a run leaves it, some of its files replaced."""
        workdir = synthetic.write_run(self.path / name)
        for file, content in files.items():
            (workdir / file.replace("__", ".")).write_text(content)
        return workdir


def train(place, *flags):
    """The command that trains the tiny network."""
    return [place.genotype(), "--config.task=train", *flags]


def task(name, *flags):
    """The command of another task."""
    return [f"--config={tiny.ROOT}/configs/{name}.py", *flags]


# What is brought: {kind: (the arguments of a command, given a `Place`, and what its sentence names)}.
CASES = {
    # The config.
    "no config file": (lambda p: ["--config=/nowhere/c.py"], "/nowhere/c.py"),
    "a config file with a mistake": (
        lambda p: [f"--config={p.file('c.py', 'def get_config(: pass')}"],
        "fails on line 1",
    ),
    "a config file without a config": (
        lambda p: [f"--config={p.file('c.py', 'x = 1')}"],
        "get_config",
    ),
    "a JSON file that is no config": (lambda p: [f"--config={p.file('c.json', '[]')}"], "c.json"),
    "a broken JSON file": (lambda p: [f"--config={p.file('c.json', '{')}"], "not valid JSON"),
    "a JSON file with an unknown key": (
        lambda p: [
            f"--config={p.file('c.json', json.dumps({'task': 'train', 'trian': {'x': 1}}))}"
        ],
        "'trian.x'",
    ),
    "a JSON file with a wrong type": (
        lambda p: [f"--config={p.file('c.json', json.dumps({'task': 'train', 'seed': 'one'}))}"],
        "seed is 'one'",
    ),
    "a misspelt key": (lambda p: train(p, "--config.train.epohcs=1"), "'train.epochs'"),
    "a value of a wrong type": (lambda p: train(p, "--config.train.epochs=many"), "many"),
    "a value out of range": (lambda p: train(p, "--config.train.momentum=1.5"), "train.momentum"),
    "a number beyond all bounds": (
        lambda p: train(p, f"--config.train.epochs={10**400}"),
        "train.epochs",
    ),
    "a value that excludes another": (
        lambda p: train(p, "--config.train.decay=0.5"),
        "config.train.decay",
    ),
    "a warm-up without end": (
        lambda p: train(p, "--config.train.warmup_epochs=3"),
        "warmup_epochs",
    ),
    "a setting that is None": (
        lambda p: [
            f"--config={p.file('c.py', 'import tiny' + chr(10) + _NONE)}",
        ],
        "config.train.epochs is None",
    ),
    "a seed that is a text": (
        lambda p: task("seeds", "--config.seeds=('a',)"),
        "config.seeds is ('a',)",
    ),
    "a sweep over a key that there is not": (
        lambda p: task("sweep", "--config.run=digits", "--config.grid={'train.epohcs': (3,)}"),
        "'train.epochs'",
    ),
    "options of SLURM without SLURM": (
        lambda p: task("sweep", "--config.slurm.partition=gpu"),
        "config.launcher=slurm",
    ),
    "a primitive that is a number": (
        lambda p: task("score_operations", "--config.score.primitives=(1,)"),
        "config.score.primitives is (1,)",
    ),
    "operation scores of no cells": (
        lambda p: task("score_operations", "--config.train.num_cells=0"),
        "needs cells; set config.train.num_cells",
    ),
    "operation scores by parts that are not equal": (
        lambda p: task(
            "score_operations", "--config.train.accumulate=3", p.npz(), "--config.data.batch_size=4"
        ),
        "train.accumulate=3 equal parts",
    ),
    "colours of images of two channels": (
        lambda p: train(
            p,
            p.npz(images=np.zeros((9, 8, 8, 2), np.uint8)),
            "--config.data.batch_size=4",
            "--config.train.augment.hue=0.1",
        ),
        "images of 2 channels",
    ),
    "a training in parts that are not equal, after a search": (
        lambda p: [p.npz(), "--config.data.batch_size=2", "--config.train.accumulate=3"],
        "train.accumulate=3 equal parts",
    ),
    "a training by colours of grey images, after a search": (
        lambda p: [
            p.npz(),
            "--config.data.batch_size=4",
            "--config.train.augment.auto_augment=cifar10",
        ],
        "images of 1 channels",
    ),
    "a training of fewer cells than are searched": (
        lambda p: [p.npz(), "--config.data.batch_size=2", "--config.train.num_cells=1"],
        "ask for at least",
    ),
    "an auxiliary head of small images, after a search": (
        lambda p: [p.npz(), "--config.data.batch_size=3", "--config.train.auxiliary_weight=0.4"],
        "auxiliary head, which needs images of at least",
    ),
    "an unknown task": (lambda p: train(p, "--config.task=dream"), "'dream'"),
    "a flag of several processes alone": (lambda p: train(p, "--num_processes=2"), "--coordinator"),
    # The workdir.
    "a workdir that is a file": (
        lambda p: train(p, p.npz(), f"--workdir={p.file('file')}"),
        "file",
    ),
    "a workdir whose name is not Unicode": (
        lambda p: train(p, p.npz(), f"--workdir={p / 'caf'}" + os.fsdecode(b"\xe9")),
        "not Unicode",
    ),
    "a workdir inside the images": (
        lambda p: train(p, p.images(), f"--workdir={p / 'images/run'}"),
        "lies inside the images",
    ),
    "a comparison in the workdir of a run": (
        lambda p: task("compare", "--config.runs=a,b", f"--workdir={p.run()}"),
        "holds a run",
    ),
    # The images.
    "no npz file": (lambda p: train(p, "--config.data.name=npz:/nowhere.npz"), "/nowhere.npz"),
    "an npz file of other names": (
        lambda p: train(p, p.npz(images=None, pictures=np.zeros(3))),
        "labels, pictures",
    ),
    "half an npz file": (
        lambda p: train(p, p.npz(), _half(p / "data.npz")),
        "Cannot read",
    ),
    "labels that are no classes": (
        lambda p: train(p, p.npz(labels=np.linspace(0, 1, 9))),
        "9 integers",
    ),
    "labels of other images": (lambda p: train(p, p.npz(labels=np.arange(4))), "9 integers"),
    "images that are not square": (
        lambda p: train(p, p.npz(images=np.zeros((9, 8, 6), np.uint8))),
        "not square",
    ),
    "images of 16 bits in an npz file": (
        lambda p: train(p, p.npz(images=np.zeros((9, 8, 8), np.uint16))),
        "uint16",
    ),
    "a single class": (lambda p: train(p, p.npz(labels=np.zeros(9, int))), "at least 2 classes"),
    "a class name twice": (
        lambda p: train(p, p.npz(class_names=["a", "b", "a"])),
        "'a' twice",
    ),
    "no folder": (lambda p: train(p, "--config.data.name=folder:/nowhere"), "/nowhere"),
    "a class without images": (
        lambda p: train(p, p.images(**{"images/owl/notes.txt": "x"})),
        "'owl'",
    ),
    "a file that is no image": (
        lambda p: train(p, p.images(**{"images/dog/x.png": "x"})),
        "dog/x.png",
    ),
    "a class whose name is not Unicode": (
        lambda p: train(p, p.images(), _strange_class(p / "images")),
        "not Unicode",
    ),
    "an unknown name": (lambda p: train(p, "--config.data.name=digitz"), "'digits'"),
    "a path without its kind": (
        lambda p: train(p, p.images().replace("folder:", "")),
        "did you mean 'folder:",
    ),
    "a stream without a size": (
        lambda p: train(p, p.images(), "--config.data.stream=True"),
        "data.image_size",
    ),
    "a stream of an npz file": (
        lambda p: train(p, p.npz(), "--config.data.stream=True", "--config.data.image_size=8"),
        "cannot be streamed",
    ),
    "no part left for the test": (
        lambda p: train(p, p.npz(), "--config.data.test_fraction=0.0"),
        "test_fraction",
    ),
    "a batch of more than all images": (
        lambda p: train(p, p.npz(), "--config.data.batch_size=99"),
        "data.batch_size=99",
    ),
    # Genotypes and weights.
    "no genotype": (
        lambda p: train(p, p.npz(), "--config.genotype=/nowhere.json"),
        "/nowhere.json",
    ),
    "a broken genotype": (
        lambda p: train(p, p.npz(), f"--config.genotype={p.file('g.json', '{')}"),
        "g.json",
    ),
    "a genotype of another form": (
        lambda p: train(p, p.npz(), f"--config.genotype={p.file('g.json', '{}')}"),
        "g.json",
    ),
    "a text that is no genotype": (
        lambda p: train(p, p.npz(), f"--config.genotype={p.file('g.txt', 'print(1)')}"),
        "g.txt",
    ),
    "no weights": (
        lambda p: [p.npz(), p.genotype(), "--config.task=evaluate", "--config.weights=/no.npz"],
        "/no.npz",
    ),
    "broken weights": (
        lambda p: [
            *(p.npz(), p.genotype(), "--config.task=evaluate"),
            f"--config.weights={p.file('w.safetensors', 'x')}",
        ],
        "w.safetensors",
    ),
    "an evaluation where nothing was trained": (
        lambda p: [p.npz(), p.genotype(), "--config.task=evaluate", f"--workdir={p / 'new'}"],
        "network.npz",
    ),
    "an evaluation of a run with broken facts": (
        lambda p: [
            *(p.npz(), "--config.task=evaluate"),
            f"--workdir={p.run(dataset__json='[]')}",
        ],
        "dataset.json",
    ),
    # Other tasks.
    "an export of nothing": (
        lambda p: task("export", f"--config.run={p / 'no'}", f"--config.output={p / 'out'}"),
        "There is no run",
    ),
    "an export of a search": (
        lambda p: task("export", f"--config.run={p.run()}", f"--config.output={p / 'out'}"),
        "no network.npz",
    ),
    "an export over something else": (
        lambda p: task(
            "export", f"--config.run={p.run()}", f"--config.output={p.file('out/mine').parent}"
        ),
        "not an earlier export",
    ),
    "a comparison of one run": (lambda p: task("compare", f"--config.runs={p.run()}"), "two runs"),
    "a comparison with broken metrics": (
        lambda p: task(
            "compare", f"--config.runs={p.run('a')},{p.run('b', metrics__jsonl='{}' + chr(10))}"
        ),
        "metrics.jsonl",
    ),
    "a distance to nothing": (
        lambda p: task("distance", "--config.a=ResNet18", "--config.b=ResNet19"),
        "'ResNet19'",
    ),
    "broken scores": (
        lambda p: task(
            *("distance", "--config.a=ResNet18", "--config.b=ResNet50"),
            f"--config.scores={p.file('s.json', '{}')}",
        ),
        "s.json",
    ),
    "latencies of a config without a search": (
        lambda p: task("latency", "--config.run=detect_digits"),
        "no search that knows a budget",
    ),
    "a budget of a broken table of latencies": (
        lambda p: [
            *(p.npz(), "--config.task=search", "--config.data.batch_size=3"),
            "--config.search.budget.latency=1.0",
            f"--config.search.budget.table={p.file('t.json', '{}')}",
        ],
        "t.json must be one JSON object",
    ),
    "an import of a broken file": (
        lambda p: task("import", p.genotype(), f"--config.checkpoint={p.file('x.npz', 'x')}"),
        "x.npz",
    ),
    "seeds of a config that there is not": (
        lambda p: task("seeds", "--config.run=configs/nowhere.py"),
        "configs/nowhere.py",
    ),
}
_TINY = """
def get_config():
    return tiny.config("")
"""
_NONE = """
def get_config():
    config = tiny.config("")
    config.train.epochs = None
    return config
"""


def _half(path):
    """Truncates a file; returns a flag that changes nothing."""
    path.write_bytes(path.read_bytes()[:100])
    return "--config.seed=0"


def _strange_class(folder):
    """Adds a folder whose name is no text; likewise."""
    path = os.path.join(os.fsencode(folder), b"caf\xe9")
    os.makedirs(path)
    Image.new("L", (8, 8)).save(os.path.join(os.fsdecode(path), "0.png"))
    return "--config.seed=0"


def test_there_are_many_kinds():
    assert len(CASES) >= 30


@pytest.mark.parametrize("kind", CASES)
def test_a_mistake_is_one_sentence(tmp_path, capsys, monkeypatch, kind):
    """Status 2, one line that names it, no traceback; no file that was there has changed."""
    arguments, named = CASES[kind]
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path)
    arguments = arguments(place)
    config = place.file(
        "tiny_config.py", "import tiny\n\n\ndef get_config():\n    return tiny.config('')\n"
    )
    if not arguments[0].startswith("--config="):
        arguments = [f"--config={config}", *arguments]
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments.append(f"--workdir={tmp_path / 'workdir'}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert main.main(["main", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error:")] == lines[-1:]
    assert named in lines[-1] and "Traceback" not in "".join(lines)
    for path, content in before.items():
        assert path.read_bytes() == content


def test_a_device_that_is_not_there_is_one_sentence(tmp_path):
    """JAX fails with an assertion where it is not installed for the device that is asked for."""
    for module, arguments in (
        ("main", ["--config", "configs/digits.py", f"--workdir={tmp_path / 'run'}"]),
    ):
        process = subprocess.run(
            [sys.executable, "-m", f"ddarts_jax.{module}", *arguments],
            env=os.environ | {"JAX_PLATFORMS": "cuda"},
            capture_output=True,
            text=True,
            cwd=tiny.ROOT,
        )
        assert process.returncode == 2, process.stderr
        last = process.stderr.splitlines()[-1]
        assert last.startswith("error: JAX finds no device with JAX_PLATFORMS=cuda")
        assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("meta", "named"),
    [(None, "is not a folder that task 'export' wrote"), ("{", "corrupt"), ("[]", "corrupt")],
)
def test_an_export_that_is_none(tmp_path, capsys, meta, named):
    """The prediction says so."""
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    assert predict.main([str(tmp_path), "image.png"]) == 2
    error = capsys.readouterr().err
    assert named in error and len(error.splitlines()) == 1

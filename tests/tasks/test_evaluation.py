"""Task 'evaluate': a network meets only images like those of its training, and no result is lost."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from ddarts_jax import main
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.models import weights
from ddarts_jax.runs import facts
from ddarts_jax.tasks import evaluation
from ddarts_jax.training import train, trained


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a config file and `run`, a workdir as a training leaves it."""
    place = tmp_path_factory.mktemp("evaluation")
    tiny.write_config(place)
    config = tiny.config(place / "digits.npz")
    dataset = data.load(config.data)
    workdir = place / "run"
    workdir.mkdir()
    facts.keep(workdir, config, dataset)
    tiny.GENOTYPE.save(workdir / "network_genotype.json")
    _, variables = train.build(config, tiny.GENOTYPE, dataset, "float32")
    weights.save_network(workdir / "network.npz", variables)
    write_json(workdir / "summary.json", {"task": "train", "test_accuracy": 0.5, "seconds": 9.0})
    return place


def evaluate(place, *flags, workdir=None):
    """Runs the task; returns the status."""
    arguments = [f"--config={place}/tiny_config.py", "--config.task=evaluate"]
    arguments += [f"--workdir={workdir or place / 'run'}", "--config.evaluate.batch_sizes=(1,)"]
    return main.main(["main", *arguments, *flags])


def content(place):
    return {path.name: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()}


def test_results_on_other_data_have_files_of_their_own(place, capsys):
    """The summary stays that of the training, whatever is evaluated."""
    summary = (place / "run" / "summary.json").read_bytes()
    assert evaluate(place) == 0
    own = json.loads((place / "run" / "evaluation.json").read_text())
    assert own["data"].endswith("digits.npz") and own["speed"][0]["batch_size"] == 1
    (place / "moved").mkdir()
    (place / "moved" / "digits.npz").write_bytes((place / "digits.npz").read_bytes())
    before = content(place)
    tiny.write_noise(place / "new [1].npz")
    assert evaluate(place, f"--config.data.name=npz:{place}/new [1].npz") == 0
    assert "evaluation-new_1_.json" in capsys.readouterr().out
    after = content(place)
    assert set(after) - set(before) == {
        *("evaluation-new_1_.json", "confusion-new_1_.svg", "confusion-new_1_.png"),
    }
    for name in set(before) - {"report.html", ".lock"}:
        assert after[name] == before[name], name
    # The same images elsewhere are the run's own.
    assert evaluate(place, f"--config.data.name=npz:{place}/moved/digits.npz") == 0
    moved = json.loads((place / "run" / "evaluation.json").read_text())
    assert moved["confusion"] == own["confusion"] and moved["data"] != own["data"]
    assert (place / "run" / "summary.json").read_bytes() == summary


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("data.image_size=16", "images of the shape [8, 8, 1], but"),
        ("data.test_fraction=0.9", "tested on 15, but here 71"),
        ("train.channels=6", "train.channels=4, but config.train.channels is 6"),
        ("train.stem=strided", "train.stem=plain, but config.train.stem is strided"),
    ],
)
def test_what_contradicts_the_training_is_refused(place, capsys, flag, named):
    """Both sides are named, and nothing is written."""
    before = content(place)
    assert evaluate(place, f"--config.{flag}") == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert content(place) == before


def test_images_that_the_network_has_learnt_are_refused(place, capsys):
    """A folder that has grown is split anew: some of its test images were trained on."""
    with np.load(place / "digits.npz") as file:
        images, labels = file["images"], file["labels"]
    np.savez(place / "grown.npz", images=images[10:], labels=labels[10:])
    assert evaluate(place, f"--config.data.name=npz:{place}/grown.npz") == 2
    assert "of the test images of" in capsys.readouterr().err.splitlines()[-1]


def test_weights_of_an_export_bring_their_facts(place, tmp_path):
    """Mean, deviation and architecture are those beside the weights; a run's results stay."""
    with np.load(place / "run" / "network.npz") as file:
        safetensors.numpy.save_file(dict(file), tmp_path / "weights.safetensors")
    tiny.GENOTYPE.save(tmp_path / "genotype.json")
    own = facts.of_run(place / "run")
    given = {"image_size": 8, "channels": 1, "crop": None, "mean": [0.25], "std": own["std"]}
    meta = {"format": 1, "class_names": own["class_names"], "preprocessing": given}
    meta |= {"network": {"channels": 4, "stem": "plain", "stem_multiplier": 1}}
    meta |= {"data": "npz:digits.npz", "test": {"images": 15, "accuracy": 0.5}}
    write_json(tmp_path / "meta.json", meta | {"test_checksum": own["test_checksum"]})
    flag = f"--config.weights={tmp_path}/weights.safetensors"
    before = content(place)
    assert evaluate(place, flag) == 0
    name = f"digits-of-{tmp_path.name}"
    changed = {file for file, new in content(place).items() if before.get(file) != new}
    assert changed - {"report.html", ".lock"} == {
        *(f"evaluation-{name}.json", f"confusion-{name}.svg", f"confusion-{name}.png"),
    }
    network = trained.load_network(tmp_path)
    assert network.mean == [np.float32(0.25)] and network.class_names == ("0", "1", "2")
    ours = trained.load_network(place / "run")
    for a, b in zip(jax.tree.leaves(network.variables), jax.tree.leaves(ours.variables)):
        np.testing.assert_array_equal(a, b)
    assert evaluate(place, flag, "--config.train.channels=6") == 2


def test_the_name_of_an_evaluation_is_a_file_s():
    """Whatever the data are called."""
    for data_name, expected in (
        ("folder:/a/photos b/", "photos_b"),
        ("npz:x/new.npz", "new"),
        ("folder:/a/set-v2.1", "set-v2.1"),
        ("cifar10_corrupted/fog_1:1.0.0", "1.0.0"),
        ("cifar10", "cifar10"),
        ("folder:.", "data"),
    ):
        assert evaluation._name(data_name, None) == expected


def test_data_of_the_same_name_do_not_replace_each_other(tmp_path):
    """The second gets a name with a hash, every time; the first keeps its own."""
    write_json(tmp_path / "evaluation-test.json", {"data": "npz:/a/test.npz"})
    apart = [
        evaluation.apart("test", name, tmp_path, "evaluation-{}.json")
        for name in ("npz:/a/test.npz", "npz:/b/test.npz", "npz:/b/test.npz", "npz:/c/test.npz")
    ]
    assert apart[0] == "test" and apart[1] == apart[2] and len(set(apart)) == 3
    assert all(name.startswith("test") for name in apart)


def test_the_summary_of_other_weights_is_that_of_the_newest_evaluation(place, tmp_path, capsys):
    """In a workdir without a run of its own; one of a search keeps the summary of its search."""
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path / f"of_{seed}")
        shutil.copytree(place / "run", folders[-1])
        config = tiny.config(place / "digits.npz")
        config.seed = seed
        _, variables = train.build(config, tiny.GENOTYPE, data.load(config.data), "float32")
        weights.save_network(folders[-1] / "network.npz", variables)
    for folder in folders:
        flag = f"--config.weights={folder}/network.npz"
        assert evaluate(place, flag, workdir=tmp_path / "new") == 0
        found = json.loads((tmp_path / "new" / "evaluation.json").read_text())
        summary = json.loads((tmp_path / "new" / "summary.json").read_text())
        assert summary["test_loss"] == found["loss"]
    write_json(tmp_path / "new" / "summary.json", {"task": "search"})
    assert evaluate(place, flag, workdir=tmp_path / "new") == 0
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == {"task": "search"}


def test_an_evaluation_without_facts_needs_no_facts(tmp_path):
    """A workdir of an older version is taken at its word."""
    config = tiny.config("")
    assert evaluation.own_facts(config, tmp_path) is None
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        evaluation.own_facts(config, tmp_path)

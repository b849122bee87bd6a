"""The paper's experiments: their settings, verdicts, tables and figures, from made-up runs."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import command
import common
import fig9_distances
import numpy as np
import pytest
import section53_memory
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_run

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.reports.comparison import Column
from ddarts_jax.runs.run import Run, read_run

SCRIPTS = sorted(path.stem for path in Path(common.__file__).parent.glob("*_*.py"))
TRAINED = [name for name in SCRIPTS if name != "section53_memory"]  # which runs something
VALUE = Column("value", "value", lambda run: run.value, 1, 2)


def groups_of(**lists):
    """Runs that have nothing but a value."""
    return {name: [SimpleNamespace(value=v) for v in found] for name, found in lists.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of a search that also knows its distance to a start."""
    root = tmp_path_factory.mktemp("runs")
    changes = {"search__start": {"genotype": "ResNet18", "epochs": 2}}
    paths = [write_run(root / str(k), seed=k, search_epochs=20, **changes) for k in range(3)]
    for path in paths:
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if row["phase"] == "search":
                row["distance_to_start"] = min(0.02 * row["epoch"], 0.1)
                row["positional_distance_to_start"] = 0.01 * row["epoch"]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [read_run(path) for path in paths]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("full", [False, True])
def test_every_setting_is_a_valid_pipeline_in_a_folder_of_its_own(full):
    """No experiment starts a run that its config refuses, nor one into another config's folder."""
    places = {}
    for script in TRAINED:
        for setting in importlib.import_module(script).settings(full).values():
            configuration.validate(setting.config)
            assert setting.config.task == "pipeline"
            assert setting.config.data.name == ("cifar10" if full else "digits")
            wanted = configuration.to_json(setting.config)
            assert places.setdefault(setting.name, wanted) == wanted
    assert len(set(places.values())) == len(places), "a run is made twice"


def test_small_baselines_are_those_of_configs():
    """Runs made by `--config configs/digits_X.py` serve the experiments."""
    settings = [
        s for script in TRAINED for s in importlib.import_module(script).settings(False).values()
    ]
    named = {setting.name: setting.config for setting in settings}
    paths = [path for path in common.CONFIGS.glob("digits*.py") if path.stem in named]
    assert {"digits", "digits_darts", "digits_resnet18"} <= {path.stem for path in paths}
    for path in paths:
        expected = configuration.based_on(str(path), path.name)
        assert configuration.to_json(named[path.stem]) == configuration.to_json(expected), path


def test_full_training_is_the_papers():
    """The full experiments train as configs/cifar10_train.py does, with its augmentation."""
    assert common.whole(True).config.train.augment.auto_augment == "cifar10"
    assert common.dartopti(True, "ResNet50").config.train.augment.auto_augment == "cifar10"
    assert common.dartopti(True).config.train.channels == 64
    assert common.baseline(True, "darts").config.parse.method == "darts"


def test_a_setting_that_changes_nothing_is_itself():
    """Experiments share the runs of the values that the config has anyway."""
    base = common.sweep(False)
    assert base.but("w_ab_0.5", {"search.ddarts.ablation.weight": 0.5}) is base
    other = base.but("w_ab_1", {"search.ddarts.ablation.weight": 1.0})
    assert other.name == "digits_small_w_ab_1"
    weights = [run.config.search.ddarts.ablation.weight for run in (other, base)]
    assert weights == [1.0, 0.5]


# ---------------------------------------------------------------- runs


def make_run(root, setting, seed, **arguments):
    """A made-up run in the place, and with the config, of a setting's."""
    workdir = write_run(root / setting.name / f"seed_{seed}", seed=seed, **arguments)
    configuration.save(configuration.with_seed(setting.config, seed), workdir / "config.json")
    return workdir


def test_only_what_has_not_ended_runs(tmp_path, monkeypatch):
    """Ended seeds are not repeated; interrupted and new ones run in their own folder and seed."""
    setting = common.whole(False)
    make_run(tmp_path, setting, 0)
    make_run(tmp_path, setting, 1, ended=False)
    started = []

    def run(config, workdir):
        started.append((config.seed, workdir.name))
        if not workdir.exists():
            make_run(tmp_path, setting, config.seed)

    monkeypatch.setattr(common.main, "run", run)
    found = common.run_seeds(setting, tmp_path, 3)
    assert started == [(1, "seed_1"), (2, "seed_2")]
    assert [each.config["seed"] for each in found] == [0, 1, 2]


def test_a_run_of_another_config_is_refused(tmp_path):
    """Numbers of another setting never enter a table; where the data lie does not matter."""
    setting = common.whole(False)
    workdir = make_run(tmp_path, setting, 0)
    elsewhere = configuration.with_seed(setting.config, 0)
    elsewhere.data.data_dir = "/elsewhere"
    assert common.has_ended(workdir, elsewhere)
    changed = setting.but("x", {"search.ddarts.zero_one_weight": 1.0}).config
    with pytest.raises(UserError, match=r"zero_one_weight: 7\.0, 1\.0.*--runs"):
        common.has_ended(workdir, changed)


def test_a_search_that_finds_no_network_has_ended(tmp_path, monkeypatch):
    """It counts as a run without accuracy and is not searched again; other errors end the program."""
    setting = common.whole(False)

    def run(config, workdir):
        make_run(tmp_path, setting, config.seed, ended=False, train_epochs=0)
        if config.seed == 0:
            Genotype(((), ()), (0, 1), (2,), None).save(workdir / "genotype.json")
        raise UserError("no way")

    monkeypatch.setattr(common.main, "run", run)
    (found,) = common.run_seeds(setting, tmp_path, 1)
    assert found.outcome("test_accuracy") is None
    assert common.has_ended(found.workdir, configuration.with_seed(setting.config, 0))
    with pytest.raises(UserError, match="no way"):
        common.run_seeds(setting, tmp_path, 2)


# ---------------------------------------------------------------- verdicts

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=5)


@given(NUMBERS, NUMBERS)
def test_judging_is_antisymmetric(a, b):
    """What holds of a against b fails of b against a, and what is open stays so."""
    groups = groups_of(a=a, b=b)
    opposite = {common.HELD: common.FAILED, common.FAILED: common.HELD, common.OPEN: common.OPEN}
    there = common.higher("x", groups, "a", "b", VALUE).verdict
    assert common.higher("x", groups, "b", "a", VALUE).verdict == opposite[there]


@given(NUMBERS, NUMBERS)
def test_a_difference_far_beyond_the_spread_counts(a, b):
    """However many seeds: groups that lie far apart are told apart."""
    groups = groups_of(a=[value + 1e5 for value in a], b=b)
    assert common.higher("x", groups, "a", "b", VALUE).verdict == common.HELD


def test_limit_is_that_of_the_t_test():
    """Against a worked example: variances 1 and 1, three seeds each, t(0.975, 4) = 2.776."""
    difference, limit = common.difference_and_limit([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert difference == -3
    assert limit == pytest.approx(2.7764451 * np.sqrt(2 / 3))


def test_single_seeds_tell_nothing():
    """One run has no spread, so no claim rests on it."""
    groups = groups_of(a=[9.0], b=[1.0, 1.1], c=[])
    for other in "bc":
        assert common.higher("x", groups, "a", other, VALUE).verdict == common.OPEN
    assert common.above("x", [9.0], 1.0, "y").verdict == common.OPEN
    assert common.in_every_run("x", [True]).verdict == common.OPEN


def test_best_needs_every_comparison():
    """The best value beats each other one; a single better one refutes it."""
    found = {"a": [5.0, 5.1, 4.9], "low": [1.0, 1.1, 0.9], "near": [4.95, 5.2, 4.8]}

    def judge(**more):
        groups = groups_of(**{"a": found["a"], "low": found["low"], **more})
        return common.best("x", groups, "a", VALUE)

    assert judge().verdict == common.HELD
    assert judge(near=found["near"]).verdict == common.OPEN
    refuted = judge(near=found["near"], high=[9.0, 9.1, 8.9])
    assert refuted.verdict == common.FAILED
    assert "lower than high" in refuted.why and "no clear difference to near" in refuted.why
    lacking = judge(near=[])
    assert lacking.verdict == common.OPEN
    assert lacking.why.endswith("; fewer than two runs with such a value: near")


def test_above_and_in_every_run():
    """One group against a number, and what is true or not of each run."""
    assert common.above("x", [2.0, 2.1, 1.9], 1.0, "y").verdict == common.HELD
    assert common.above("x", [2.0, 2.1, 1.9], 3.0, "y").verdict == common.FAILED
    assert common.above("x", [2.0, 2.1, 1.9], 2.05, "y").verdict == common.OPEN
    verdicts = [
        common.in_every_run("x", o).verdict for o in ([True] * 2, [False] * 2, [True, False])
    ]
    assert verdicts == [common.HELD, common.FAILED, common.OPEN]


# ---------------------------------------------------------------- tables and figures


def check_results(folder, name):
    """Everything is there and can be read; returns the table and the content of the JSON file."""
    text = (folder / f"{name}.md").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((folder / f"{name}.json").read_text(), parse_constant=refuse)
    assert content["claims"] and content["versions"]["jax"] and content["rule"] in text
    verdicts = re.findall(r"^- That .*\*\*(.+)\*\* at this setting \(.+\)\.$", text, re.MULTILINE)
    assert verdicts == [claim["verdict"] for claim in content["claims"]]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    ElementTree.parse(folder / f"{name}.svg")
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return text, content


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("script", TRAINED)
def test_results_are_written(script, count, runs, results, monkeypatch, capsys):
    """Table, figure, numbers and a verdict for each claim, of one seed and of three."""
    module = importlib.import_module(script)
    monkeypatch.setattr(common, "run_seeds", lambda setting, root, seeds: runs[:seeds])
    argv = ["--seeds", str(count), "--runs", "somewhere"]
    arguments = (module.__file__, module.__doc__, module.settings, module.conclude)
    assert command.experiment(*arguments, argv) == 0
    text, content = check_results(results, script)
    assert text in capsys.readouterr().out
    assert content["command"] == f"python benchmarks/paper/{script}.py --seeds {count}"
    # Where the runs lie is the machine's business.
    assert "somewhere" not in text and str(runs[0].workdir.parent) not in json.dumps(content)
    for label, paper in getattr(module, "PAPER", {}).items():
        assert f"| {label} | {paper} | {count} |" in text or label not in module.settings(False)
    if count == 1:
        assert {claim["verdict"] for claim in content["claims"]} == {common.OPEN}


@pytest.mark.parametrize("script", ["fig5_zero_one_weight", "table2_early_stop"])
def test_results_of_searches_without_a_network(script, runs, results, monkeypatch, tmp_path):
    """Where no run of any setting ended with a trained network the claims on accuracy stay open."""
    module = importlib.import_module(script)
    monkeypatch.setattr(Run, "outcome", lambda self, key: None)
    findings = module.conclude({label: runs for label in module.settings(False)})
    common.write(script, "Title", "command", common.RULE, findings)
    _, content = check_results(results, script)
    accuracies = [claim for claim in content["claims"] if "test accuracy" in claim["why"]]
    assert {claim["verdict"] for claim in accuracies} <= {common.OPEN}


def test_distances_settle_where_the_rule_says(runs):
    """The distance stands from epoch 5 on; the rule compares the epochs 10 to 14 with the 15th."""
    module = importlib.import_module("fig7_distance")
    assert [module.STABLE.of(run) for run in runs] == [15] * len(runs)
    (claim,) = module.conclude({"ResNet18": runs}).claims
    assert claim.verdict == common.HELD


def test_mean_distances_leave_a_network_and_itself_out(runs):
    """The diagonal is over pairs of different seeds; a lone seed has no such pair."""
    means = fig9_distances.between({"a": runs, "b": runs[:1]})
    pairs = fig9_distances.distance_matrix([run.network for run in runs])
    assert means[0, 0] == pytest.approx(pairs[np.triu_indices(3, 1)].mean())
    assert np.isnan(means[1, 1])
    assert means[0, 1] == means[1, 0]


def test_memory_is_that_of_a_compiled_step(monkeypatch):
    """The compiler plans more memory for more images."""
    monkeypatch.setattr(section53_memory, "STEPS", {"step": ("float32", 0.0)})
    monkeypatch.setitem(SPACES, "darts", ("avg_pool_3x3",))
    shape = {"cells": 1, "nodes": 1, "channels": 16, "size": 32}
    few, many = (section53_memory.measure(shape | {"batch": batch})["step"] for batch in (8, 32))
    assert 0 < few < many


def test_memory_is_compared_and_written(results, monkeypatch):
    """The larger program is named, at both sizes, with files of their own."""
    shapes = []

    def measure(shape):
        shapes.append(shape)
        return dict(zip(section53_memory.STEPS, (400, 100, 500, 60)))

    monkeypatch.setattr(section53_memory, "measure", measure)
    section53_memory.main([])
    section53_memory.main(["--full"])
    assert shapes == [section53_memory.SMALL, section53_memory.FULL]
    for name in ("section53_memory", "section53_memory_full"):
        text, content = check_results(results, name)
        assert "| float32, without the ablation loss | not given | 100 MB |" in text
        assert [claim["verdict"] for claim in content["claims"]] == [common.HELD, common.FAILED]


# ---------------------------------------------------------------- command line


def start(argv, settings=None):
    return command.experiment("x.py", "Title.", settings or (lambda full: {}), None, argv)


@pytest.mark.parametrize("argv", [["--seeds", "0"], ["--seeds", "many"], ["--sed", "3"], ["x"]])
def test_a_wrong_command_line_is_refused(argv, capsys):
    """Before anything runs, with the usage."""
    with pytest.raises(SystemExit) as caught:
        start(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_what_the_user_can_mend_and_interrupts_end_with_a_status(capsys):
    """One sentence each, no traceback, and no results."""

    def fail(error):
        def settings(full):
            raise error

        return settings

    assert start([], fail(UserError("Mend this."))) == 2
    assert start([], fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: Mend this.",
        "interrupted; the same command goes on",
    ]


@pytest.mark.parametrize("text", ["[]", "{", '{"search": 3}', "\x00", '{"seed": {"a": 1}}'])
def test_a_broken_config_of_a_run_is_no_crash(tmp_path, text):
    """A folder with a damaged config.json is refused in a sentence."""
    setting = common.whole(False)
    workdir = make_run(tmp_path, setting, 0)
    (workdir / "config.json").write_text(text)
    with pytest.raises(UserError):
        common.has_ended(workdir, configuration.with_seed(setting.config, 0))
    write_json(workdir / "config.json", json.loads(configuration.to_json(setting.config)))
    assert common.has_ended(workdir, setting.config)

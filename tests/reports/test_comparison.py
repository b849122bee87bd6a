"""The task `compare`: groups of runs, their statistics, and what it refuses."""

import json
import re
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_run

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.reports import comparison, page
from ddarts_jax.runs.run import read_run
from ddarts_jax.tasks import points


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch):
    """Leaves out plotly's 5 MB, which only a browser reads."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one setting, one of another."""
    root = tmp_path_factory.mktemp("runs")
    settings = [(7.0, 0), (7.0, 1), (7.0, 2), (0.5, 0)]
    return [
        write_run(root / f"{weight}_{seed}", seed=seed, search__ddarts__zero_one_weight=weight)
        for weight, seed in settings
    ]


def compare(workdir, runs):
    workdir.mkdir()
    return comparison.run(SimpleNamespace(runs=",".join(map(str, runs))), workdir)


def test_seeds_form_a_group_with_mean_and_spread(runs, tmp_path, capsys):
    """Groups are named by the value that differs; statistics are over the runs' own summaries."""
    found = compare(tmp_path / "out", runs)
    first, second = found["groups"]
    assert first["differs"] == {"search.ddarts.zero_one_weight": 7.0}
    assert second["differs"] == {"search.ddarts.zero_one_weight": 0.5}
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    accuracies = [
        json.loads((run / "summary.json").read_text())["test_accuracy"] for run in runs[:3]
    ]
    tested = first["statistics"]["test_accuracy"]
    assert tested["n"] == 3
    assert tested["mean"] == pytest.approx(np.mean(accuracies))
    assert tested["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert second["statistics"]["test_accuracy"]["std"] is None
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found

    table = (tmp_path / "out" / "comparison.md").read_text()
    mean, spread = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)
    assert f"| A | zero_one_weight=7.0 | 3 | {mean:.2f} ± {spread:.2f}% |" in table
    assert f"| B | zero_one_weight=0.5 | 1 | {100 * accuracies[0]:.2f}% |" in table
    assert table in capsys.readouterr().out


def test_the_distance_matrix_is_that_of_the_networks(runs, tmp_path):
    """Each with each, in the order in which the runs are named."""
    found = compare(tmp_path / "out", runs)
    networks = [Genotype.load(run / "network_genotype.json") for run in runs]
    np.testing.assert_array_equal(found["distances"], distance.distance_matrix(networks))
    assert found["networks"] == [1, 2, 3, 4]


def test_the_page_draws_every_run(runs, tmp_path):
    """One curve per run, the networks cell by cell, and a warning on the group without a spread."""
    compare(tmp_path / "out", runs)
    text = tiny.markup(tmp_path / "out" / "report.html")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    # Accuracy over two kinds of cost, with the two groups and the front; then curves.
    assert [len(chart["data"]) for chart in data["charts"][:4]] == [3, 3, 4, 4]
    assert text.count('<div class="cell">') == 4 * 3
    assert "Group B has a single run" in text
    assert "group A (zero_one_weight=7.0)" in text or "group B (zero_one_weight=0.5)" in text


def test_latency_is_compared_where_it_was_measured(tmp_path):
    """By task `evaluate`, of one image: a column, and a chart of accuracy over it."""
    first, second = write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2)
    speed = [{"batch_size": n, "milliseconds": 1.5 * n} for n in (64, 1)]
    (second / "evaluation.json").write_text(json.dumps({"speed": speed}))
    assert [read_run(path).latency for path in (first, second)] == [None, 1.5]
    found = compare(tmp_path / "out", [first, second])
    measured = found["groups"][0]["statistics"]["latency"]
    assert measured == {"mean": 1.5, "std": None, "n": 1}
    assert "1.50 ms (n = 1)" in (tmp_path / "out" / "comparison.md").read_text()
    assert "Accuracy and latency of one image" in tiny.markup(tmp_path / "out" / "report.html")


def test_a_search_in_stages_took_the_time_of_all_of_them(tmp_path):
    """Rows of 12.5 s of search and 3.2 s of training; the same for a sweep, and in the first stage."""
    staged, plain = write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2)
    write_run(staged / "stages" / "1", search_epochs=2, train_epochs=0, ended=False)
    (group,) = compare(tmp_path / "out", [staged, plain])["groups"]
    assert [run["search_seconds"] for run in group["runs"]] == [6 * 12.5, 4 * 12.5]
    assert group["runs"][0]["train_seconds"] == pytest.approx(3 * 3.2)
    took = [points.record(read_run(run))["seconds"] for run in (staged, plain)]
    assert took == pytest.approx([6 * 12.5 + 3 * 3.2, 4 * 12.5 + 3 * 3.2])
    young = write_run(tmp_path / "young", search_epochs=0, train_epochs=0, ended=False)
    write_run(young / "stages" / "1", search_epochs=1, train_epochs=0, ended=False)
    (column,) = [column for column in comparison.COLUMNS if column.key == "search_seconds"]
    assert column.of(read_run(young)) == 12.5


def test_every_group_of_a_chart_is_in_its_legend(tmp_path):
    """By its first run that has numbers there: the first of all may only have trained."""
    trained = write_run(tmp_path / "a", seed=0, search_epochs=0)
    whole = [write_run(tmp_path / f"b{seed}", seed=seed) for seed in (1, 2)]
    other = write_run(tmp_path / "c", search__channels=8)
    config = json.loads((whole[0] / "config.json").read_text()) | {"seed": 0}  # of the same group
    (trained / "config.json").write_text(json.dumps(config))
    found = compare(tmp_path / "out", [trained, *whole, other])
    assert [len(group["runs"]) for group in found["groups"]] == [3, 1]
    text = tiny.markup(tmp_path / "out" / "report.html")
    charts = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["charts"]
    curves = [
        [(curve["hovertemplate"][:8], curve["showlegend"]) for curve in chart["data"]]
        for chart in charts
        if all("legendgroup" in curve for curve in chart["data"])
    ]
    searched = [("A, run 2", True), ("A, run 3", False), ("B, run 4", True)]
    both = [("A, run 1", True), *((name, name[0] == "B") for name, _ in searched)]
    assert searched in curves and both in curves
    assert all(each in (searched, both) for each in curves)


def test_runs_that_only_differ_in_passing_are_one_group(tmp_path):
    """The place of the data and the number of checkpoints set no run apart; old configs have defaults."""
    first = write_run(tmp_path / "a", seed=1, data__data_dir="/elsewhere")
    second = write_run(tmp_path / "b", seed=2, checkpoint__keep_last=7)
    config = json.loads((second / "config.json").read_text())
    del config["parse"]["threshold"]
    (second / "config.json").write_text(json.dumps(config))
    (group,) = comparison.group([read_run(first), read_run(second)])
    assert list(group.runs) == [1, 2] and group.name == "all runs"


def test_keys_of_equal_last_parts_are_told_apart(tmp_path):
    """A group's name has the whole key where its last part alone would be ambiguous."""
    first = write_run(tmp_path / "a", search__channels=4, train__channels=8)
    second = write_run(tmp_path / "b", search__channels=6, train__channels=9, parse__threshold=0.5)
    names = [group.name for group in comparison.group([read_run(first), read_run(second)])]
    assert names == [
        "threshold=0.85, search.channels=4, train.channels=8",
        "threshold=0.5, search.channels=6, train.channels=9",
    ]


def test_unfinished_runs_and_runs_without_networks_are_compared(runs, tmp_path):
    """A run that has just begun has empty columns, and the page says that it has not ended."""
    young = write_run(tmp_path / "young", search_epochs=0, train_epochs=0, ended=False)
    found = compare(tmp_path / "out", [runs[0], young])
    assert found["networks"] == [1]
    assert "Not ended yet: run 2." in tiny.markup(tmp_path / "out" / "report.html")


def test_runs_on_different_images_have_no_winner(tmp_path, capsys):
    """By the checksum of the test images; an older run is told by its config."""
    runs = [write_run(tmp_path / f"{k}", train__channels=8 + k // 2, seed=k) for k in range(4)]
    for number, run in enumerate(runs):
        facts = {"test_checksum": "0a" if number < 3 else "0b", "image_shape": [8, 8, 1]}
        (run / "dataset.json").write_text(json.dumps(facts))
    assert compare(tmp_path / "same", runs[:3])["comparable"]
    assert "cannot be compared" not in capsys.readouterr().out
    assert not compare(tmp_path / "out", runs)["comparable"]
    assert "tested on different images (run 1, 2, 3; run 4)" in capsys.readouterr().out
    text = tiny.markup(tmp_path / "out" / "report.html")
    assert "cannot be compared" in text and "The best mean" not in text
    older = [write_run(tmp_path / f"o{k}", data__test_fraction=0.2 + k / 10) for k in range(2)]
    assert not compare(tmp_path / "older", older)["comparable"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_the_spread_is_the_sample_standard_deviation(values):
    """Mean and n - 1 in the divisor; a single value has no spread."""
    mean, spread = comparison.mean_and_spread(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-6)
    if len(values) == 1:
        assert spread is None
    else:
        assert spread == pytest.approx(statistics.stdev(values), abs=1e-6)


@pytest.mark.parametrize(
    ("named", "part"),
    [
        (lambda a, b: "", "at least two runs"),
        (lambda a, b: f"{a},", "at least two runs"),
        (lambda a, b: f"{a},{b},{a}/../{a.name}", "named twice"),
        (lambda a, b: f"{a},/nowhere/run", "There is no run in /nowhere/run"),
    ],
)
def test_a_mistake_is_one_sentence(runs, tmp_path, named, part):
    """It names the run or says how runs are named; nothing is written."""
    with pytest.raises(UserError, match=re.escape(part)) as refused:
        comparison.run(SimpleNamespace(runs=named(*runs[:2])), tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_broken_run_is_refused(runs, tmp_path):
    """A file that cannot be read is named, and so is a run without a config."""
    broken = write_run(tmp_path / "broken")
    (broken / "summary.json").write_text("{")
    with pytest.raises(UserError, match=re.escape(str(broken / "summary.json"))):
        compare(tmp_path / "out", [runs[0], broken])
    (broken / "summary.json").unlink()
    (broken / "config.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"Run {broken} has no config.json")):
        compare(tmp_path / "out2", [runs[0], broken])

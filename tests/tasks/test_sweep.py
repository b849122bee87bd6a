"""Sweeps: which points are run, how they are named, what an extended sweep keeps, table and pictures."""

import json
import re

import numpy as np
import pytest
import standin
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_detector

from ddarts_jax.configuration import sweep_config
from ddarts_jax.errors import UserError
from ddarts_jax.reports import page, trade_offs
from ddarts_jax.runs.run import read_run
from ddarts_jax.tasks import points, sweep


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A sweep of the tiny config, on two devices, run by the stand-in; nothing fails."""
    config = sweep_config()
    standin.install(config, tmp_path, monkeypatch)
    standin.mend(tmp_path)
    config.overrides = ()
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")  # 5 MB, which only a browser reads
    return config


def test_a_sweep_and_what_it_keeps_when_it_grows(config, tmp_path, monkeypatch):
    """Every combination with every seed; later values and seeds are run, what has finished is not."""
    workdir = tmp_path / "sweep"
    workdir.mkdir()
    config.seeds = (0, 2)
    config.grid = {"train.channels": (8,), "search.method": ("darts",)}
    sweep.run(config, workdir)
    first = workdir / "method=darts+channels=8"
    logs = {path: path.read_text() for path in workdir.glob("*/*/log.txt")}
    assert set(logs) == {first / f"seed_{seed}" / "log.txt" for seed in (0, 2)}
    ran = json.loads((first / "seed_2" / "config.json").read_text())
    assert (ran["train"]["channels"], ran["search"]["method"], ran["seed"]) == (8, "darts", 2)
    standin.add_speed(first / "seed_0", 3.5)

    pictures = []
    monkeypatch.setattr(trade_offs.drawing, "save", lambda figure, path: pictures.append(figure))
    config.grid = {"search.method": ["darts"], "train.channels": (16, 8)}
    found = sweep.run(config, workdir)
    assert {path: path.read_text() for path in logs} == logs, "a finished run was run again"
    assert json.loads((workdir / "sweep.json").read_text()) == found
    assert [point["values"] for point in found["points"]] == [
        {"search.method": "darts", "train.channels": channels} for channels in (16, 8)
    ]
    large, small = (point["table"] for point in found["points"])
    spread = np.std([0.5, 0.7], ddof=1)
    assert small["test_accuracy"] == pytest.approx({"mean": 0.6, "spread": spread, "n": 2})
    assert large["params"] == {"mean": 180, "spread": 0, "n": 2} and "latency" not in large
    assert small["latency"] == {"mean": 3.5, "spread": None, "n": 1}
    text = (workdir / "sweep.md").read_text()
    assert "| method | channels | n | test accuracy, % | parameters | MACs |" in text
    assert "| darts | 16 | 2 | 60.00 ± 14.14 | 180 ± 0 | 1,000 ± 0 | 2.0 ± 0.0 | - |" in text
    assert "| 2.0 ± 0.0 | 3.50 (n = 1) |" in text
    (figure,) = pictures
    assert [axes.get_xlabel().split(",")[0] for axes in figure.axes] == [
        *("parameters", "MACs per image", "latency of one image")
    ]
    assert "2 groups" in (workdir / "report.html").read_text()


def test_a_point_whose_runs_fail_has_a_row(config, tmp_path):
    """It is named by its folder, the other points finish, and the table shows the gap."""
    (tmp_path / "mended").unlink()
    config.grid = {"train.channels": (8,)}
    config.seeds = (1,)
    with pytest.raises(UserError, match=r"1 of 1 runs failed \(channels=8 seed 1: error: the disk"):
        sweep.run(config, tmp_path)
    assert "| channels | n |\n| --- | --- |\n| 8 | 0 |" in (tmp_path / "sweep.md").read_text()
    assert json.loads((tmp_path / "sweep.json").read_text())["failed"] == ["channels=8 seed 1"]


@pytest.mark.parametrize(
    "grid, named",
    [
        ({"search.epohcs": (3,)}, "search.epohcs=3: No key .* mean 'search.epochs'"),
        ({"search": (3,)}, "config.search is a group of keys"),
        ({"train.channels": (8, "many")}, "train.channels=many: .*many"),
        ({"train.channels": (8, 0)}, r"train.channels=0: config\.train\.channels is 0"),
        ({"train.decay": (0.5, 0.50)}, "decay"),
        ({"train.clip": (1, 1.0)}, "point clip=1.0 twice"),
        ({"seed": (0, 1)}, r"config\.seeds"),
        ({"train.epochs": (3, 4)}, r"config\.grid and config\.overrides both set train\.epochs"),
        ({"search.zero_one_weight": (3,)}, "both set search.ddarts.zero_one_weight"),
    ],
)
def test_a_mistake_in_the_grid_is_told_before_anything_runs(config, tmp_path, grid, named):
    """With the key that was meant, or the point that cannot be, in a sentence."""
    config.grid = grid
    config.overrides = ("train.epochs=3", "search.ddarts.zero_one_weight=2")
    with pytest.raises(UserError, match=named) as caught:
        sweep.run(config, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*=*"))


def test_values_reach_the_run_as_they_are(config, tmp_path):
    """Tuples and lists, texts with commas and none, former names of keys; each point its own folder."""
    config.grid = {
        "data.canvases": [[(64, 96)], ((64, 96), (96, 64))],
        "data.short_side": ((64,), (64, 96)),
        "backbone.genotype": ("", "a/b, 'c'"),
    }
    config.run = "configs/detect_digits.py"
    planned = points.plan(config, tmp_path)
    taken = {(p.values["data.canvases"], p.values["data.short_side"]) for p, *_ in planned}
    assert (((64, 96), (96, 64)), (64, 96)) in taken and len(taken) == 4
    assert {point.values["backbone.genotype"] for point, *_ in planned} == {"", "a/b, 'c'"}
    assert len({point.folder for point, *_ in planned}) == len(planned) == 8

    config.run, config.grid = "configs/digits.py", {"search.zero_one_weight": (3,)}
    ((point, wanted, _),) = points.plan(config, tmp_path)
    assert point.values == {"search.ddarts.zero_one_weight": 3.0}
    assert wanted.search.ddarts.zero_one_weight == 3.0


_VALUES = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.tuples(st.text()))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(("a.x", "b.x", "a.long_key", "c")), _VALUES, min_size=1))
def test_any_value_has_a_name_that_a_file_can_have(values):
    """One part of a path of at most 255 ASCII bytes without commas, which separate runs elsewhere."""
    name = points.folder_name(values)
    assert re.fullmatch(r"[\w.+=-]+", name, re.ASCII) and len(name) <= 255
    assert name == points.folder_name(dict(reversed(values.items())))


@settings(max_examples=50)
@given(st.lists(st.one_of(st.text(max_size=3), st.text(min_size=90)), min_size=2, unique=True))
def test_different_values_have_different_names(texts):
    """Also those of which the names keep nothing, or only an end in which they are equal."""
    texts += [text + "/" * 90 for text in texts]
    texts = set(texts)
    assert len({points.folder_name({"a": text, "b": 1}) for text in texts}) == len(texts)


def test_names_of_points():
    """What one reads: the last parts of keys, unless they are alike; the end of a path, with a hash."""
    name = points.folder_name({"train.epochs": 25, "search.method": "pc_darts", "train.clip": 0.1})
    assert name == "method=pc_darts+clip=0.1+epochs=25"
    name = points.folder_name({"train.channels": 8, "search.channels": 4})
    assert name == "search.channels=4+train.channels=8"
    name = points.folder_name({"data.name": "folder:/home/x/images"})
    assert re.fullmatch("name=folder_home_x_images-[0-9a-f]{8}", name)


def test_the_record_of_a_detector_has_its_ap(tmp_path):
    """Besides cost and time, as that of a network has its accuracy."""
    record = points.record(read_run(write_detector(tmp_path / "run")))
    assert record == {"box_ap": 0.5, "params": 1000, "macs": 10**6, "seconds": 120.0}

"""What the benchmarks share: options that become a config, timing in turns, and one JSON line."""

import json
import subprocess
import sys
from pathlib import Path

import harness
import pytest

from ddarts_jax.configuration import default_config, flatten
from ddarts_jax.searching import search

_BENCHMARKS = Path(harness.__file__).parent
_COMMON = {"benchmark", "date", "device", "machine", "load_before", "versions"}


def test_a_benchmark_prints_one_line_with_the_common_keys():
    """The cheapest one, as a process: its options, its results, and what it ran on."""
    command = [sys.executable, str(_BENCHMARKS / "distance.py"), "--pairs=1", "--cells=2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert found.keys() > _COMMON | {"ratio"}
    assert (found["benchmark"], found["pairs"], found["cells"]) == ("distance", 1, 2)
    assert found["versions"].keys() > {"python", "jax", "jaxlib", "flax", "platform", "numpy"}


def test_every_benchmark_reports_through_the_harness():
    """None has a parser or a JSON line of its own."""
    scripts = [path for path in _BENCHMARKS.glob("*.py") if "def main(" in path.read_text()]
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text()
        assert "harness.parser(" in text, path
        assert "argparse.ArgumentParser" not in text, path
        assert ("harness.report(" in text) == (path.stem != "on_gpu"), path


def test_options_become_a_config():
    """Those that are keys change it, the rest do not; defaults are the benchmark's or the common ones."""
    parser = harness.parser("Title.\nMore.", *harness.SIZES, "gradient", "dtype", cells=3, batch=64)
    assert parser.description == "Title."
    options = vars(parser.parse_args(["--nodes", "2", "--gradient", "none"]))
    assert options["cells"] == 3 and options["size"] == 32 and options["dtype"] == "float32"
    config = flatten(harness.search_config(options | {"ablation_weight": 0.25}))
    plain = flatten(default_config())
    assert {key: config[key] for key in config if config[key] != plain[key]} == {
        "data.batch_size": 64,
        "search.num_cells": 3,
        "search.num_nodes": 2,
        "search.ddarts.ablation.gradient": "none",
        "search.ddarts.ablation.weight": 0.25,
    }


def test_a_key_that_the_config_lacks_is_refused(monkeypatch):
    """An option whose key was renamed in the config fails instead of having no effect."""
    monkeypatch.setitem(harness._KEYS, "cells", "search.number_of_cells")
    with pytest.raises((AttributeError, KeyError)):
        harness.search_config({"cells": 3})


def test_a_blank_data_set_builds_a_supernet():
    """It has the shapes that a search asks a data set for."""
    dataset = harness.blank_dataset((8, 8, 1), num_classes=3, count=4)
    assert dataset.image_shape == (8, 8, 1) and dataset.train_images.shape == (4, 8, 8, 1)
    options = {"cells": 1, "nodes": 1, "channels": 2}
    net, variables, alphas = search.build(harness.search_config(options), dataset, "float32")
    assert alphas.shape == net.alphas_shape
    assert variables.weights["head"]["classifier"]["bias"].shape == (3,)


def test_programs_run_in_turns():
    """Each as often as asked, one after the other."""
    order = []
    programs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = harness.in_turns(programs, 2)
    assert order == ["a", "b", "a", "b"]
    assert {name: len(column) for name, column in seconds.items()} == {"a": 2, "b": 2}
    assert harness.spread([2.0, 1.00004, 1.5]) == [1.0, 2.0]


def test_only_paths_become_text():
    """What else JSON does not know is refused before the line is printed."""
    assert json.dumps({"directory": Path("x")}, default=harness._plain) == '{"directory": "x"}'
    with pytest.raises(TypeError, match="not for JSON"):
        harness._plain(object())

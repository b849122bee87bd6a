"""The task `distance` from the command line, and its files."""

import csv
import json

import numpy as np
import pytest

from ddarts_jax import main
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED
from ddarts_jax.tasks import distances as compare

RESNETS = ["--config.a=authors/ResNet18", "--config.b=authors/ResNet50"]


def run(workdir, *overrides):
    arguments = ["--config", "configs/distance.py", "--workdir", str(workdir), *overrides]
    return main.main(["main", *arguments])


def test_two_networks_cell_by_cell(tmp_path, capsys):
    """The paper's 0.0836, its cells, and the positional distance, on stdout and as JSON."""
    assert run(tmp_path, *RESNETS) == 0
    found = json.loads((tmp_path / "distance.json").read_text())
    a, b = AUTHORS["ResNet18"], AUTHORS["ResNet50"]
    assert (
        found["distance"] == distance.architecture_distance(a, b) == pytest.approx(0.0836, abs=5e-5)
    )
    assert found["positional_distance"] == distance.positional_distance(a, b)
    np.testing.assert_allclose(np.mean(found["cells"]), found["distance"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["cell", "0", "1", "2", "3", "mean"]
    assert "0.0836" in lines[5]


def test_a_score_file_takes_the_place_of_table_1(tmp_path):
    """With other scores the same networks have another distance."""
    scores = {name: 1.0 for name in distance.SCORES} | {"bottleneck_1x3x1": 100.0}
    (tmp_path / "scores.json").write_text(json.dumps({"scores": scores}))
    assert run(tmp_path, *RESNETS, f"--config.scores={tmp_path / 'scores.json'}") == 0
    found = json.loads((tmp_path / "distance.json").read_text())
    expected = compare.distances(AUTHORS["ResNet18"], AUTHORS["ResNet50"], scores)
    assert found["distance"] == expected["distance"] > 0.5


def test_many_networks_make_a_matrix_and_a_heatmap(tmp_path):
    """Names and files mix; the CSV has the names as its first row and column."""
    HANDCRAFTED["Xception"].save(tmp_path / "x.json")
    names = ["ResNet18", "ResNet50", str(tmp_path / "x.json")]
    assert run(tmp_path, f"--config.networks={tuple(names)}") == 0
    for name in ("distances", "positional_distances"):
        with open(tmp_path / f"{name}.csv", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["", *names] and [row[0] for row in rows] == names
        matrix = np.array([row[1:] for row in rows], float)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.all((matrix == 0) == np.eye(3, dtype=bool))
        assert (tmp_path / f"{name}.svg").stat().st_size
        assert (tmp_path / f"{name}.png").stat().st_size


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], ["--config.a=X", "--config.networks"]),
        (["--config.a=ResNet18"], ["Name two networks"]),
        (["--config.networks=('ResNet18',)"], ["at least two"]),
        ([*RESNETS, "--config.networks=('ResNet18', 'ResNet50')"], ["Name two networks"]),
        (["--config.a=ResNet18", "--config.b=ResNet19"], ["ResNet19", "ResNet50"]),
        ([*RESNETS, "--config.scores=/nowhere/s.json"], ["/nowhere/s.json"]),
        (["--config.c=ResNet18"], ["'c'"]),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, overrides, parts):
    """Status 2 and one sentence that names what is wrong."""
    assert run(tmp_path, *overrides) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("error: ", *parts):
        assert part in line

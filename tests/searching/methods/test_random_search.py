"""Tests of random search."""

import numpy as np
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, parse, reduction_positions
from ddarts_jax.genotypes.spaces import primitives_of
from ddarts_jax.reports import report
from ddarts_jax.runs import metrics
from ddarts_jax.runs.run import read_run
from ddarts_jax.searching.methods import random_search
from ddarts_jax.tasks import points
from ddarts_jax.training import feeds


@pytest.fixture
def config(tmp_path):
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    config.search.method = "random"
    config.search.random.candidates = 2
    config.search.epochs = 3
    return config


def search(config, workdir):
    workdir.mkdir(exist_ok=True)
    writer = metrics.MetricsWriter(workdir)
    dataset = data.load(config.data)
    try:
        return random_search.run(config, dataset, workdir, writer, "float32")
    finally:
        writer.close()


def test_the_best_candidate_wins_and_a_second_call_trains_nothing(config, tmp_path, monkeypatch):
    """Each trains on the weight split for its share of the epochs; what is finished is not repeated."""
    found = search(config, tmp_path / "run")
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    for number in (1, 2):
        own = metrics.read(tmp_path / "run" / "candidates" / str(number) / "metrics.jsonl")
        assert len(own) == 3 // 2  # epochs
        assert own[-1]["accuracy"] == pytest.approx(rows[number - 1]["accuracy"])
        assert rows[number - 1]["seconds"] == sum(row["seconds"] for row in own) > 0
    rng = np.random.default_rng(config.seed)
    drawn = [random_search.draw(config, data.load(config.data), rng)[1] for _ in rows]
    best = int(np.argmax([row["accuracy"] for row in rows]))
    assert found == drawn[best] == Genotype.load(tmp_path / "run" / "genotype.json")

    # The written alphas parse to the genotype.
    alphas = np.load(tmp_path / "run" / "alphas.npy")
    primitives = primitives_of(config.search.space)
    parsed = parse(1 / (1 + np.exp(-alphas)), primitives, "darts", 0.85, reduction_positions(2))
    assert parsed == found

    monkeypatch.setattr(feeds.Resident, "compile", lambda *_: pytest.fail("it steps again"))
    assert search(config, tmp_path / "run") == found
    assert metrics.read(tmp_path / "run" / "metrics.jsonl") == rows, "times too"

    # The workdir says whose it is: report and comparison read that, another config is refused.
    read = read_run(tmp_path / "run")
    assert read.config["search.random.candidates"] == 2 and read.candidates == rows
    words = tiny.markup(report.write(tmp_path / "run"))
    assert "candidate 2 of 2 of the random search" in words
    config.train.learning_rate = 0.5
    with pytest.raises(UserError, match=r"candidates of another config .*train\.learning_rate"):
        search(config, tmp_path / "run")


def test_seeds_of_a_random_search_are_summed_up(tmp_path):
    """A row of a candidate, also one of an older version without a time, makes a record."""
    (tmp_path / "summary.json").write_text('{"test_accuracy": 0.5}')
    rows = '{"phase": "random", "epoch": 1}', '{"phase": "train", "epoch": 1, "seconds": 2.0}'
    (tmp_path / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    assert points.record(read_run(tmp_path)) == {"test_accuracy": 0.5, "seconds": 2.0}


def test_candidates_see_the_weight_split_and_are_chosen_on_the_other(config):
    """The test images have no part in the search."""
    dataset = data.load(config.data)
    weights, alphas = dataset.halves(0)
    halves = random_search.between_halves(dataset, 0)
    np.testing.assert_array_equal(halves.train_images, dataset.train_images[weights])
    np.testing.assert_array_equal(halves.test_labels, dataset.train_labels[alphas])


def test_what_cannot_be_searched_is_said(config, tmp_path):
    """More candidates than epochs, or a threshold that no architecture reaches."""
    config.search.random.candidates = 4
    with pytest.raises(UserError, match=r"candidates=4 .*epochs=3"):
        search(config, tmp_path / "a")
    config.search.random.candidates, config.train.warmup_epochs = 2, 1
    with pytest.raises(
        UserError, match=r"candidates=2 candidates 1, no more than .*warmup_epochs=1"
    ):
        search(config, tmp_path / "c")
    config.search.random.candidates, config.train.warmup_epochs = 1, 0
    config.parse.method, config.parse.threshold = "sparse", 1.0
    with pytest.raises(UserError, match=r"threshold=1\.0"):
        search(config, tmp_path / "b")

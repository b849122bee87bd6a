"""Tests of random search."""

import numpy as np
import pytest
import tiny

from ddarts_jax import data, metrics, random_search, train
from ddarts_jax.errors import UserError
from ddarts_jax.genotype import Genotype, parse, reduction_positions
from ddarts_jax.primitives import SPACES


@pytest.fixture
def config(tmp_path):
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    config.search.random = 2
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
    rng = np.random.default_rng(config.seed)
    drawn = [random_search.draw(config, data.load(config.data), rng)[1] for _ in rows]
    best = int(np.argmax([row["accuracy"] for row in rows]))
    assert found == drawn[best] == Genotype.load(tmp_path / "run" / "genotype.json")

    # The written alphas parse to the genotype.
    alphas = np.load(tmp_path / "run" / "alphas.npy")
    parsed = parse(
        1 / (1 + np.exp(-alphas)), SPACES["darts"], "darts", 0.85, reduction_positions(2)
    )
    assert parsed == found

    monkeypatch.setattr(train.loop, "resident", lambda *_: pytest.fail("it steps again"))
    assert search(config, tmp_path / "run") == found


def test_candidates_see_the_weight_split_and_are_chosen_on_the_other(config):
    """The test images have no part in the search."""
    dataset = data.load(config.data)
    weights, alphas = dataset.halves(0)
    halves = random_search.between_halves(dataset, 0)
    np.testing.assert_array_equal(halves.train_images, dataset.train_images[weights])
    np.testing.assert_array_equal(halves.test_labels, dataset.train_labels[alphas])


def test_what_cannot_be_searched_is_said(config, tmp_path):
    """More candidates than epochs, or a threshold that no architecture reaches."""
    config.search.random = 4
    with pytest.raises(UserError, match=r"random=4 .*epochs=3"):
        search(config, tmp_path / "a")
    config.search.random = 1
    config.parse.method, config.parse.threshold = "sparse", 1.0
    with pytest.raises(UserError, match=r"threshold=1\.0"):
        search(config, tmp_path / "b")

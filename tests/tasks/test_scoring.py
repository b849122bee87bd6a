"""Operation scores: which networks are measured, resuming, and the file that `distance` takes."""

import dataclasses
import json
import logging

import pytest
import tiny

from ddarts_jax.configuration import score_config, validate, without_augmentation
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.handcrafted import HANDCRAFTED
from ddarts_jax.tasks import scoring


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.write_data(tmp_path_factory.mktemp("data") / "digits.npz", count=40)


def make_config(images):
    """Two primitives in the four places of a network of one block, one step each."""
    config = score_config()
    config.data.name = f"npz:{images}"
    config.data.batch_size = 16
    config.train.num_cells = 1
    config.train.channels = 2
    config.train.stem_multiplier = 1
    config.train.epochs = 1
    without_augmentation(config.train.augment)
    config.score.seeds = 2
    config.score.primitives = ("skip_connect", "avg_pool_3x3")
    return config


def test_one_operation_of_one_block_differs():
    """The proxy is ResNet18's block but for one convolution; 4 places in each of 3 blocks."""
    (block,) = HANDCRAFTED["ResNet18"].genes
    places = list(scoring.places(3))
    assert places == [(cell, node) for cell in range(3) for node in (2, 3, 4, 5)]
    for cell, node in places:
        genotype = scoring.proxy(3, cell, node, "max_pool_3x3")
        assert genotype.reductions == (1, 2)
        for position, entries in enumerate(genotype.cells):
            changed = set(entries) ^ set(block)
            expected = {entry for entry in block if entry[:2] == ("simple_conv_3x3", node)}
            expected |= {("max_pool_3x3", n, source) for _, n, source in expected}
            assert changed == (expected if position == cell else set())


def test_an_interrupted_measurement_goes_on(images, tmp_path, monkeypatch, caplog):
    """What is measured is kept, a line cut by a crash is not; the scores are medians of the bests."""
    config = make_config(images)
    dataset = data.load(config.data)
    real, calls = scoring.measure, []

    def quick(config, genotype, dataset, dtype):
        calls.append(genotype)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [0.1, 0.1 * len(calls)]

    monkeypatch.setattr(scoring, "measure", quick)
    with pytest.raises(KeyboardInterrupt):
        scoring.run(config, dataset, tmp_path, "float32")
    path = tmp_path / "measurements.jsonl"
    with open(path, "a") as file:
        file.write('{"primitive": "skip_con')
    with caplog.at_level(logging.INFO, "ddarts_jax"):
        result = scoring.run(config, dataset, tmp_path, "float32")
    assert "2 are measured already" in caplog.text
    assert len(calls) == 2 + 1 + 6, "what was measured was measured again"
    assert len(path.read_text().splitlines()) == 8
    # Calls 1, 2, 4, 5 are of the skip connection, 6 to 9 of the pool.
    assert result["scores"] == pytest.approx({"skip_connect": 30.0, "avg_pool_3x3": 75.0})
    assert result["means"] == pytest.approx({"skip_connect": 30.0, "avg_pool_3x3": 75.0})
    assert json.loads((tmp_path / "scores.json").read_text()) == result

    scores = distance.load_scores(tmp_path / "scores.json")
    measured = distance.edge_distance({"skip_connect"}, set(), scores)
    assert measured == pytest.approx(30 / 105)

    config.data.data_dir = "/elsewhere"  # does not change what is measured
    assert scoring.run(config, dataset, tmp_path, "float32")["scores"] == result["scores"]
    assert len(calls) == 2 + 1 + 6
    config.train.epochs = 2
    with pytest.raises(UserError, match=r"train\.epochs: 1, 2.*another --workdir"):
        scoring.run(config, dataset, tmp_path, "float32")
    assert scoring.measure is not real


def test_a_network_is_trained_for_every_seed(images):
    """The same seeds measure the same accuracies; they are fractions of the test images."""
    config = make_config(images)
    dataset = data.load(config.data)
    genotype = scoring.proxy(1, 0, 3, "skip_connect")
    accuracies = scoring.measure(config, genotype, dataset, "float32")
    assert len(accuracies) == 2
    assert all(0 <= accuracy * len(dataset.test_labels) % 1 < 1e-6 for accuracy in accuracies)
    config.seed, config.score.seeds = 1, 1
    assert scoring.measure(config, genotype, dataset, "float32") == accuracies[1:]


def test_a_training_that_diverges_does_not_count(images, tmp_path, monkeypatch, caplog):
    """It would score as chance does; where the trainings of all seeds diverge, the run ends."""
    config = make_config(images)
    dataset = data.load(config.data)
    config.train.learning_rate, config.train.clip = 1e30, 1e30
    config.train.epochs = 2  # the loss is NaN after the first step
    genotype = scoring.proxy(1, 0, 3, "skip_connect")
    with pytest.raises(
        UserError, match=r"diverged for each of 2 seeds: lower config\.train\.learn"
    ):
        scoring.measure(config, genotype, dataset, "float32")
    assert "with seed 1 diverged" in caplog.text

    monkeypatch.setattr(scoring, "measure", lambda *_: [None, 0.5])
    assert set(scoring.run(config, dataset, tmp_path, "float32")["scores"].values()) == {50.0}
    first = json.loads((tmp_path / "measurements.jsonl").read_text().splitlines()[0])
    assert first["accuracies"] == [None, 0.5]


def test_unknown_primitive_is_named(images):
    """A misspelt primitive stops the run before anything is loaded or trained."""
    config = make_config(images)
    for unknown, message in (("skip_conect", "names skip_conect: use only"), (1, "must be a text")):
        config.score.primitives = ("skip_connect", unknown)
        with pytest.raises(UserError, match=message):
            validate(config)


def test_measurements_on_other_data_are_not_continued(images, tmp_path, monkeypatch):
    """Corrected labels are other data, of the test images too; before a measurement all may change."""
    config = make_config(images)
    dataset = data.load(config.data)
    monkeypatch.setattr(scoring, "measure", lambda *_: [0.5])
    corrected = dataclasses.replace(dataset, test_labels=dataset.test_labels[::-1].copy())
    scoring._claim(config, corrected, tmp_path)
    scoring.run(config, dataset, tmp_path, "float32")
    with pytest.raises(UserError, match=r"measurements of another config .*test_images"):
        scoring.run(config, corrected, tmp_path, "float32")

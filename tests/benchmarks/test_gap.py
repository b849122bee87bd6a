"""What makes the discretisation gap: accuracies against those that the search itself reported."""

import json

import gap
import numpy as np
import pytest
import tiny

import ddarts_jax as dd
from ddarts_jax.runs import layout
from ddarts_jax.searching import search


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished search of an epoch, and its last row of metrics."""
    place = tmp_path_factory.mktemp("gap")
    config = tiny.config(tiny.write_data(place / "digits.npz"))
    config.update(task="search")
    config.search.update(epochs=1, gap_images=16)
    config.parse.update(method="darts")
    dataset = dd.load_data(config.data)
    found = dd.search(config, dataset, place / "run")
    rows = (place / "run" / layout.METRICS).read_text().splitlines()
    return place / "run", config, dataset, found, json.loads(rows[-1])


def test_the_whole_supernet_and_its_mask_are_as_the_search_has_measured_them(
    run, monkeypatch, capsys
):
    """From the command line, and with the same images, equal to the metrics of the last epoch."""
    workdir, _, _, _, row = run
    monkeypatch.setattr("sys.argv", ["gap.py", str(workdir), "--images=16", "--tuning=0,1"])
    assert gap.main() == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    accuracy = line["accuracy"]
    assert accuracy["supernet"] == pytest.approx(row["supernet_accuracy"], abs=1e-4)
    assert accuracy["darts"] == pytest.approx(row["discrete_accuracy"], abs=1e-4)
    assert accuracy["mask_tuned_0"] == accuracy["darts"]
    assert line["decided"] == pytest.approx(row["decided"], abs=1e-4)
    assert all(0 <= value <= 1 for value in accuracy.values())
    assert {"perturbation", "edge_ones", "mask_estimated", "mask_tuned_1"} <= set(accuracy)


def test_masks_keep_what_their_rules_keep(run):
    """Against a threshold taken entry by entry, and against the genotypes of the rules."""
    _, config, _, found, _ = run
    net = found.supernet
    alphas = tiny.normal(3, *net.alphas_shape, dtype=np.float32) * 3
    settings = config.parse.copy_and_resolve_references()
    settings.threshold = 0.6
    masks = gap.masks(net, alphas, settings)
    gates = 1 / (1 + np.exp(-alphas))
    np.testing.assert_allclose(masks["supernet"], gates, rtol=1e-5)
    expected = [g if g >= 0.6 else 0 for g in gates.ravel()]
    np.testing.assert_allclose(masks["above_threshold"].ravel(), expected, rtol=1e-5)
    np.testing.assert_array_equal(masks["complete"], masks["above_threshold"])
    for rule in gap.RULES:
        settings.method = rule
        kept = masks[rule] > 0
        assert kept.sum() == sum(map(len, search.derive(alphas, net, settings).cells))
        np.testing.assert_array_equal(masks[f"{rule}_ones"], kept)
        assert not (kept & (masks["above_threshold"] == 0)).any() or rule == "darts"


def test_a_search_that_decided_nothing_has_the_mask_of_what_it_found(run):
    """Where no gate reaches the threshold a rule keeps the best of every node, and not no network."""
    _, config, _, found, _ = run
    net = found.supernet
    alphas = 0.1 * tiny.normal(4, *net.alphas_shape, dtype=np.float32)
    masks = gap.masks(net, alphas, config.parse)
    assert not masks["above_threshold"].any() and masks["darts"].any()
    for rule in gap.RULES:
        np.testing.assert_array_equal(masks[rule], masks["darts"])


def test_training_and_statistics_are_those_of_the_gates(run):
    """Training under a mask makes it more accurate; statistics estimated twice stay as they are."""
    _, config, dataset, found, _ = run
    judge = gap.Judge(found.supernet, dataset, config, 0)
    gates = np.asarray(found.supernet.gates(found.alphas))
    tuned = judge.tuned(found.variables, gates, 3)
    assert judge.accuracy(tuned, gates) > judge.accuracy(found.variables, gates)
    once = judge.estimated(found.variables, gates)
    means = [
        own.statistics["stem"]["norm"]["mean"]
        for own in (found.variables, once, judge.estimated(once, gates))
    ]
    scale = np.abs(means[1]).max()
    assert np.abs(means[0] - means[1]).max() > 0.1 * scale
    np.testing.assert_allclose(means[1], means[2], atol=0.02 * scale)


def test_a_folder_without_a_search_is_an_error_in_a_sentence(tmp_path, monkeypatch, capsys):
    """Nothing is searched in it."""
    monkeypatch.setattr("sys.argv", ["gap.py", str(tmp_path / "none")])
    assert gap.main() == 2
    assert capsys.readouterr().err.startswith("error: ")

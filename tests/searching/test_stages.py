"""Searches in stages: what is handed on from one supernet to the next, and the dropout of skips."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddarts_jax.configuration import validate
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import edges
from ddarts_jax.models.relaxation import Relaxation
from ddarts_jax.reports.findings import findings
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.runs.run import read_run
from ddarts_jax.searching import search, stages
from ddarts_jax.training import feeds

ARRAYS = tiny.SHARED / "methods"
needs_arrays = pytest.mark.skipif(not ARRAYS.is_dir(), reason="needs the rivals' parity arrays")
NAMES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")


class Found:
    """The result of a stage of which only the alphas matter."""

    def __init__(self, stage, alphas):
        self.alphas = alphas

        class supernet:
            relaxation = Relaxation("sigmoid", NAMES, kept=stage.kept)

        self.supernet = supernet


def last_stage(config, workdir, alphas):
    """Runs stages with given alphas [number of stages][cells, E, O]; returns all stages."""
    seen = []

    def run(stage, folder, writer):
        seen.append(stage)
        assert folder == workdir / "stages" / str(len(seen)) and folder.is_dir()
        return Found(stage, alphas[len(seen) - 1])

    shared = config.search.method == "p_darts"
    last = stages.run_earlier(stages.by_options(config.search), shared, workdir, run)
    return [*seen, last]


def test_individual_cells_hand_on_what_is_left_by_algorithm_1(tmp_path):
    """5 cells become 8 as 0 0 1 2 2 3 4 4: each with the candidates of the cell that it repeats."""
    config = tiny.config("")
    config.search.num_cells = 8
    config.search.ddarts.stages, config.search.ddarts.keep = (5,), (2,)
    alphas = np.arange(5.0)[:, None, None] + [[[0.0, 1.0, 2.0], [5.0, 3.0, 4.0]]]
    alphas[3, 0] = [9.0, 1.0, 2.0]
    first, last = last_stage(config, tmp_path, [alphas])
    assert first == stages.Stage(5, keep=2) and last.num_cells == 8
    plain = ((False, True, True), (True, False, True))
    other = ((True, False, True), (True, False, True))
    assert last.kept == (*[plain] * 5, other, plain, plain)
    assert Relaxation("sigmoid", NAMES, kept=last.kept)  # can be hashed
    hash(last)


def test_shared_cells_keep_their_candidates_from_stage_to_stage(tmp_path):
    """What one stage has dropped stays away in the next; rates of the dropout go with the stages."""
    config = tiny.config("")
    config.search.method = "p_darts"
    config.search.p_darts.stages, config.search.p_darts.keep = (3, 4), (2, 1)
    config.search.p_darts.skip_dropout = (0.0, 0.4, 0.7)
    alphas = np.zeros((2, 2, 3))
    alphas[0, 0], alphas[0, 1], alphas[1] = [3, 2, 1], [1, 2, 3], [2, 3, 1]
    again = np.where(alphas == 2, 9, alphas)  # now the former second is the best
    found = last_stage(config, tmp_path, [alphas, again])
    assert [stage.num_cells for stage in found] == [3, 4, 2]
    assert [stage.skip_dropout for stage in found] == [0.0, 0.4, 0.7]
    kept = np.array(found[1].kept)
    np.testing.assert_array_equal(kept, alphas != 1)
    np.testing.assert_array_equal(found[2].kept, alphas == 2)


def test_depths_that_cannot_follow_each_other_are_refused_before_a_search(tmp_path):
    """Individual cells of 4 have no normal cell between the reductions that could be repeated."""
    config = tiny.config("")
    config.search.num_cells = 8
    config.search.ddarts.stages, config.search.ddarts.keep = (3,), (2,)
    with pytest.raises(UserError, match="Cannot expand to 8 cells"):
        last_stage(config, tmp_path, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": (2,), "keep": (2,)}, "at least 3 cells"),
        ({"stages": (3,), "keep": (2,), "num_cells": 2}, "before 2 cells in the last one"),
        ({"stages": (3,), "keep": (2,), "rates": (0.1,) * 3}, "cell_learning_rates"),
        ({"stages": (5,)}, "one for each stage"),
        ({"stages": (5,), "keep": (2,), "skip_dropout": (0.1,)}, "one more, or none"),
        ({"stages": (5,), "keep": (2,), "skip_dropout": (0.1, 1.0)}, "less than 1"),
        ({"stages": (5, 8), "keep": (2, 2)}, "of 3 candidates each stage must leave fewer"),
        ({"stages": (5,), "keep": (3,)}, "of 3 candidates each stage must leave fewer"),
        ({"stages": (5,), "keep": ("2",)}, "must be a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """Each in one sentence that names the key."""
    config = tiny.config("")
    config.search.num_cells = options.pop("num_cells", 5)
    config.search.alphas.cell_learning_rates = options.pop("rates", ())
    config.search.ddarts.update(options)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_stages_start_from_nothing():
    """A network as the start fixes the cells, which stages change."""
    config = tiny.config("")
    config.search.num_cells = 5
    config.search.ddarts.stages, config.search.ddarts.keep = (5,), (2,)
    config.search.start.genotype = "ResNet18"
    with pytest.raises(UserError, match="neither starts from a network"):
        validate(config)


def test_a_search_in_stages_and_its_continuation(tmp_path):
    """The alphas of what was dropped stay away from the result; a second call changes nothing."""
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    config.search.update(method="p_darts", epochs=1, num_cells=3, gap_images=0)
    config.search.space = ",".join(NAMES)
    config.search.p_darts.update(stages=(3,), keep=(2,), skip_dropout=(0.3, 0.3))
    config.parse.max_skips = 0
    dataset, results = data.load(config.data), []
    for _ in range(2):
        writer = MetricsWriter(tmp_path)
        try:
            results.append(search.run(config, dataset, tmp_path, writer, "float32"))
        finally:
            writer.close()
    found, again = results
    np.testing.assert_array_equal(found.alphas, again.alphas)
    assert found.genotype == again.genotype == Genotype.load(tmp_path / "genotype.json")
    earlier = np.load(tmp_path / "stages" / "1" / "alphas.npy")
    kept = np.array(found.supernet.relaxation.kept)
    assert earlier.shape == kept.shape == (2, 2, 4)
    for cell, edge in np.ndindex(2, 2):
        strongest = np.sort(np.argsort(earlier[cell, edge], kind="stable")[2:])
        np.testing.assert_array_equal(np.flatnonzero(kept[cell, edge]), strongest)
    for cell, genes in enumerate(found.genotype.genes):
        for name, _, source in genes:
            assert kept[cell, source, 1 + NAMES.index(name)]
            assert name != "skip_connect" or cell == 1, "a normal cell may have none"
    assert any("had 2 stages" in each for each in findings(read_run(tmp_path)))
    gates = np.asarray(found.supernet.gates(jnp.asarray(found.alphas)))
    assert gates.shape == (2, 2, 5) and not gates[..., :3][~kept[..., 1:]].any()


def test_a_search_by_dots(tmp_path, monkeypatch):
    """Two stages with epochs of their own, the second of two candidates an edge, and what is reported."""
    monkeypatch.setattr(feeds, "resident", tiny.stepless)
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    config.search.update(method="dots", epochs=2, num_cells=1, num_nodes=2, gap_images=0)
    config.search.warmup_epochs, config.parse.method = 1, "pairs"
    config.search.space = ",".join(NAMES)
    config.search.dots.operations.update(epochs=1, warmup_epochs=0, b1=0.5)
    validate(config)
    dataset, writer = data.load(config.data), MetricsWriter(tmp_path)
    try:
        found = search.run(config, dataset, tmp_path, writer, "float32")
    finally:
        writer.close()
    earlier, last = (read_run(folder) for folder in (tmp_path / "stages" / "1", tmp_path))
    assert [row["epoch"] for row in earlier.search] == [1]
    assert earlier.config["search.alphas.b1"] == 0.5 and earlier.config["search.warmup_epochs"] == 0
    assert len(last.search) == 2 and "weights_loss" in earlier.search[0]
    assert "weights_loss" not in last.search[0]

    # Both groups keep their best: none, max_pool_3x3 and skip_connect; sep_conv_3x3.
    before = np.load(tmp_path / "stages" / "1" / "alphas.npy")
    kept = np.array(found.supernet.relaxation.kept)
    assert before.shape == kept.shape == (1, 5, 4) and kept[..., 3].all()
    np.testing.assert_array_equal(kept[..., :3].argmax(-1), before[..., :3].argmax(-1))
    assert (kept.sum(-1) == 2).all()
    assert found.alphas.shape == (1, 5, 6) and not found.alphas.any()

    assert earlier.columns == ("none", *NAMES) and last.columns == ("none", *NAMES, "edge")
    shares = earlier.probabilities[1]
    np.testing.assert_allclose(shares[..., :3].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(shares[..., 3], 1)
    np.testing.assert_array_equal(last.probabilities[2][..., :4], np.where(kept, 0.5, 0))
    np.testing.assert_allclose(last.probabilities[2][..., 4], [[1, 1, 2 / 3, 2 / 3, 2 / 3]])


@pytest.mark.parametrize("written", ["sigmoid", "balance", "pairs"])
def test_the_report_knows_strengths_of_pairs(tmp_path, written):
    """As the supernet has them, at a temperature of 1; older runs of DOTS call their balance "pairs"."""
    kind = "balance" if written == "pairs" else written
    none = kind != "sigmoid"
    rule = Relaxation(kind, NAMES, none=none, topology="pairs", num_nodes=3)
    alphas = tiny.normal(0, 2, 9, len(rule.columns)).astype(np.float32)
    for folder in ("alphas", "genotypes"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "alphas" / "epoch_0001.npy", alphas)
    genes = [("skip_connect", node, 0) for node in (2, 3, 4)]
    Genotype([genes] * 2, (1,), (4,), None).save(tmp_path / "genotypes" / "epoch_0001.json")
    described = {"relaxation": written, "columns": rule.columns}
    (tmp_path / "supernet.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text(json.dumps(tiny.config("").to_dict()))

    run = read_run(tmp_path)
    assert run.columns == (*rule.candidates, "edge")
    *shares, strengths = np.moveaxis(run.probabilities[1], -1, 0)
    ours = rule.strengths(jnp.asarray(alphas))
    np.testing.assert_allclose(strengths, ours, rtol=1e-5)
    np.testing.assert_allclose(np.add.reduceat(ours, [0, 2, 5], -1), 2, rtol=1e-6)
    own = np.moveaxis(rule.probabilities(jnp.asarray(alphas)), -1, 0)
    np.testing.assert_allclose(shares[none:], own, rtol=1e-4, atol=1e-7)


def test_a_group_without_weights_alone_is_refused():
    """Nothing would be left beside it."""
    with pytest.raises(UserError, match="needs primitives with weights"):
        Relaxation("groups", NAMES[:2])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("parse.method", "darts", "config.parse.method=pairs"),
        ("search.method", "darts", "nothing compares pairs of edges here"),
        ("search.selection", "perturbation", "config.search.selection=alphas"),
        ("search.start.genotype", "ResNet18", "do not start from a network"),
        (
            "search.dots.operations.warmup_epochs",
            30,
            "less than config.search.dots.operations.epochs",
        ),
        ("search.dots.final_temperature", 0.0, "greater than 0"),
    ],
)
def test_what_does_not_go_with_dots_is_refused(key, value, message):
    """In one sentence that says what to do."""
    config = tiny.config("")
    config.search.method, config.parse.method = "dots", "pairs"
    validate(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("parse.method", "sparse", "config.parse.method=pairs"),
        ("search.ddarts.pairs", False, "config.search.ddarts.pairs=True"),
        ("search.ddarts.edge_strengths", True, "set one of them to False"),
        ("search.selection", "perturbation", "config.search.selection=alphas"),
        ("search.start.genotype", "ResNet18", "do not start from a network"),
        ("search.ddarts.temperature", 0.0, "greater than 0"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(key, value, message):
    """Of D-DARTS, where they are an option."""
    config = tiny.config("")
    config.search.ddarts.pairs, config.parse.method = True, "pairs"
    validate(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize("key", ["temperature", "final_temperature"])
def test_a_temperature_without_pairs_is_refused(key):
    """D-DARTS has nothing else that it would change."""
    config = tiny.config("")
    config.search.ddarts[key] = 0.1
    with pytest.raises(UserError, match="only pairs of edges have a temperature"):
        validate(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"earlier_partial_channels": (2,)}, "one number for each of the 0 stages"),
        ({"partial_channels": 3}, "search.channels is 2: it must be a multiple"),
        (
            {"stages": (5,), "keep": (2,), "earlier_partial_channels": (3,)},
            "one of every 3 channels",
        ),
        ({"kl_weight": -1.0}, "must be 0 or more"),
    ],
)
def test_options_of_drnas_that_do_not_fit_are_refused(options, message):
    """Before the first stage, not after it."""
    config = tiny.config("")
    config.search.update(method="drnas", num_cells=5)
    config.search.drnas.update(options)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_each_stage_of_drnas_has_its_own_partial_channels():
    """The config of a stage is that of the run but for what the stage changes."""
    config = tiny.config("")
    config.search.update(method="drnas", channels=12)
    config.search.drnas.update(
        stages=(5,), keep=(2,), earlier_partial_channels=(6,), partial_channels=4
    )
    first, last = stages.by_options(config.search)
    changed = first.of(config)
    assert changed.search.drnas.partial_channels == 6 and first.num_cells == 5
    changed.search.drnas.partial_channels = 4
    assert changed.to_dict() == config.to_dict() and last.of(config) is config


# Dropout of skip connections.


@needs_arrays
def test_the_dropout_falls_as_in_the_public_program():
    """By epoch, in 25 epochs of which 10 are fixed."""
    theirs = json.loads((ARRAYS / "parsing.json").read_text())["p_darts"]["skip_dropout"]
    epochs = theirs["fixed_epochs"], theirs["epochs"]
    rule = Relaxation("softmax", NAMES, skip_dropout=theirs["initial"], epochs=epochs)
    ours = [rule.dropout(epoch / epochs[1]) for epoch in range(epochs[1])]
    np.testing.assert_allclose(ours, theirs["by_epoch"], rtol=1e-5)


def test_dropout_keeps_the_expectation_and_follows_the_seed():
    """A share of 0.3 is dropped, the rest is 1 / 0.7 as large; nothing is dropped at a rate of 0."""
    x = jnp.ones((40, 50, 5))
    dropped = edges._dropped(x, 0.3, 0.125)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert abs((dropped == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_array_equal(dropped, edges._dropped(x, 0.3, 0.125))
    assert (dropped != edges._dropped(x, 0.3, 0.125 + 2**-20)).any()
    np.testing.assert_array_equal(edges._dropped(x, 0.0, 0.125), x)


def test_what_was_searched_is_measured_without_dropout():
    """Without a random key no number is dropped; with one, each edge and each step has its own."""
    rule = Relaxation("softmax", NAMES, skip_dropout=0.4, epochs=(0, 10))
    alphas = jnp.zeros((2, 5, 3))
    assert not rule.gates(alphas, 0.0)[..., -2:].any()
    rates, seeds = jnp.moveaxis(rule.gates(alphas, 0.0, jax.random.key(0))[..., -2:], -1, 0)
    np.testing.assert_allclose(rates, 0.4, rtol=1e-6)
    assert len(np.unique(seeds)) == seeds.size
    assert (seeds != rule.gates(alphas, 0.0, jax.random.key(1))[..., -1]).all()


# The optimizer of the alphas.


@needs_arrays
def test_the_clipped_step_of_the_public_program(x64):
    """Adam's first step after the norm of all alphas' gradients is cut to 5."""
    with np.load(ARRAYS / "p_darts_stage1.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if "alphas" in key or key == "meta"}
    meta = json.loads(str(arrays["meta"]))

    def both(name):
        return jnp.stack([arrays[f"{name}_{kind}"] for kind in meta["distinct"]])

    settings = tiny.config("").search.alphas
    theirs = meta["adam"]
    settings.update(learning_rate=theirs["lr"], final_learning_rate=theirs["lr"])
    settings.update({key: theirs[key] for key in ("b1", "b2", "weight_decay", "clip")})
    optimizer = search.optim.alphas_optimizer(settings, 10)
    alphas = both("alphas")
    gradient = both("ce_grad_alphas")

    def step(gradient):
        return optimizer.update(gradient, optimizer.init(alphas), alphas)[0]

    np.testing.assert_allclose(alphas + step(gradient), both("after_adam_alphas"), rtol=1e-7)
    # A gradient that is too large, in one cell, is cut to the same norm as a smaller one, over both.
    large = gradient.at[0].multiply(1e4)
    cut = large * (theirs["clip"] / jnp.linalg.norm(large))
    np.testing.assert_allclose(step(large), step(cut), rtol=1e-9)

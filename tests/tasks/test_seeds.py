"""Several seeds: what is run, skipped, failed and collected; and that they share one program."""

import json

import numpy as np
import pytest
import standin
import tiny

from ddarts_jax.configuration import parse_flags, seeds_config
from ddarts_jax.data import dataset as data
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.searching import search
from ddarts_jax.tasks import seeds
from ddarts_jax.training import feeds, schedule, train


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Three seeds of the tiny config, on two devices, run by the stand-in."""
    config = seeds_config()
    standin.install(config, tmp_path, monkeypatch)
    return config


def test_a_seed_that_fails_is_named_and_the_others_finish(config, tmp_path):
    """The table has those that finished; the same command then runs the failed one alone."""
    workdir = tmp_path / "runs"
    workdir.mkdir()
    with pytest.raises(UserError, match=r"1 of 3 runs failed \(seed 1: error: the disk is full\)"):
        seeds.run(config, workdir)
    table = json.loads((workdir / "seeds.json").read_text())
    assert list(table["seeds"]) == ["0", "2"] and table["failed"] == [1]
    logs = {seed: (workdir / f"seed_{seed}" / "log.txt").read_text() for seed in (0, 1, 2)}
    assert {logs[seed].split()[-1] for seed in (0, 2)} <= {"4", "5"}
    assert json.loads((workdir / "seed_0" / "config.json").read_text())["train"]["channels"] == 8

    standin.mend(tmp_path)
    result = seeds.run(config, workdir)
    assert (workdir / "seed_0" / "log.txt").read_text() == logs[0], "it was run again"
    assert result["failed"] == [] and list(result["seeds"]) == ["0", "1", "2"]
    assert result["table"]["test_accuracy"] == pytest.approx(
        {"mean": 0.6, "spread": np.std([0.5, 0.6, 0.7], ddof=1), "n": 3}
    )
    assert result["table"]["seconds"]["mean"] == 2.0
    text = (workdir / "seeds.md").read_text()
    assert "| mean | 60.00 | 100 | 1,000 | 2.0 |" in text and "| spread | 10.00 | 0 |" in text

    config.overrides = ("train.channels=8", "data.num_workers=0", "search.remat=False")
    assert seeds.run(config, workdir) == result | {"overrides": list(config.overrides)}
    config.overrides = ("train.channels=9",)
    with pytest.raises(UserError, match=r"seed_0 holds a run of another config.*channels: 8, 9"):
        seeds.run(config, workdir)


def test_runs_on_different_data_have_no_mean(config, tmp_path):
    """Labels that were corrected after some seeds had ended; nor do results lie among the images."""
    standin.mend(tmp_path)
    seeds.run(config, tmp_path)
    for seed in (0, 1, 2):
        facts = {"train_checksum": "0a", "test_checksum": "0a" if seed else "0b"}
        (tmp_path / f"seed_{seed}" / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"different data \(seed 0; seed 1, 2\)"):
        seeds.run(config, tmp_path)
    config.overrides = (f"data.name=folder:{tmp_path}",)
    with pytest.raises(UserError, match="lies inside the images"):
        seeds.run(config, tmp_path / "new")


def test_one_run_has_no_spread(config, tmp_path):
    """The table of a single seed says that n is 1, and no number where there is none."""
    config.seeds = (5,)
    result = seeds.run(config, tmp_path)
    assert result["table"]["test_accuracy"] == {"mean": 1.0, "spread": None, "n": 1}
    assert "| spread | - |" in (tmp_path / "seeds.md").read_text()


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("run", "configs/nowhere.py", "configs/nowhere.py"),
        ("overrides", ("search.epohcs=3",), "'search.epochs'"),
        ("overrides", ("seed=7",), "config.overrides has the key 'seed'"),
        (
            "run",
            "configs/score_operations.py",
            "of task 'score_operations', whose runs have no summary",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_runs(config, tmp_path, key, value, named):
    """A config file or an override that cannot be used is named once, not by each seed."""
    config[key] = value
    with pytest.raises(UserError, match=named):
        seeds.run(config, tmp_path)
    assert not list(tmp_path.glob("seed_*"))


@pytest.mark.parametrize("value", ["()", "(1, 1)", "(-1,)", "('a',)", "(0.5,)"])
def test_seeds_that_cannot_be(value):
    """No seed, one twice, one out of range or one that is not a whole number is refused."""
    with pytest.raises(UserError, match=r"config\.seeds"):
        parse_flags(["main", "--config=configs/seeds.py", f"--config.seeds={value}"])


def test_runs_that_differ_in_the_seed_share_their_programs(tmp_path):
    """Search and training of two seeds are the same text before XLA, so compiled once."""
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    dataset = data.load(config.data)
    plan = schedule.schedule(32, 8, epochs=1, chunk_steps=2)
    mesh = sharding.data_mesh(8)

    def programs(seed):
        config.seed = seed
        net, variables, alphas = search.build(config, dataset, "float32")
        init, step = search.search_step(net, config.search, plan.total)
        yield lower(init(variables, alphas), step, dataset.halves(seed), config.search, seed)
        net, variables = train.build(config, tiny.GENOTYPE, dataset, "float32")
        init, step = train.train_step(net, config.train, plan)
        yield lower(init(variables), step, (dataset.train,), config.train, seed)

    def lower(state, step, splits, settings, seed):
        images = feeds.on_device(dataset, splits, mesh)
        shape = dataset.image_shape
        running = feeds.start(state, step, len(splits), shape, plan, "float32", mesh)
        chunk = feeds.make_chunk(step, plan, settings.augment, "float32", mesh)
        return chunk.lower(running, images, np.uint32(seed)).as_text()

    for one, other in zip(programs(3), programs(4), strict=True):
        assert one == other

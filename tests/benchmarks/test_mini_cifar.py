"""Mini-CIFAR: its images, networks of equal cost, the queue, the statistics, from made-up results."""

import io
import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import anatomy
import images
import numpy as np
import protocol
import pytest
import ranking
import run
import run_all
import scipy.stats
import table
import tiny
from PIL import Image

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, num_edges, parse
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.genotypes.spaces import DARTS_PRIMITIVES
from ddarts_jax.runs import layout


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Runs, results and images in a folder of the test, and few resamples of what stands on pages."""
    size = protocol.MINI._replace(
        results=tmp_path / "results", runs=tmp_path / "runs", images=tmp_path / "images.npz"
    )
    monkeypatch.setattr(protocol, "MINI", size)
    monkeypatch.setattr(protocol, "SIZE", size)
    monkeypatch.setattr(ranking, "_RESAMPLES", 100)  # SciPy's tau takes a millisecond
    protocol.SIZE.results.mkdir()
    return tmp_path


def random_genotype(seed, rule="sparse", threshold=0.5):
    shape = 5, num_edges(2), len(DARTS_PRIMITIVES)
    probabilities = np.random.default_rng(seed).uniform(size=shape)
    return parse(probabilities, DARTS_PRIMITIVES, rule, threshold, (1, 3))


def write_result(method, seed, accuracy, **changes):
    """Writes a result as run.py does, of plausible numbers."""
    search = {"seconds": 100.0, "cpu_seconds": 200.0, "compile_seconds": 50.0}
    if method in (protocol.CHANCE, protocol.POOLED):
        search = {}
    elif method == "random_search":
        search["candidates"] = [0.2, 0.3]
    else:
        search |= {"supernet_accuracy": 0.4, "discrete_accuracy": 0.1, "decided": 0.9}
    result = {
        "method": method,
        "seed": seed,
        "protocol": protocol.fingerprint(),
        "changes": protocol.changes_of(method),
        "images": "0123",
        "genotype": repr(random_genotype(seed)),
        "channels": 10,
        "params_off": -0.02,
        "macs": 2_000_000 + seed,
        "test_accuracy": accuracy,
        "test_accuracy_best_epoch": accuracy + 0.01,
        "search": search,
        "device": "cpu",
        "versions": {"jax": "0.10.2", "device": "cpu"},
    }
    path = protocol.result_file(method, seed)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result | changes))


def write_results(accuracies):
    """Writes those of {method: accuracies of seeds 0, 1, ...}."""
    for method, values in accuracies.items():
        for seed, value in enumerate(values):
            write_result(method, seed, value)


# ---------------------------------------------------------------- images


def cifar(per_class, seed=0):
    """Noise in the shape of CIFAR-10's images, and labels in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(10), per_class))
    return rng.integers(256, size=(len(labels), 32, 32, 3), dtype=np.uint8), labels


def test_pixels_are_means_of_four():
    """Against a mean over NumPy's blocks."""
    whole, _ = cifar(1)
    wanted = whole.reshape(10, 16, 2, 16, 2, 3).astype(float).mean((2, 4))
    found = images.averaged(whole)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.round(wanted))


def test_as_many_images_of_each_class_whatever_their_order():
    """Stratified, and the same from a source that has another order, or lacks an image."""
    whole, labels = cifar(9)
    chosen = images.chosen(whole, labels, 4)
    assert np.bincount(labels[chosen]).tolist() == [4] * 10
    order = np.random.default_rng(1).permutation(len(labels))
    again = images.chosen(whole[order], labels[order], 4)
    np.testing.assert_array_equal(whole[order][again], whole[chosen])
    fewer, of_fewer = np.delete(whole, chosen[0], 0), np.delete(labels, chosen[0])
    kept = {image.tobytes() for image in fewer[images.chosen(fewer, of_fewer, 4)]}
    assert len(kept & {image.tobytes() for image in whole[chosen]}) == 39


def test_sheets_are_cut_into_images(tmp_path, monkeypatch):
    """Row by row, in order over both files; then mini-CIFAR's arrays, which the program reads."""
    whole, labels = cifar(4)
    monkeypatch.setattr(images, "_NUM_TRAIN", 20)
    monkeypatch.setattr(images, "IMAGES_PER_CLASS", 1)
    labels = np.concatenate([np.arange(20) % 10, np.arange(20) % 10])
    for part, name in enumerate(images._SHEETS):
        content = {}
        for k in (2 * part, 2 * part + 1):
            rows = whole[10 * k : 10 * k + 10].reshape(2, 5, 32, 32, 3)
            buffer = io.BytesIO()
            Image.fromarray(np.concatenate(np.concatenate(rows, 1), 1)).save(buffer, "PNG")
            content[f"sheet{k:02d}"] = np.frombuffer(buffer.getvalue(), np.uint8)
        np.savez(tmp_path / name, **content, **({} if part else {"labels": labels}))
    found = images.read(str(tmp_path))
    np.testing.assert_array_equal(np.concatenate([found.train_images, found.test_images]), whole)
    arrays = images.mini(found)
    assert arrays["images"].shape == (10, 16, 16, 3)
    assert arrays["test_images"].shape == (20, 16, 16, 3)
    assert sorted(arrays["labels"]) == list(range(10))


def test_files_that_do_not_belong_together_are_an_error_in_a_sentence(tmp_path, capsys):
    """Here neither of them has the labels."""
    for name in images._SHEETS:
        np.savez(tmp_path / name, other=np.zeros(3))
    assert images.main(["--data", str(tmp_path)]) == 2
    assert "not those of one data set" in capsys.readouterr().err


# ---------------------------------------------------------------- protocol


def test_every_method_is_a_config_that_the_program_takes():
    """Of different searches, but with one recipe to train, and channels that PC-DARTS can divide."""
    found = {name: protocol.config_of(name, 3) for name in protocol.METHODS}
    recipes = {configuration.to_json(config.train) for config in found.values()}
    assert len(recipes) == 1
    searches = {
        configuration.to_json({"search": config.search.to_dict(), "parse": config.parse.to_dict()})
        for config in found.values()
    }
    assert len(searches) == len(found) - 2  # those of chance search nothing, so they have D-DARTS's
    assert {config.seed for config in found.values()} == {3}
    assert found["ddarts_partial"].search.channels % 4 == 0
    assert found["pc_darts"].search.warmup_epochs < found["pc_darts"].search.epochs


def test_the_articles_size_is_another_config_with_results_of_its_own(places, monkeypatch):
    """Schedules of methods follow from its epochs; nothing of mini-CIFAR's is read or written."""
    small = protocol.fingerprint()
    protocol.select(full=True)
    assert protocol.fingerprint() != small
    assert protocol.result_file("darts", 0) == protocol.FULL.results / "darts_0.json"
    found = {name: protocol.config_of(name, 0) for name in protocol.ALL}
    assert {config.data.name for config in found.values()} == {"cifar10"}
    assert {found[name].search.epochs for name in protocol.ALL if name != "random_search"} == {50}
    assert found["bypass"].search.warmup_epochs == found[protocol.BASE].search.warmup_epochs == 5
    assert found["ddarts"].search.warmup_epochs == 0
    rates = [found[name].search.alphas.learning_rate for name in ("alphas_slow", protocol.BASE)]
    assert rates[1] == 2 * rates[0] == found["alphas_fast"].search.alphas.learning_rate / 2


@pytest.mark.parametrize("size", [protocol.MINI, protocol.FULL])
def test_a_factor_changes_one_thing_of_the_base(size, monkeypatch):
    """Each another one, and all are values that the program takes."""
    monkeypatch.setattr(protocol, "SIZE", size)
    base = configuration.flatten(protocol.config_of(protocol.BASE, 3))
    changes = set()
    names = [name for name in (*protocol.COMPARED, *protocol.FACTORS) if name != protocol.BASE]
    for name in names:
        own = configuration.flatten(protocol.config_of(name, 3))
        ((key, value),) = {key: value for key, value in own.items() if value != base[key]}.items()
        changes.add((key, value))
    assert len(changes) == len(names)
    assert not set(protocol.FACTORS) & set(protocol.METHODS)


@pytest.mark.parametrize(
    "target, channels", [(1, 1), (10, 1), (55, 2), (64, 2), (66, 3), (490, 7), (570, 8)]
)
def test_channels_are_those_with_the_nearest_cost(target, channels, monkeypatch):
    """Of 10 C^2 parameters: on either side of the target, at it, and below the smallest."""
    monkeypatch.setattr(protocol, "SIZE", protocol.MINI._replace(params=target))
    assert protocol.nearest_channels(lambda c: 10 * c * c) == channels


def test_results_of_another_protocol_are_refused(places):
    """Of other values, of a method that was changed since, of other images."""
    write_result("ddarts", 0, 0.5)
    assert list(protocol.read_results()) == ["ddarts"]
    for changes in ({"protocol": "x"}, {"changes": {"search.epochs": 1}}, {"images": "x"}):
        write_result("darts", 0, 0.5, **changes)
        with pytest.raises(UserError, match=r"another protocol|different images"):
            protocol.read_results()


# ---------------------------------------------------------------- one run


def test_a_run_searches_trains_and_is_not_repeated(places, monkeypatch, capsys):
    """With a program that only writes what it would leave: which configs it gets, what is kept of it."""
    configs = []
    monkeypatch.setattr(run.dd, "load_data", lambda data: None)

    def cost(config, genotype, dataset):
        assert genotype == random_genotype(5)
        return SimpleNamespace(params=400 * config.train.channels**2)

    monkeypatch.setattr(run.train, "cost", cost)

    def program(config, workdir):
        config = config.copy_and_resolve_references()
        configs.append(config)
        workdir.mkdir(parents=True)
        configuration.save(config, workdir / layout.CONFIG)
        random_genotype(5).save(workdir / layout.GENOTYPE)
        row = {"supernet_accuracy": 0.4, "discrete_accuracy": 0.1, "decided": 1.0, "accuracy": 0.3}
        rows = [row | {"phase": config.task, "epoch": k, "seconds": 2.0} for k in (1, 2)]
        (workdir / layout.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (workdir / layout.DATASET).write_text('{"images_checksum": "0123"}')
        numbers = dict.fromkeys(("macs", "test_accuracy", "test_accuracy_best_epoch"), 0.5)
        (workdir / layout.SUMMARY).write_text(json.dumps(numbers | {"params": 41_000}))

    monkeypatch.setattr(run.program, "run", program)
    assert run.main(["ddarts", "2"]) == 0
    search, train = configs
    assert (search.task, train.task, search.seed, train.seed) == ("search", "train", 2, 2)
    assert find_genotype(train.genotype) == random_genotype(5)
    result = protocol.read_results()["ddarts"][2]
    assert find_genotype(result["genotype"]) == random_genotype(5)
    assert result["params_off"] == pytest.approx(0.025)
    assert result["search"]["accuracy_by_epoch"] == [0.3, 0.3]
    assert result["search"]["seconds"] == 4 and result["search"]["discrete_accuracy"] == 0.1
    assert result["images"] == "0123" and result["versions"]["jax"]
    assert train.train.channels == result["channels"] == 10
    assert run.main(["ddarts", "2"]) == 0 and len(configs) == 2
    assert "is there" in capsys.readouterr().out
    write_result("ddarts", 2, 0.5, protocol="former")
    assert run.main(["ddarts", "2"]) == 2


def test_time_of_an_interrupted_run_is_not_half_of_it(tmp_path):
    """CPU seconds of the last start alone would be too few, so there are none.

    Of two tasks in one process each has its own seconds of compiling.
    """
    run_of = SimpleNamespace(rows_of_all_stages=lambda phase: [])
    clock = itertools.count(5, 10)
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "read_run", lambda path: run_of)
        patch.setattr(run.compilation, "spent", lambda: next(clock))
        for _ in range(2):
            numbers = run.timed(lambda: None, workdir)[1]
            assert numbers["cpu_seconds"] >= 0 and numbers["compile_seconds"] == 10
        workdir.mkdir()
        numbers = run.timed(lambda: None, workdir)[1]
        assert numbers["cpu_seconds"] is None and numbers["compile_seconds"] is None


# ---------------------------------------------------------------- queue


def test_the_queue_fills_the_table_evenly_and_skips_what_is_there(places):
    """Seeds outermost, the random networks of the ranking last."""
    pairs = list(run_all.planned(2))
    methods = list(protocol.METHODS)
    assert pairs[: 2 * len(methods)] == list(
        (method, seed) for seed, method in itertools.product((0, 1), methods)
    )
    assert pairs[2 * len(methods) :] == [("random", seed) for seed in range(2, protocol.NETWORKS)]
    write_result("darts", 1, 0.5)
    assert set(pairs) - set(run_all.missing(pairs)) == {("darts", 1)}
    factors = list(run_all.planned(2, factors=True))
    assert factors[0] == (protocol.BASE, 0) and len(factors) == 2 * (2 + len(protocol.FACTORS))


def started(monkeypatch, code):
    """Replaces runs by processes of Python code; returns the list of those that were started."""
    names = []

    def start(pair):
        names.append(pair.name)
        return subprocess.Popen([sys.executable, "-c", code.format(seed=pair.seed)])

    monkeypatch.setattr(run_all, "start", start)
    monkeypatch.setattr(run_all, "_POLL_SECONDS", 0.02)
    return names


def test_a_run_that_fails_does_not_end_the_queue(monkeypatch):
    """The others run, in order, and it is named."""
    names = started(monkeypatch, "raise SystemExit({seed} == 1)")
    pairs = [run_all.Pair("darts", seed) for seed in range(3)]
    assert run_all.run(pairs, 1, lambda: False) == [("darts", 1)]
    assert names == ["darts_0", "darts_1", "darts_2"]


def test_when_the_time_is_over_the_run_in_progress_is_stopped(monkeypatch):
    """Nothing more begins, and a run that was stopped has not failed."""
    names = started(monkeypatch, "import time; time.sleep(60)")
    pairs = [run_all.Pair("darts", seed) for seed in range(2)]
    looks = itertools.count()
    assert run_all.run(pairs, 1, lambda: next(looks) > 3) == []
    assert names == ["darts_0"]


def test_the_queue_needs_the_images(places, capsys):
    """Instead of 60 runs that fail."""
    assert run_all.main([]) == 2
    assert "images.py makes it" in capsys.readouterr().err


# ---------------------------------------------------------------- table


def test_holm_by_hand():
    """0.01, 0.03, 0.04 times 3, 2, 1, and never less than the one before; in the order given."""
    assert table.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert table.holm([0.5, 0.6]) == [1.0, 1.0]
    assert table.holm([]) == []


def test_the_table_is_that_of_scipy(places):
    """Means, deviations, paired differences with intervals and p of the seeds that both have."""
    rng = np.random.default_rng(0)
    accuracies = {
        "random": rng.normal(0.5, 0.02, 5),
        "darts": rng.normal(0.52, 0.02, 4),
        "ddarts": rng.normal(0.5, 0.02, 5),
    }
    write_results(accuracies)
    results = protocol.read_results()
    p_values = {}
    for method, (found, _) in table.comparisons(results, "random").items():
        own = accuracies[method]
        test = scipy.stats.ttest_rel(own, accuracies["random"][: len(own)])
        interval = test.confidence_interval()
        wanted = (len(own), own.mean() - accuracies["random"][: len(own)].mean())
        assert tuple(found) == pytest.approx((*wanted, interval.low, interval.high, test.pvalue))
        p_values[method] = test.pvalue
    assert list(p_values) == ["darts", "ddarts"]
    smaller, larger = sorted(p_values.values())
    corrected = sorted(p for _, p in table.comparisons(results, "random").values())
    assert corrected == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    text = table.text_of(results)
    mean, deviation = 100 * accuracies["darts"].mean(), 100 * accuracies["darts"].std(ddof=1)
    assert f"| DARTS | 4 | {mean:.2f} ± {deviation:.2f} |" in text


def test_all_of_chance_is_more_than_its_pairs(places):
    """Welch's test and its interval are SciPy's; three seeds are too few for it, so they have no row."""
    rng = np.random.default_rng(0)
    accuracies = {"random": rng.normal(0.5, 0.03, 9), "darts": rng.normal(0.52, 0.01, 4)}
    write_results(accuracies | {"ddarts": accuracies["darts"][:3]})
    results = protocol.read_results()
    ((method, (found, corrected)),) = table.comparisons(results, "random", table.unpaired).items()
    test = scipy.stats.ttest_ind(accuracies["darts"], accuracies["random"], equal_var=False)
    interval = test.confidence_interval()
    difference = accuracies["darts"].mean() - accuracies["random"].mean()
    assert tuple(found) == pytest.approx((4, difference, *interval, test.pvalue))
    assert method == "darts" and corrected == found.p
    low, high = (f"{100 * end:+.2f}" for end in interval)
    text = table.text_of(results)
    assert f"| DARTS | {100 * difference:+.2f} | {low} to {high} |" in text
    assert "all 9 of chance" in text


def test_one_run_has_no_spread_and_no_interval(places, capsys):
    """The page says so, has all columns in every row, and there is a picture."""
    assert table.main([]) == 2
    assert "no result" in capsys.readouterr().err
    for method in protocol.METHODS:
        write_result(method, 0, 0.5)
    write_result("darts", 1, 0.6)  # without its partner of the same seed
    assert table.main([]) == 0
    text, _, networks = (
        (protocol.SIZE.results / "README.md").read_text().partition("## What the net")
    )
    assert "| random search |" in networks
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in lines} == {len(table.HEADER) + 1}
    assert text.count("one run: no spread") == len(protocol.METHODS) - 1
    assert text.count("one pair: none") == len(protocol.METHODS) - 1
    assert "| random search | 1 |" in text and "| 30.0 | - |" in text
    assert (protocol.SIZE.results / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "DARTS, n = 2" in (protocol.SIZE.results / "accuracy.svg").read_text()


def test_seconds_of_different_devices_have_no_mean(places):
    """Only those of the device of most searches are in the table, which says so."""
    for seed, seconds in enumerate((10.0, 200.0, 300.0, 400.0)):
        device = {"device": "H100" if seed == 0 else "cpu"}
        write_result("ddarts", seed, 0.5, search={"seconds": seconds, "cpu_seconds": 1.0}, **device)
    write_result("darts", 0, 0.5, device="H100")
    text, *_ = table.text_of(protocol.read_results()).split("## What the networks")
    [ddarts] = [line for line in text.splitlines() if line.startswith("| D-DARTS |")]
    [darts] = [line for line in text.splitlines() if line.startswith("| DARTS |")]
    assert "| 300 | 1 |" in ddarts and "| - | - | 40.0 |" in darts
    assert "only of those on cpu." in text


def test_factors_are_compared_with_their_base(places, capsys):
    """In a table and a picture of their own, beside that of the methods."""
    for seed, accuracy in enumerate((0.5, 0.6)):
        write_result("random", seed, 0.4)
        write_result(protocol.BASE, seed, accuracy)
        write_result("bypass", seed, accuracy + 0.02)
    assert table.main([]) == 0
    methods, _, page = capsys.readouterr().out.partition("## One change at a time")
    factors, *_ = page.split("## What the networks")
    assert "hands its inputs on" not in methods and "| chance | 2 |" in methods
    assert "chance" not in factors
    assert "| a removed cell hands its inputs on | 2 | 57.00 ± 7.07 | +2.00 |" in factors
    picture = (protocol.SIZE.results / "factors" / "accuracy.svg").read_text()
    assert "a removed cell hands its inputs on, n = 2" in picture and "chance" not in picture


def test_the_intervals_of_factors_hold_together_and_share_their_spread(places):
    """Dunnett's statistic by hand; seeds that the base lacks and single runs take no part in it."""
    rng = np.random.default_rng(0)
    accuracies = {
        protocol.BASE: rng.normal(0.5, 0.02, 4),
        "bypass": rng.normal(0.53, 0.02, 2),
        "spread": rng.normal(0.5, 0.02, 3),
        "but_last": rng.normal(0.6, 0.02, 1),
    }
    write_results(accuracies)
    write_result("spread", 9, 0.9)
    found = table.simultaneous(protocol.read_results(), protocol.BASE)
    groups = [accuracies[method] for method in (protocol.BASE, "bypass", "spread")]
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    spread = np.sqrt(squares / (4 + 2 + 3 - 3))
    limits = []
    for method, count in (("bypass", 2), ("spread", 3)):
        (own, p) = found[method]
        assert own.count == count and own.p == p
        difference = accuracies[method].mean() - accuracies[protocol.BASE].mean()
        assert own.difference == pytest.approx(difference)
        assert own.low + own.high == pytest.approx(2 * difference)
        limits.append((own.high - own.low) / 2 / (spread * np.sqrt(1 / count + 1 / 4)))
        assert (p < 0.05) == (own.low > 0 or own.high < 0)
    # One limit for both, above Student's for a single comparison, below Bonferroni's for two.
    assert limits[0] == pytest.approx(limits[1], rel=1e-3)
    assert scipy.stats.t.ppf(0.975, 6) < limits[0] < scipy.stats.t.ppf(1 - 0.025 / 2, 6)
    assert found["but_last"][0].low is None and found["but_last"][1] is None


def test_the_committed_pages_show_the_committed_results():
    """results/README.md is what table.py writes, and the rows of the project's README are in it."""
    page = (protocol.SIZE.results / "README.md").read_text()
    assert page == table.text_of(protocol.read_results())
    methods, unpaired, *_ = (
        {line.split(" | ")[0]: line.split(" | ") for line in part.splitlines() if line[:2] == "| "}
        for part in page.split("\n## ")
    )
    against = {name: cells[1:4] for name, cells in unpaired.items()}
    whole = {name: cells[1:3] + against.get(name, ["-"] * 3) for name, cells in methods.items()}
    _, _, shown = (tiny.ROOT / "README.md").read_text().partition("| found by |")
    shown = [line.split(" | ") for line in shown.split("\n\n")[0].splitlines()[2:]]
    assert len(shown) > 5
    assert all(cells[1:6] == whole[cells[0]] for cells in shown)


def test_max_pooling_replaces_skips_and_averages():
    """On their edges, once where two of them share one; all else stays."""
    cell = (
        *(("skip_connect", 2, 0), ("avg_pool_3x3", 2, 0), ("sep_conv_3x3", 2, 1)),
        *(("max_pool_3x3", 3, 0), ("dil_conv_5x5", 3, 1)),
    )
    genotype = Genotype((cell, cell[:3]), reductions=(1,), concat=(2, 3))
    kept = (("max_pool_3x3", 2, 0), cell[2], cell[3], cell[4])
    assert run.pooled(genotype) == Genotype((kept, kept[:2]), reductions=(1,), concat=(2, 3))


# ---------------------------------------------------------------- anatomy


def test_shares_are_of_the_cells_of_the_network():
    """By hand: a kind of cells that stands twice in the network counts twice."""
    pool, conv = (("max_pool_3x3", 2, 0), ("sep_conv_3x3", 2, 1)), (("sep_conv_5x5", 2, 0),)
    genotype = Genotype((pool, conv), reductions=(2,), concat=(2,), seq=(0, 0, 1))
    found = anatomy.shares(genotype)
    assert found["max pooling"] == 2 / 5 and found["separable convolutions"] == 3 / 5
    assert sum(found.values()) == 1 and set(found) == set(anatomy.FAMILIES)


def test_every_primitive_is_of_one_family():
    """So that shares sum to 1."""
    for name in DARTS_PRIMITIVES:
        assert sum(name.startswith(beginning) for beginning in anatomy.FAMILIES.values()) == 1


def test_a_network_that_two_methods_found_counts_once(places):
    """With its later result: by hand, two of three pairs rank against the share of max pooling."""
    convs = [("sep_conv_3x3", 2, 0), ("sep_conv_3x3", 2, 1)]
    kinds = [convs, [convs[0], ("max_pool_3x3", 2, 1)], [("max_pool_3x3", 2, k) for k in (0, 1)]]
    for seed, kind in enumerate(kinds):
        genotype = repr(Genotype((tuple(kind),), reductions=(), concat=(2,)))
        write_result("random", seed, 0.5 + seed / 100, genotype=genotype, channels=4)
        if seed == 0:
            write_result("random_search", 0, 0.9, genotype=genotype, channels=4)
    text = anatomy.text(protocol.read_results())
    assert "| chance | 50 | 0 | 0 | 50 | 0 | 2.0 | 4.0 |" in text
    assert "all 3 different networks" in text
    assert "| tau with accuracy | -0.33 |" in text
    assert "| tau with that of chance alone | +1.00 |" in text


def test_what_searches_say_of_themselves_is_ranked_like_their_networks(places):
    """Over searches of methods and of changes; chance and random search have nothing to say."""
    for seed, (method, accuracy, supernet, decided) in enumerate(
        [("darts", 0.5, 0.3, 0.9), ("bypass", 0.6, 0.4, 0.5), ("ddarts", 0.7, 0.5, 0.1)]
    ):
        search = {"supernet_accuracy": supernet, "discrete_accuracy": 0.1, "decided": decided}
        write_result(method, seed, accuracy, search=search)
        if seed == 1:
            assert anatomy.signals_text(protocol.read_results()) == ""
    write_result("random", 3, 0.1)
    write_result("random_search", 3, 0.1)
    text = anatomy.signals_text(protocol.read_results())
    assert "| the supernet's accuracy | +1.00 |" in text and "over 3 searches" in text
    assert "| that of the mask of the network it found | +0.00 | +0.00 to +0.00 |" in text
    assert "| the share of decided gates | -1.00 |" in text


def test_supernets_have_their_accuracy_by_epoch(places):
    """Of methods with two searches that have it; earlier results do not."""
    for seed, curve in enumerate(([0.1, 0.3], [0.2, 0.3], None)):
        search = {"accuracy_by_epoch": curve} if curve else {}
        write_result("darts", seed, 0.5, search=search)
    write_result("ddarts", 0, 0.5, search={"accuracy_by_epoch": [0.1, 0.2]})
    write_result("random", 0, 0.5)
    text = anatomy.convergence_text(protocol.read_results())
    assert "|  | n | epoch 1 | epoch 2 |" in text
    assert "| DARTS | 2 | 15.0 ± 7.1 | 30.0 ± 0.0 |" in text and "D-DARTS" not in text
    assert anatomy.convergence_text({}) == ""


# ---------------------------------------------------------------- ranking


def test_tau_is_scipys_and_its_interval_surrounds_it():
    """Certain of equal and of opposite rankings, wide of noise, 0 where nothing is ranked."""
    a, b = np.random.default_rng(0).normal(size=(2, 24))
    found = ranking.kendall(a, b)
    assert found["tau"] == pytest.approx(scipy.stats.kendalltau(a, b).statistic)
    assert found["low"] < found["tau"] < found["high"] and found["high"] - found["low"] > 0.3
    assert ranking.kendall(a, a)["low"] == pytest.approx(1)
    assert ranking.kendall(a, -a)["high"] == pytest.approx(-1)
    assert ranking.kendall(np.ones(24), b) == {"tau": 0, "low": 0, "high": 0}


def test_what_a_supernet_says_of_networks(places):
    """Only a network's own gates are counted and shown to the supernet; the found one is nearest."""
    for seed in range(3):
        write_result("random", seed, 0.5)
    results = list(protocol.read_results()["random"].values())
    gates = np.random.default_rng(0).uniform(size=(5, num_edges(2), 7)).astype(np.float32)
    shown = []

    def accuracy_of(masked):
        shown.append(masked)
        return 0.1

    origin = random_genotype(1)
    found = ranking.said(accuracy_of, gates, DARTS_PRIMITIVES, origin, results)
    assert found.keys() == ranking.MEASURES.keys()
    assert np.argmax(found["nearness"]) == 1 and found["nearness"][1] == 0
    for seed, masked in enumerate(shown):
        count = sum(map(len, random_genotype(seed).cells))
        assert (masked > 0).sum() == count
        assert found["gates"][seed] == pytest.approx(masked.sum())
        assert found["mean_gate"][seed] == pytest.approx(masked.sum() / count)


def test_a_ranking_stands_on_the_page(places, monkeypatch, capsys):
    """It needs three networks and a supernet; then it is written and reported."""
    assert ranking.main([]) == 2
    for seed in range(4):
        write_result("random", seed, 0.5 + 0.01 * seed)
    assert ranking.main([]) == 2
    assert "run.py ddarts 0" in capsys.readouterr().err
    values = {key: [1, 2, 3, 4] for key in ranking.MEASURES}
    monkeypatch.setattr(ranking, "measured", lambda *arguments: values)
    assert ranking.main([]) == 0
    assert "| D-DARTS, seed 0 | 4 | sum of its gates | +1.00 |" in ranking.text()
    assert ranking.text() in table.text_of(protocol.read_results())

"""The page `report.html`: its sentences and drawings, from whole, partial and broken workdirs."""

import base64
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_run

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, edge_index
from ddarts_jax.genotypes.spaces import DARTS_PRIMITIVES
from ddarts_jax.reports import findings, page, palette, report
from ddarts_jax.runs.table import CHARTS


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch):
    """Leaves out plotly's 5 MB, which only a browser reads."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")


class Reader(HTMLParser):
    """Collects the text of a page by tag, its attributes and the data of its script."""

    def __init__(self, path):
        super().__init__()
        self.text, self.attributes, self.data, self.titles = {}, [], None, []
        self._open = []
        self.feed(tiny.markup(path))
        self.close()

    def handle_starttag(self, tag, attributes):
        """Remembers the tag."""
        self.attributes += attributes
        if "data-chart" in dict(attributes):
            self.titles.append(self.text["h3"][-1])
        if tag not in ("meta", "input", "img"):
            self._open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        """Every tag that is closed must be the last one opened."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        """Adds text to that of its tag."""
        if self._open and self._open[-1][1].get("id") == "data":
            self.data = json.loads(data, parse_constant=pytest.fail)
            packed = base64.b64decode(self.data["frames"])
            self.data["frames"] = json.loads(gzip.decompress(packed), parse_constant=pytest.fail)
        elif self._open:
            self.text.setdefault(self._open[-1][0], []).append(data.strip())

    def chart(self, title):
        """The traces of the first chart with this title."""
        return self.data["charts"][self.titles.index(title)]["data"]

    @property
    def words(self):
        """The first sentences."""
        return " ".join(self.text.get("li", []))


def report_of(workdir):
    return Reader(report.write(workdir))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, which no test changes."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


def test_a_finished_run_says_what_it_found(run):
    """Accuracy, cost, gap and what is kept stand in the first lines, with the run's own numbers."""
    summary = json.loads((run / "summary.json").read_text())
    words = report_of(run).words
    kept = Genotype.load(run / "genotype.json")
    for part in (
        "has ended after 3 min 1 s",
        f"{summary['test_accuracy']:.2%} on the test images",
        "63,210 parameters",
        "3.00 million MACs",
        "of images that the architecture learns from instead of",  # the gap is not of held-out images
        "discretisation gap",
        f"network's 3 cells keep {sum(map(len, kept.genes))} primitives",
    ):
        assert part in words


def test_every_metric_has_its_chart(run):
    """A metric that a run writes is drawn, with its numbers and a caption."""
    found = report_of(run)
    titles = [re.sub(r"\s+", " ", title) for title in found.text["h3"]]
    for title in (
        *("Cells", "Probabilities of the candidates", "Accuracy", "Cross-entropy"),
        *("Discretisation gap", "Decided candidates", "Share of each primitive", "Distance"),
        *("Marginal contribution", "Total loss", "Ablation loss", "Zero-one loss"),
        *("Learning rates", "Norms of the weights' steps", "Norm of the alphas' gradient"),
        *("Speed of the search", "Loss", "Learning rate", "Norms of the steps"),
        *("Accuracy by class", "Parameters and MACs", "Time", "Speed of the network", "Versions"),
    ):
        assert title in titles
    assert len(found.text["figcaption"]) == len(titles) and all(found.text["figcaption"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["phase"] == "search"]
    contributions = [row["marginal_contribution"] for row in rows]
    drawn = [trace["y"] for trace in found.chart("Marginal contribution")]
    np.testing.assert_allclose(np.transpose(drawn), contributions, rtol=1e-3)
    supernet, masked, gap = found.chart("Discretisation gap")
    np.testing.assert_allclose(np.subtract(supernet["y"], masked["y"]), gap["y"], atol=1e-4)
    shares = [f"{curve['y'][-1]:.1%}" for curve in (masked, supernet)]
    sentence = (
        "only the kept primitives that supernet is right on {} of images that the architecture"
    )
    assert f"{sentence} learns from instead of {{}}".format(*shares) in found.words, (
        "chart and words"
    )


def test_every_metric_of_the_table_is_drawn(run):
    """Each chart of the table is there with a curve for each of its metrics."""
    found = report_of(run)
    for chart in CHARTS:
        if chart.phase in ("random", "detect") or chart.title == "Distance":
            continue  # needs candidates, or a detector; some curves need a start
        titles = [i for i, title in enumerate(found.titles) if title == chart.title]
        curves = [len(found.data["charts"][i]["data"]) for i in titles]
        assert any(count >= len(chart.metrics) for count in curves), chart.title


def test_a_metric_without_an_entry_in_the_table_is_drawn_and_named(tmp_path):
    """A new method's metrics do not vanish silently."""
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["phase"] == "search":
            line |= {"acuracy": 0.5, "<b>temperature": [1.0, 2.0, 3.0], "mood": "good"}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report_of(run)
    assert "Not in the table of metrics: <b>temperature, acuracy, mood." in found.words
    assert found.chart("acuracy")[0]["y"] == [0.5] * 4
    assert [trace["y"][0] for trace in found.chart("<b>temperature")] == [1.0, 2.0, 3.0]


def test_the_candidates_of_a_random_search_are_drawn(tmp_path):
    """One point per candidate."""
    run = write_run(tmp_path / "run", search_epochs=0)
    row = {"phase": "random", "loss": 1.0, "seconds": 2.0}
    lines = [json.dumps(row | {"epoch": n, "accuracy": n / 4}) + "\n" for n in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(lines))
    (curve,) = report_of(run).chart("Candidates")
    assert (curve["x"], curve["y"]) == ([1, 2], [0.25, 0.5])


@pytest.mark.parametrize("relaxation", ["sigmoid", "softmax"])
def test_the_slider_holds_each_epochs_genotype_and_probabilities(tmp_path, relaxation):
    """Frame k draws the arrows of epoch k, as wide as the probabilities of that epoch's alphas."""
    run = write_run(tmp_path / "run", train_epochs=0)
    config = json.loads((run / "config.json").read_text())
    config["search"]["method"] = {"sigmoid": "ddarts", "softmax": "darts"}[relaxation]
    (run / "config.json").write_text(json.dumps(config))
    frames = report_of(run).data["frames"]
    assert [frame["epoch"] for frame in frames] == [1, 2, 3, 4]
    for frame in frames:
        genotype = Genotype.load(run / "genotypes" / f"epoch_{frame['epoch']:04d}.json")
        alphas = np.load(run / "alphas" / f"epoch_{frame['epoch']:04d}.npy").astype(float)
        weights = np.exp(alphas)
        divisor = weights.sum(-1, keepdims=True) if relaxation == "softmax" else 1 + weights
        probabilities = weights / divisor
        percents = np.reshape([heat["percents"] for heat in frame["heats"]], alphas.shape)
        np.testing.assert_allclose(percents / 100, probabilities, atol=0.0051)
        for index, (cell, svg) in enumerate(zip(genotype.genes, frame["cells"], strict=True)):
            names = {0: "k-2", 1: "k-1"}
            widths = dict(arrows(svg))
            expected, kept = {}, []
            for primitive, node, source in cell:
                place = edge_index(source, node), DARTS_PRIMITIVES.index(primitive)
                probability = probabilities[index][place]
                title = f"{primitive}: {names.get(source, source)} → {node} ({probability:.1%})"
                expected[title] = pytest.approx(max(0.8, 5 * probability), rel=1e-3)
                kept.append(np.ravel_multi_index(place, alphas.shape[1:]))
            assert widths == expected
            assert sorted(frame["heats"][index]["kept"]) == sorted(kept)


def arrows(svg):
    """(title, width) of each primitive's arrow in a drawn cell."""
    for group in ElementTree.fromstring(svg).iter("g"):
        yield group.find("title").text, float(group.find("path").get("stroke-width"))


@pytest.mark.parametrize(
    ("changes", "removed", "part"),
    [
        ({"search_epochs": 1, "train_epochs": 0, "ended": False}, (), "epoch 1 of 1 of the search"),
        ({"search_epochs": 0, "ended": False}, (), "epoch 3 of 3 of the training"),
        ({"train_epochs": 0}, (), "was not trained here"),
        ({}, ("alphas", "versions.json"), "has ended"),
        ({}, ("alphas", "alphas.npy", "genotypes"), "has ended"),
        ({}, ("config.json",), "has ended"),
        ({"ended": False}, ("metrics.jsonl",), "no finished epoch"),
    ],
)
def test_an_unfinished_run_shows_what_there_is(tmp_path, changes, removed, part):
    """No phase and no file is required: the page says how far the run is and draws the rest."""
    run = write_run(tmp_path / "run", **changes)
    for name in removed:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    assert part in report_of(run).words


def test_only_the_last_epochs_probabilities_are_known_of_older_runs(tmp_path):
    """Without alphas of each epoch the final ones are drawn, in the last frame."""
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "alphas")
    heats = [frame["heats"] for frame in report_of(run).data["frames"]]
    assert heats[:-1] == [None] * 3 and heats[-1]


@pytest.mark.parametrize(("pools", "warned"), [(1, False), (2, True)])
def test_parameter_free_primitives_that_take_over_are_warned_of(tmp_path, pools, warned):
    """The page warns if they are more than half of the kept primitives; half is not enough."""
    cell = [("skip_connect", 2, 0), ("sep_conv_3x3", 2, 1)] + [("max_pool_3x3", 3, 0)] * (pools - 1)
    run = write_run(tmp_path / "run")
    Genotype((cell,), (), (2, 3)).save(run / "network_genotype.json")
    assert ("Parameter-free primitives take over" in report_of(run).words) == warned


def test_a_cell_that_keeps_nothing_is_warned_of(tmp_path):
    """An empty cell does not form a valid network: the page names it."""
    run = write_run(tmp_path / "run")
    Genotype(((("sep_conv_3x3", 2, 0),), ()), (), (2,)).save(run / "network_genotype.json")
    assert "Nothing is kept in cell 1" in report_of(run).words
    (run / "summary.json").unlink()  # a search that goes on may still find something
    assert "Nothing is kept" not in report_of(run).words


@given(
    st.lists(st.sampled_from(DARTS_PRIMITIVES), max_size=9),
    st.lists(st.sampled_from(DARTS_PRIMITIVES), max_size=9),
)
def test_shares_are_a_distribution(first, second):
    """Shares of what is kept add up to 1, and the parameter-free ones to no more."""
    cells = [
        [(primitive, 2 + place, 0) for place, primitive in enumerate(cell)]
        for cell in (first, second)
    ]
    genotype = Genotype(cells, (), (2,))
    found, free = findings.shares(genotype), findings.parameter_free_share(genotype)
    if not first + second:
        assert found == {} and free is None
        return
    assert sum(found.values()) == pytest.approx(1)
    count = sum(primitive in findings.PARAMETER_FREE for primitive in first + second)
    assert free == pytest.approx(count / len(first + second))


def test_nothing_is_loaded_and_no_text_becomes_markup(tmp_path):
    """Names from outside stay text, in the page and in its data, and no attribute points elsewhere."""
    hostile = "</script><img src=http://x onerror=alert(1)>"
    run = write_run(tmp_path / "<b>run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["classes"][hostile] = {"images": 1, "accuracy": 0.5}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "versions.json").write_text(json.dumps({"device": hostile}))
    found = report_of(run)
    assert found.text["h1"] == ["<b>run: pipeline on digits"]
    assert hostile in found.text["td"]
    assert any(hostile in trace["x"] for c in found.data["charts"] for trace in c["data"])
    assert not {"src", "href", "onerror", "action"} & {name for name, _ in found.attributes}


def test_a_primitive_of_any_name_is_drawn(tmp_path):
    """A user may register primitives: each has a style and stays text, whatever its name."""
    names = ['</svg><script>alert(1)</script>"', "null & <b>", "größe", "mine", "ours", "{{ 1 }}"]
    cell = [(name, 2 + place // 2, place % 2) for place, name in enumerate(names)]
    run = write_run(tmp_path / "run")
    genotype = Genotype((cell,), (), (2, 3, 4))
    for name in ("network_genotype.json", "genotypes/epoch_0001.json"):
        genotype.save(run / name)
    for path in (run / "genotypes").glob("epoch_000[234].json"):
        path.unlink()
    shutil.rmtree(run / "alphas")
    (run / "alphas.npy").unlink()
    found = report_of(run)
    assert len(found.text["script"]) == 2 - 1  # page.js; plotly's is left out and the data are data
    (svg,) = found.data["frames"][0]["cells"]
    titles = [title for title, _ in arrows(svg)]
    assert [title.partition(": ")[0] for title in titles] == names
    look = palette.styles(names)
    assert len(set(look.values())) == len(names)
    assert look["mine"] == palette.styles(["mine"])["mine"]
    assert {"mine", "ours"} <= set(found.text["span"])


def test_an_installed_package_has_the_files_of_the_page():
    """`setup.py` lists every file that is not Python's."""
    folder = Path(page.__file__).parent
    assets = {p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"}
    listed = (folder.parents[1] / "setup.py").read_text()
    assert assets and all(f'"{name}"' in listed for name in assets)


def test_the_page_is_replaced_as_a_whole(tmp_path):
    """Writing again leaves one page and no temporary file."""
    run = write_run(tmp_path / "run")
    before = set(run.iterdir())
    assert report.write(run) == report.write(run) == run / "report.html"
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_a_live_report_is_written_at_most_every_half_minute_and_at_the_end(tmp_path):
    """The half minute starts when a page is finished."""
    run = write_run(tmp_path / "run", ended=False)
    now = 100.0
    live = report.Live(run, clock=lambda: now)
    times = []
    for now in (100.0, 101.0, 129.9, 130.0, 150.0):
        live.update()
        if (run / "report.html").exists():
            times.append(now)
            (run / "report.html").unlink()
    assert times == [100.0, 130.0]
    live.close()
    assert (run / "report.html").exists()


def test_a_live_report_that_fails_is_one_warning(tmp_path, caplog):
    """A report that cannot be written ends no run; at the end it is tried once more."""
    live = report.Live(tmp_path, every=0.0)
    for _ in range(3):
        live.update()
    live.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path) in caplog.text
    write_run(tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "moved" / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    live.close()
    assert (tmp_path / "report.html").exists()


def test_a_directory_without_a_run_is_refused(tmp_path):
    """One sentence that names it."""
    with pytest.raises(UserError, match=re.escape(f"There is no run in {tmp_path}")):
        report.write(tmp_path)


_FILES = (
    *("config.json", "metrics.jsonl", "summary.json", "evaluation.json", "versions.json"),
    *("network_genotype.json", "genotypes/epoch_0002.json", "alphas/epoch_0002.npy"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def change_a_value(path, data):
    """Replaces one value in a file of JSON, or of lines of JSON, by another of any kind."""
    text = path.read_text()
    lines = [
        json.loads(part) for part in (text.splitlines() if path.suffix == ".jsonl" else [text])
    ]
    inside = data.draw(st.sampled_from(lines))
    while True:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(inside[key], dict | list) and inside[key] and data.draw(st.booleans())):
            break
        inside = inside[key]
    inside[key] = data.draw(_JSON)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@settings(max_examples=40)
@given(st.sampled_from(_FILES), st.data())
def test_a_broken_file_is_drawn_or_refused(run, tmp_path_factory, name, data):
    """Whatever bytes are in a file, the page is intact or one sentence refuses it."""
    copy = tmp_path_factory.mktemp("broken") / "run"
    shutil.copytree(run, copy)
    whole = (copy / name).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(start + 40, len(whole))))
    (copy / name).write_bytes(whole[:start] + data.draw(st.binary(max_size=5)) + whole[stop:])
    _write_or_refuse(copy)


@settings(max_examples=40)
@given(st.sampled_from([name for name in _FILES if name.endswith(("json", "jsonl"))]), st.data())
def test_a_value_of_another_kind_is_drawn_or_refused(run, tmp_path_factory, name, data):
    """JSON that no run writes neither crashes nor breaks the page."""
    copy = tmp_path_factory.mktemp("changed") / "run"
    shutil.copytree(run, copy)
    change_a_value(copy / name, data)
    _write_or_refuse(copy)


def _write_or_refuse(workdir):
    try:
        found = report_of(workdir)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert found.text["h1"] and found.data
    finally:
        shutil.rmtree(workdir)


def test_a_cell_that_climbs_the_cross_entropy_is_warned_of(tmp_path):
    """The factor of g was negative in most epochs: the alphas followed the wrong way."""
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["phase"] == "search":
            line["factor_full"][2] = -0.5 if line["epoch"] > 1 else 0.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = report_of(run).words
    assert "the alphas of cell 2 climbed the cross-entropy" in words
    assert "climbed" not in report_of(write_run(tmp_path / "other")).words


def test_an_outburst_of_the_ablation_loss_is_warned_of(tmp_path):
    """Seen in short searches: Adam remembered the first epoch's gradient, and nothing was decided."""
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    searched = [line for line in lines if line["phase"] == "search"]
    searched[-1]["decided"] = 0.1

    def words():
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return report_of(run).words

    assert "mean contribution that is near 0" not in words()
    entropies = searched[0]["gradient_norm_cross_entropy"]
    searched[0]["gradient_norm_ablation"] = [40 * norm for norm in entropies]
    found = words()
    assert "had 40 times the gradient of the cross-entropy (median of the cells)" in found
    assert "10% of the candidates are decided. Try search.warmup_epochs=1 or more" in found
    searched[-1]["decided"] = 0.9
    assert "mean contribution that is near 0" not in words()


def test_the_time_of_a_search_is_that_of_all_its_stages(tmp_path):
    """4 epochs of 12.5 s in the last stage, 1 and 2 in those before; the curves are of the last."""
    workdir = write_run(tmp_path / "run")
    for number in (1, 2):
        folder = workdir / "stages" / str(number)
        write_run(folder, search_epochs=number, train_epochs=0, ended=False)
    found = report_of(workdir)
    cells = found.text["td"]
    assert cells[(start := cells.index("search")) : start + 3] == ["search", "7", "1 min 28 s"]
    assert cells[start + 3 : start + 6] == ["training", "3", "9.6 s"]
    assert {tuple(curve["x"]) for curve in found.chart("Discretisation gap")} == {(1, 2, 3, 4)}


def test_the_report_says_what_it_knows_of_time_and_parsing(tmp_path):
    """Time of compiling apart; epochs that were parsed by another rule than the result."""
    workdir = write_run(tmp_path / "run", parse__threshold=0.5)
    parsing = configuration.default_config().parse.to_dict()
    supernet = {"relaxation": "sigmoid", "primitives": list(DARTS_PRIMITIVES), "parse": parsing}
    (workdir / "supernet.json").write_text(json.dumps(supernet))
    summary = json.loads((workdir / "summary.json").read_text()) | {"compile_seconds": 61.0}
    (workdir / "summary.json").write_text(json.dumps(summary))
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    evaluation["confusion"] = np.diag(np.full(10, 36)).tolist()
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    text = tiny.markup(report.write(workdir))
    assert "ended after 3 min 1 s in all its starts, of which 1 min 1 s went into compiling" in text
    assert "Only the result is parsed by" in text and "Confusion matrix" in text
    (workdir / "supernet.json").write_text(
        json.dumps(supernet | {"parse": parsing | {"threshold": 0.5}})
    )
    assert "Only the result is parsed by" not in tiny.markup(report.write(workdir))

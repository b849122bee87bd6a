"""The table of metrics: it names everything that a run reports, and nothing else."""

import jax
import pytest
import tiny
import tiny_detector
from synthetic import write_run

from ddarts_jax import configuration
from ddarts_jax.data import dataset as data
from ddarts_jax.detection import coco_evaluation, evaluate, training
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.runs import metrics, rows
from ddarts_jax.runs.table import CHARTS, METRICS
from ddarts_jax.searching import search
from ddarts_jax.tasks import detection
from ddarts_jax.training import feeds

START = Genotype(
    genes=((("skip_connect", 2, 0),), (("max_pool_3x3", 2, 1),)),
    reductions=(1,),
    concat=(2,),
    seq=None,
)
NEEDS_A_START = {"distance_to_start", "positional_distance_to_start"}
# Than D-DARTS, by which `produced` searches.
OF_OTHER_METHODS = {"gradient_norm_implicit", "loss_divergence"}
COMPUTED = {key for own in METRICS.values() for key, metric in own.items() if metric.difference}


@pytest.fixture(scope="module")
def produced(tmp_path_factory):
    """{phase: rows} of a search from a start, a random search, its candidate's training, a detector."""
    root, monkeypatch = tmp_path_factory.mktemp("produced"), pytest.MonkeyPatch()
    monkeypatch.setattr(feeds, "resident", tiny.stepless)
    config = tiny.config(tiny.write_data(root / "digits.npz", 48))
    config.search.epochs, config.search.start.epochs = 2, 1
    config.search.gap_images = 8
    config.search.ddarts.beta_decay_weight = 1.0
    table = str(tiny.write_latencies(root / "latency.json"))
    config.search.budget.update(params=1.0, macs=1.0, latency=1.0, table=table)
    config.chunk_steps = 1
    dataset = data.load(config.data)
    found = []
    added = {"start": START, "alpha_loss": lambda gates, net: gates.sum((1, 2))}
    for name, arguments in (("search", added), ("random", {})):
        if name == "random":
            config.search.method, config.search.random.candidates = "random", 1
        writer = metrics.MetricsWriter(root / name)
        search.run(config, dataset, root / name, writer, "float32", **arguments)
        writer.close()
        found += metrics.read(root / name / "metrics.jsonl")
    found += metrics.read(root / "random" / "candidates" / "1" / "metrics.jsonl")
    found += of_a_detector(root, monkeypatch)
    monkeypatch.undo()
    return {phase: [row for row in found if row["phase"] == phase] for phase in METRICS}


def of_a_detector(root, monkeypatch):
    """The rows of a detector whose program only counts its steps and that finds nothing."""

    class Stepless:
        def __init__(self, *arguments):
            self.compile = lambda: self
            self.memory_analysis = lambda: None

        def __call__(self, running, images, truth, seed):
            state = running.state._replace(step=running.state.step + 1)
            return running._replace(state=state), {}

    def nothing(detector, variables, stream, pixels, dtype):
        evaluation = coco_evaluation.evaluate(stream.instances, [])
        return evaluate.Tested([], dict.fromkeys(("bbox", "segm"), evaluation))

    monkeypatch.setattr(training, "lower", Stepless)
    monkeypatch.setattr(detection, "evaluate_stream", nothing)
    (root / "detector").mkdir()
    file = tiny_detector.write_config(root / "detector")
    two_stages = [f"--config.{key}={value}" for key, value in tiny_detector.TWO_STAGES.items()]
    assert tiny_detector.start(file, root / "detector" / "run", *two_stages) == 0
    return metrics.read(root / "detector" / "run" / "metrics.jsonl")


@pytest.mark.parametrize("phase", METRICS)
def test_the_table_holds_every_metric_of_a_phase(produced, phase):
    """A metric that a program adds, renames or drops needs its line in the table."""
    own = produced[phase]
    assert own and rows.unknown(own) == []
    elsewhere = COMPUTED | OF_OTHER_METHODS
    assert {key for row in own for key in row} == {*rows.LABELS, *METRICS[phase]} - elsewhere
    for key, metric in METRICS[phase].items():
        if key in OF_OTHER_METHODS:
            continue
        assert bool(rows.num_cells(own, key)) == metric.per_cell
        assert rows.last(own, key) is not None or metric.per_cell


@pytest.mark.parametrize("method", sorted(set(configuration.METHODS) - {"random"}))
def test_the_table_holds_the_metrics_of_every_method(method):
    """A method may report fewer metrics than D-DARTS, but none that nobody knows."""
    config = tiny.config("")
    config.search.method, config.search.channels = method, 8
    net, variables, alphas = search.build(config, _Shape(), "float32")
    init, step = search.search_step(net, config.search, 4)
    images = jax.ShapeDtypeStruct((8, 8, 8, 1), "float32"), jax.ShapeDtypeStruct((8,), "int32")
    state, key = init(variables, alphas), jax.random.key(0)
    _, measured = jax.eval_shape(step, state, key, images, images)
    assert measured and set(measured) <= set(METRICS["search"])


class _Shape:
    """As much of a data set as a supernet is built by."""

    channels, image_size, num_classes, image_shape = 1, 8, 3, (8, 8, 1)


def test_made_up_runs_have_the_metrics_of_real_ones(tmp_path):
    """The reports of the other tests are tested with every metric of the table."""
    found = metrics.read(write_run(tmp_path / "run") / "metrics.jsonl")
    for phase in ("search", "train"):
        keys = {key for row in found if row["phase"] == phase for key in row}
        assert keys == {*rows.LABELS, *METRICS[phase]} - COMPUTED - NEEDS_A_START


def test_a_metric_stands_in_one_chart():
    """Titles and keys are unique in a phase, so that no chart hides another."""
    for phase, own in METRICS.items():
        charts = [chart for chart in CHARTS if chart.phase == phase]
        assert len({chart.title for chart in charts}) == len(charts)
        assert sum(len(chart.metrics) for chart in charts) == len(own)
    assert {chart.phase for chart in CHARTS} == set(METRICS)


def test_series_of_numbers_gaps_and_misspelt_keys():
    """Anything but a finite number is a gap; an unknown key is a mistake of the reader's."""
    search_rows = [
        {"phase": "search", "epoch": 1, "supernet_accuracy": 0.75, "discrete_accuracy": 0.5},
        {"phase": "search", "epoch": 2, "supernet_accuracy": None, "mine": [1, "x", 10**400]},
    ]
    assert rows.series(search_rows, "supernet_accuracy") == [0.75, None]
    assert rows.series(search_rows, "discretisation_gap") == [0.25, None]
    assert rows.last(search_rows, "discretisation_gap") == 0.25
    assert rows.unknown(search_rows) == ["mine"] and rows.num_cells(search_rows, "mine") == 3
    assert [rows.series(search_rows, "mine", cell)[1] for cell in range(4)] == [1, None, None, None]
    assert rows.series([], "loss") == [] and rows.last([], "loss") is None
    for found in ([], search_rows):
        with pytest.raises(KeyError, match="supernet_acuracy"):
            rows.series(found, "supernet_acuracy")

"""Every file that is read may hold anything: it is read, or refused in one sentence."""

import copy
import io
import json
import string

import jax
import numpy as np
import pytest
import synthetic
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddarts_jax import configuration, predict
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.models import latency, network, weights
from ddarts_jax.reports import findings
from ddarts_jax.runs import facts, identity, metrics, rows
from ddarts_jax.runs.run import read_run
from ddarts_jax.tasks.export import trained_run
from ddarts_jax.training import trained
from ddarts_jax.training.checkpoint import Checkpoints

FUZZ = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(string.printable, max_size=8)
    | st.sampled_from(["", "sep_conv_3x3", "train", "\udce9", 0, 1, 2, -1, 1e308]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=6,
)


def _places(document, path=()):
    """Paths of everything in a JSON document."""
    yield path
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from _places(value, (*path, key))


@st.composite
def texts(draw, document):
    """The text of a document with one part replaced or removed, or damaged, or another document."""
    kind = draw(st.sampled_from(["replaced", "removed", "damaged", "other"]))
    if kind == "other":
        return json.dumps(draw(_VALUES)).encode()
    document = copy.deepcopy(document)
    if kind == "damaged":
        text = bytearray(json.dumps(document).encode())
        for _ in range(draw(st.integers(1, 3))):
            text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
        return bytes(text[: draw(st.integers(0, len(text)))])
    *above, last = draw(st.sampled_from([place for place in _places(document) if place]))
    parent = document
    for key in above:
        parent = parent[key]
    if kind == "removed":
        del parent[last]
    else:
        parent[last] = draw(_VALUES)
    return json.dumps(document).encode()


def _sentence(function, *arguments):
    """Calls a reader; its result, or None after a refusal of one line."""
    try:
        return function(*arguments)
    except UserError as error:
        assert "\n" not in str(error), str(error)
        return None


GENOTYPE = tiny.GENOTYPE.to_dict()
META = {
    "format": 1,
    "class_names": ["a", "b"],
    "data": "npz:x",
    "preprocessing": {
        **{"image_size": 16, "channels": 1, "crop": None, "white": 0},
        **{"mean": [0.5], "std": [0.2]},
    },
    "network": {"channels": 4, "stem": "plain", "stem_multiplier": 3},
    "test": {"accuracy": 0.5, "images": 9},
}
LATENCIES = {
    **{"device": "phone", "dtype": "float16", "batch": 1, "versions": {"runtime": "1"}},
    "milliseconds": [
        {"primitive": name, "channels": 4, "stride": 1, "size": 8, "ms": 0.5}
        for name in ("skip_connect", "max_pool_3x3")
    ],
}
CONFIG = json.loads(configuration.to_json(configuration.default_config()))


def _export(path):
    Genotype.save(tiny.GENOTYPE, path.with_name("genotype.json"))
    predict.read_meta(path.parent)
    trained.load_network(path.parent)


def _facts(path):
    own = facts.of_run(path.parent)
    images = np.zeros((9, 4, 4), np.uint8)
    dataset = data.Dataset.from_arrays(images, np.arange(9) % 3)
    facts.settle(configuration.default_config().data, own)
    facts.matched(own, dataset, path.parent)
    facts.is_own(own, dataset)


def _scored(path):
    scores = distance.load_scores(path)
    distance.edge_distance(["skip_connect"], ["max_pool_3x3"], scores)


def _latencies(path):
    table = latency.load(path)
    assert table.batch >= 1 and all(0 <= ms < np.inf for ms in table.milliseconds.values())


@pytest.mark.parametrize(
    ("name", "document", "read"),
    [
        ("genotype.json", GENOTYPE, Genotype.load),
        ("scores.json", {"scores": {"skip_connect": 1.0, "max_pool_3x3": 2.0}}, _scored),
        ("latency.json", LATENCIES, _latencies),
        ("config.json", CONFIG, configuration.load),
        ("meta.json", META, _export),
        (
            "dataset.json",
            {
                **{"name": "arrays", "class_names": ["0", "1", "2"], "num_classes": 3},
                **{"image_shape": [4, 4, 1], "mean": [0.0], "std": [1.0], "white": 0, "crop": None},
                **{"num_train": 6, "num_test": 3, "test_checksum": "0a", "images_checksum": "0b"},
            },
            _facts,
        ),
        (
            "protocol.json",
            {"seed": 1, "data": {"name": "x"}, "images": "0a"},
            lambda path: identity.claim(path, {"seed": 1, "data": {"name": "x"}}, "checkpoints"),
        ),
    ],
)
@FUZZ
@given(data=st.data())
def test_json_files(tmp_path, name, document, read, data):
    """Any part of it may be missing, of another type, or damaged."""
    path = tmp_path / name
    path.write_bytes(data.draw(texts(document)))
    _sentence(read, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir as a run leaves it."""
    workdir = synthetic.write_run(tmp_path_factory.mktemp("runs") / "run")
    Genotype.load(workdir / "genotype.json").save(workdir / "network_genotype.json")
    (workdir / "network.npz").touch()
    (workdir / "supernet.json").write_text('{"relaxation": "sigmoid", "primitives": ["a", "b"]}')
    return workdir


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "summary.json",
        "evaluation.json",
        "versions.json",
        "supernet.json",
        "genotypes",
    ],
)
@FUZZ
@given(data=st.data())
def test_files_of_a_workdir(run, name, data):
    """The report and the export read them."""
    path = run / name
    if path.is_dir():
        path = next(iter(sorted(path.iterdir())))
    content = path.read_bytes()
    try:
        path.write_bytes(data.draw(texts(json.loads(content))))
        found = _sentence(read_run, run)
        if found:
            _sentence(findings.findings, found)
            _sentence(findings.warnings, found)
        _sentence(trained_run.read, run)
    finally:
        path.write_bytes(content)


@FUZZ
@given(data=st.data())
def test_metrics(tmp_path, data):
    """A line may be anything; what is read can be drawn."""
    good = {
        "phase": "search",
        "epoch": 1,
        "accuracy": 0.5,
        "loss_total": [0.1, 0.2],
        "seconds": 1.0,
    }
    lines = [json.dumps(good).encode(), data.draw(texts(good)), json.dumps(good).encode(), b""]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    for row in _sentence(metrics.read, tmp_path / "metrics.jsonl") or []:
        for key in row:
            if key not in rows.LABELS:
                rows.series([row], key)
    writer = metrics.MetricsWriter(tmp_path)
    writer.rewind("search", 2)
    writer.close()
    assert len(metrics.read(tmp_path / "metrics.jsonl")) >= 2


@FUZZ
@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_genotype_texts(tmp_path, text):
    """It is parsed, never run."""
    path = tmp_path / "g.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    _sentence(find_genotype, path)


def _damaged(draw, content: bytes) -> bytes:
    """Bytes with some changed, perhaps truncated, or others."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=100))
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(1, len(content)))])


def _bytes_of(save, *arguments, **options):
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


@FUZZ
@given(data=st.data())
def test_alphas(run, data):
    """Of an epoch, as the report reads them."""
    path = next(iter(sorted((run / "alphas").iterdir())))
    content = path.read_bytes()
    try:
        path.write_bytes(_damaged(data.draw, content))
        _sentence(read_run, run)
    finally:
        path.write_bytes(content)


@FUZZ
@given(fuzz=st.data())
def test_arrays_of_images(tmp_path, fuzz):
    """Any arrays under the right names, or a damaged file."""
    shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)
    kinds = st.sampled_from(["u1", "i1", "f4", "i8", "u8", "c8", "?", "U3", "M8[s]"])
    names = ("images", "labels", "test_images", "test_labels", "class_names", "x_train")
    arrays = {
        name: np.zeros(fuzz.draw(shapes), fuzz.draw(kinds))
        for name in names
        if fuzz.draw(st.booleans())
    }
    path = tmp_path / "data.npz"
    path.write_bytes(_damaged(fuzz.draw, _bytes_of(np.savez, **arrays)))
    if fuzz.draw(st.booleans()):
        np.savez(path, **arrays)
    config = tiny.config(path).data
    config.image_size = fuzz.draw(st.sampled_from([0, 4]))
    _sentence(data.load, config)


@FUZZ
@given(fuzz=st.data())
def test_weights(tmp_path, fuzz):
    """Damaged, or of other shapes."""
    _, variables = network.build(
        tiny.GENOTYPE, channels=2, num_classes=3, image_channels=1, image_size=16, key=None
    )
    arrays = {name: np.asarray(leaf) for name, leaf in weights.named(variables).items()}
    name = fuzz.draw(st.sampled_from(sorted(arrays)))
    arrays[name] = np.zeros(fuzz.draw(st.lists(st.integers(0, 3), max_size=4)), np.float32)
    path = tmp_path / "network.npz"
    path.write_bytes(_damaged(fuzz.draw, _bytes_of(np.savez, **arrays)))
    _sentence(weights.load_network, path, variables)
    _sentence(weights.load_start, path, variables)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A directory of two checkpoints, their state and their files."""
    directory = tmp_path_factory.mktemp("checkpoints")
    state = {"step": np.int32(2), "weights": np.arange(4.0, dtype=np.float32)}
    with Checkpoints(directory, {"seed": 0}, 2) as written:
        written.save(1, state)
        written.save(2, state)
    return directory, state


@settings(FUZZ, max_examples=15)
@given(fuzz=st.data())
def test_records_of_checkpoints(checkpoints, fuzz):
    """A damaged one gives way to the one before it; what comes back is what was saved."""
    directory, state = checkpoints
    (record,) = (directory / "2" / "record").glob("*metadata*")
    content = record.read_bytes()
    record.write_bytes(fuzz.draw(texts(json.loads(content))))
    try:
        with Checkpoints(directory, {"seed": 0}, 2) as found:
            step, restored = found.restore(state)
        assert step in (1, 2)
        for wanted, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(restored)):
            np.testing.assert_array_equal(wanted, leaf)
    finally:
        aside = directory / "2.corrupt"
        if aside.is_dir():
            aside.rename(directory / "2")
        record.write_bytes(content)

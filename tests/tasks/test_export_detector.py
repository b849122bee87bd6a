"""Export of a detector: its files find what it finds without the package, or there is no export."""

import json
import os
import shutil

import jax
import jax.export
import model_card
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddarts_jax import configuration, predict
from ddarts_jax.detection import composed_digits, datasets, exported, saved
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.evaluate import evaluate_stream
from ddarts_jax.detection.exported import Found
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import weights
from ddarts_jax.tasks import detection, export
from ddarts_jax.tasks.export import card, detector_checks, formats, snippets
from ddarts_jax.tasks.export import detector as exporter
from ddarts_jax.training import trained

# Two cells that compile quickly.
_GENOTYPE = Genotype(
    genes=(
        (("skip_connect", 2, 0), ("max_pool_3x3", 2, 1)),
        (("max_pool_3x3", 2, 0), ("avg_pool_3x3", 2, 1)),
    ),
    reductions=(1,),
    concat=(2,),
    seq=None,
)
_SIZES = [(60, 96), (48, 96), (64, 90), (55, 80), (96, 96)]  # of images; on a canvas of 64 x 96
_PICTURES = {f"{number}.png" for number in range(len(_SIZES))}


def _images():
    """Composed images of digits, cropped, in colours."""
    digits = np.random.RandomState(0).randint(0, 256, (9, 8, 8)).astype(np.uint8)
    ground = np.random.RandomState(1).randint(0, 256, (300, 400)).astype(np.uint8)
    for number, (height, width) in enumerate(_SIZES):
        canvas = composed_digits.compose((number,), digits, np.arange(9), [ground])
        grey = canvas.image[:height, :width]
        yield np.stack([grey, 255 - grey, grey // 2], -1)


def _write_annotations(place, boxes):
    """Writes the boxes (image, category, x, y, width, height) as a COCO file."""
    rows = [
        {"id": n, "image_id": image, "category_id": category, "bbox": list(box)}
        for n, (image, category, *box) in enumerate(boxes)
    ]
    images = [
        {"id": 10 * n, "file_name": f"{n}.png", "height": height, "width": width}
        for n, (height, width) in enumerate(_SIZES)
    ]
    names = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 11, "name": "ox"}]
    write_json(place / "objects.json", {"images": images, "categories": names, "annotations": rows})


def _config(place):
    config = configuration.detection_config()
    config.backbone.genotype = str(place / "genotype.json")
    config.backbone.channels = 4
    config.backbone.frozen_levels = 0
    config.fpn.channels, config.fpn.levels, config.head.convs = 4, 2, 0
    config.anchor.scale = 2.0
    for part in ("train", "test"):
        config.data[f"{part}_annotations"] = str(place / "objects.json")
        config.data[f"{part}_images"] = str(place)
    config.data.short_side, config.data.long_side = (48,), 80
    config.data.canvases = ((64, 96), (96, 64))
    config.train.batch_images = 4
    config.data.num_workers = 0
    config.head.prior, config.test.limit = 0.2, 20
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a detector with random weights, as a training leaves it.

    The ground truth is what it finds, a little displaced, so that its AP is not 0.
    """
    place = tmp_path_factory.mktemp("detector")
    workdir = place / "run"
    workdir.mkdir()
    for number, image in enumerate(_images()):
        Image.fromarray(image).save(place / f"{number}.png")
    _GENOTYPE.save(place / "genotype.json")
    config = _config(place)
    _write_annotations(place, [(0, category, 0, 0, 30, 30) for category in (3, 7)])
    source = detectors.find_source(config.backbone)
    train, test = datasets.load(config.data)
    pixels = datasets.pixels_of(config.data, train, {})
    detector, variables = detectors.build(config, source, 3, 3, jax.random.key(0))
    for part, factor in (("classes", 200), ("boxes", 10)):  # so that answers differ
        kernel = variables.weights[part]["output"]["kernel"]
        variables.weights[part]["output"]["kernel"] = factor * kernel
    stream = datasets.test_stream(config, test, pixels)
    found = evaluate_stream(detector, variables, stream, pixels, "float32").results
    truth, best = [], {10 * n: 3 for n in range(len(_SIZES))}
    for each in found:
        if best[each["image_id"]] and each["category_id"] != 11:
            best[each["image_id"]] -= 1
            x, y, width, height = each["bbox"]
            truth.append((each["image_id"], each["category_id"], x + 1, y, width + 1, height + 1))
    _write_annotations(place, truth)
    saved.keep(workdir, config, source, *datasets.load(config.data), pixels)
    weights.save_network(workdir / "detector.npz", variables)
    config.task = "detect_evaluate"
    detection.evaluate(config, workdir, "float32")
    return workdir


def _export_config(run, output, **values):
    config = configuration.export_config()
    config.update({"run": str(run), "output": str(output), **values})
    return config


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """What the detector itself finds is computed by the first export alone."""
    kept = []
    find = exporter._expected

    def expected(*arguments):
        if not kept:
            kept.append(find(*arguments))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_expected", expected)
        yield


@pytest.fixture(scope="module")
def exported_run(run, tmp_path_factory):
    """The folder that the export of it wrote, and what the task returned."""
    place = tmp_path_factory.mktemp("export")
    meta = export.run(_export_config(run, place / "out"), place)
    assert os.listdir(place) == ["out"]
    return place / "out", meta


@pytest.fixture(scope="module")
def found(run):
    """By image, what the run's own evaluation found: (category, score, x1, y1, x2, y2)."""
    rows = {10 * n: [] for n in range(len(_SIZES))}
    for each in json.loads((run / "detections.json").read_text()):
        x, y, width, height = each["bbox"]
        rows[each["image_id"]].append(
            (each["category_id"], each["score"], x, y, x + width, y + height)
        )
    assert min(map(len, rows.values())) > 5 and len({row[0] for row in rows[0]}) > 1
    return list(rows.values())


def test_the_folder_holds_what_is_promised(exported_run, run):
    """All files are there; meta.json tells canvas, classes and numbers; the files agree with the run."""
    folder, meta = exported_run
    assert set(export.FILES) - {"model.onnx"} <= set(os.listdir(folder)) <= set(export.FILES)
    assert json.loads((folder / "meta.json").read_text()) == meta
    assert Genotype.load(folder / "genotype.json") == _GENOTYPE
    assert (meta["format"], meta["kind"], meta["data"]) == (2, "detector", "coco:objects.json")
    assert meta["class_names"] == ["dog", "cat", "ox"] and meta["category_ids"] == [3, 7, 11]
    given = meta["preprocessing"]
    assert (given["canvas"], given["short_side"], given["long_side"]) == ([64, 96], 48, 80)
    own = json.loads((run / "dataset.json").read_text())
    assert (given["mean"], given["std"], given["channels"]) == (own["mean"], own["std"], 3)
    evaluation = json.loads((run / "detection.json").read_text())
    assert meta["test"]["numbers"] == evaluation["numbers"] and meta["test"]["on_canvas"] == 5
    with np.load(run / "detector.npz") as file:
        learnt = [file[name].size for name in file.files if name.startswith("weights/")]
    assert sum(meta["parameters"].values()) == sum(learnt)
    check = meta["checks"]["model.stablehlo"]
    assert check["images"] == 5 and check["same"] == check["detections"] > 50
    assert check["largest_box_difference"] < 1e-3 and check["largest_score_difference"] < 1e-4
    assert abs(check["AP"] - evaluation["numbers"]["AP"]) <= 1e-3 and check["AP"] > 0.2


def test_weights_are_the_trained_ones(exported_run, run):
    """The file holds every array of detector.npz under its name, bit for bit."""
    own = safetensors.numpy.load_file(exported_run[0] / "weights.safetensors")
    with np.load(run / "detector.npz") as wanted:
        assert set(own) == set(wanted.files)
        for name, array in own.items():
            np.testing.assert_array_equal(array, wanted[name])


def _assert_found(boxes, scores, classes, wanted):
    """Detections of an image are those of detections.json, which has 2 and 5 decimals."""
    categories = np.array([3, 7, 11])
    assert categories[classes].tolist() == [row[0] for row in wanted]
    np.testing.assert_allclose(scores, [row[1] for row in wanted], atol=1e-4)
    np.testing.assert_allclose(boxes, [row[2:] for row in wanted], atol=0.011)


def test_the_program_takes_any_number_of_images(exported_run, found):
    """All images at once give what the run's evaluation found; behind the count there is nothing."""
    folder, meta = exported_run
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    placed = [exported.place(image, meta["preprocessing"]) for image in _images()]
    images, sizes = (np.stack(part) for part in zip(*placed))
    boxes, scores, classes, count = map(np.asarray, jax.jit(program.call)(images, sizes))
    assert boxes.shape == (5, 20, 4) and boxes.dtype == scores.dtype == np.float32
    for n, wanted in enumerate(found):
        assert count[n] == len(wanted)
        scale = (np.array(_SIZES[n]) / sizes[n])[[1, 0, 1, 0]]
        own = slice(count[n])
        _assert_found(boxes[n, own] * scale, scores[n, own], classes[n, own], wanted)
        assert (classes[n, count[n] :] == -1).all() and not boxes[n, count[n] :].any()


def test_prediction_from_files_is_the_evaluation_of_the_run(exported_run, found, run):
    """Image files, resized and placed by `predict`, get the run's own detections."""
    paths = [run.parent / f"{number}.png" for number in range(len(_SIZES))]
    results = list(predict.detect(exported_run[0], paths, score=0))
    for (image, result), size, wanted in zip(results, _SIZES, found, strict=True):
        assert image.shape == (*size, 3)
        _assert_found(result.boxes, result.scores, result.labels, wanted)


def test_an_export_is_evaluated_as_its_run_was(exported_run, run, tmp_path, caplog):
    """The numbers are those of the run, nothing goes to the export, and other settings are refused."""
    folder, _ = exported_run
    config = configuration.load(run / "config.json")
    config.task, config.export = "detect_evaluate", str(folder)
    before = sorted(os.listdir(folder))
    numbers = detection.evaluate(config, tmp_path, "float32")
    assert sorted(os.listdir(folder)) == before
    expected = json.loads((run / "detection.json").read_text())["numbers"]
    for key, value in expected.items():
        assert numbers[key] == pytest.approx(value, abs=1e-3), key
    written = json.loads((tmp_path / "detection-objects-of-out.json").read_text())
    assert written["numbers"]["AP"] == numbers["AP"] > 0.2
    assert len(list((tmp_path / "pictures-objects-of-out").glob("0?.png"))) == 5
    assert not [record for record in caplog.records if "made smaller" in record.getMessage()]
    config.test.limit = 7
    with pytest.raises(UserError, match=r"other settings \(there, here\): test.limit: 20, 7"):
        detection.evaluate(config, tmp_path, "float32")
    config.task = "detect"
    with pytest.raises(UserError, match="an exported detector is not trained"):
        configuration.validate(config)


def test_the_code_of_the_model_card_works_as_printed(exported_run, found, tmp_path, capsys):
    """Every Python block of README.md runs in the folder and prints what the run found."""
    folder, meta = exported_run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    Image.fromarray(next(_images())).save(tmp_path / "image.png")
    text = (folder / "README.md").read_text()
    assert "All test images lie on the canvas of 64 x 96 pixels" in text
    assert '{"3": "dog", "7": "cat", "11": "ox"}' in text
    *answers, leaves = model_card.printed(tmp_path, capsys)
    assert len(answers) == len(meta["checks"])
    assert "weights/classes/output/kernel (3, 3, 4, 27)" in leaves.splitlines()
    wanted = [row for row in found[0] if row[1] >= 0.3]
    for lines in map(str.splitlines, answers):
        assert len(lines) == len(wanted) > 0
        for line, row in zip(lines, wanted):
            name, score, *box = line.split()
            assert name == {3: "dog", 7: "cat", 11: "ox"}[row[0]]
            np.testing.assert_allclose([float(score), *map(float, box)], row[1:], atol=0.07)


def _boxes(*rows):
    rows = np.array(rows, float).reshape(-1, 6)
    return Found(rows[:, :4], rows[:, 4].astype(int), rows[:, 5])


def test_detections_agree_one_to_one():
    """A pair needs the class, the box and the score; order does not matter, and no box counts twice."""
    a, b = (0, 0, 9, 9, 1, 0.5), (0, 0, 9, 8, 1, 0.5)
    moved, weaker, other = (0, 0.002, 9, 9, 1, 0.5), (0, 0, 9, 9, 1, 0.4998), (0, 0, 9, 9, 2, 0.5)
    near = (0, 0.0005, 9, 9, 1, 0.50005)
    for found, expected, same in (
        ([a, b], [b, a], 2),
        ([near], [a], 1),
        ([a], [a, a], 1),
        ([a, a], [a], 1),
        ([moved], [a], 0),
        ([weaker], [a], 0),
        ([other], [a], 0),
        ([], [a], 0),
        ([a], [], 0),
    ):
        pairs = detector_checks.agreement(_boxes(*found), _boxes(*expected), 1e-3)
        assert pairs.same == same
        assert pairs.box == pytest.approx(0.0005 if near in found else 0)
    assert detector_checks.box_tolerance((96, 64)) == 1e-3
    assert detector_checks.box_tolerance((800, 1344)) == pytest.approx(5.25e-3)


def _other_boxes(monkeypatch, run):
    """Makes the code of the card move boxes by little more than rounding."""
    monkeypatch.setattr(snippets, "DETECT", snippets.DETECT.replace("* scale", "* scale + 0.003"))


def _other_ap(monkeypatch, run):
    """Makes the program's AP differ a little from that of the training."""
    measured = json.loads((run / "detection.json").read_text())["numbers"]["AP"]
    monkeypatch.setattr(detector_checks, "measure_aps", lambda *_: {"AP": measured + 0.002})
    monkeypatch.setattr(detector_checks, "check", lambda *_: {"model.stablehlo": {}})


@pytest.mark.parametrize(
    "fault, message",
    [
        (_other_boxes, r"model.stablehlo does not find .* detections in 5 test images are missing"),
        (_other_ap, r"box AP of 0\.\d+, but .*detection\.json says .*detect_evaluate"),
    ],
)
def test_files_that_find_something_else_are_no_export(
    run, exported_run, tmp_path, monkeypatch, fault, message
):
    """Where the files disagree with the training nothing is written."""
    program = exported_run[0] / "model.stablehlo"
    monkeypatch.setattr(formats, "write_detector", lambda folder, *_: shutil.copy(program, folder))
    fault(monkeypatch, run)
    with pytest.raises(UserError, match=message):
        export.run(_export_config(run, tmp_path / "out"), tmp_path)
    assert os.listdir(tmp_path) == []


def _edited(run, tmp_path, name, change):
    """A copy of the run, with the JSON file `name` changed."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    content = json.loads((copy / name).read_text())
    change(content)
    (copy / name).write_text(json.dumps(content))
    return copy


def test_what_the_user_can_mend_is_one_sentence(run, tmp_path):
    """A run that has not ended, other images, an evaluation of others, and misplaced keys are named."""

    def error_of(source, **values):
        with pytest.raises(UserError) as caught:
            export.run(_export_config(source, tmp_path / "out", **values), tmp_path)
        assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    def edited(name, change):
        return error_of(_edited(run, tmp_path, name, change))

    other = edited("dataset.json", lambda facts: facts["test"].update(crc32="00000000"))
    assert "was tested on other images" in other and other.endswith("bring the former back.")
    assert "is not the evaluation" in edited("detection.json", lambda own: own.pop("numbers"))
    assert "does not describe a detector" in edited("dataset.json", lambda own: own.pop("white"))
    gone = _edited(run, tmp_path, "config.json", lambda own: None)
    assert "was trained on data without such a folder" in error_of(gone, data="/elsewhere")
    assert "config.data_dir" in error_of(gone, data_dir="/elsewhere")
    (gone / "detector.npz").unlink()
    assert "There is no detector in" in error_of(gone)
    with np.load(run / "detector.npz") as file:
        np.savez(gone / "detector.npz", **{name: file[name] * np.nan for name in file.files})
    assert "its training diverged" in error_of(gone)


def test_the_folder_of_the_test_images_may_be_elsewhere(run, tmp_path):
    """Of a detector that was trained on a folder, COCO 2017 or Cityscapes: the sentence tells the key."""
    here = tmp_path / "here"
    (here / "annotations").mkdir(parents=True)
    shutil.copy(run.parent / "objects.json", here / "annotations" / "instances_val2017.json")
    shutil.copytree(run.parent, here / "val2017", ignore=lambda _, names: {*names} - _PICTURES)

    def on_a_folder(config):
        config["data"] |= dict.fromkeys(datasets.PATHS, "") | {"root": str(tmp_path / "there")}

    source = _edited(run, tmp_path, "config.json", on_a_folder)
    own = exporter.load(source, _export_config("", "", data=str(here)), "")
    assert own.config.data.root == str(here) and len(own.test) == len(_SIZES)
    facts = json.loads((source / "dataset.json").read_text())
    facts["test"]["crc32"] = "00000000"
    (source / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"back, or name the place .* now by config\.data\.$"):
        exporter.load(source, _export_config("", "", data=str(here)), "")
    training = configuration.detection_config()
    training.data.name, training.data.root = "cityscapes", "/there"
    moved = exporter._with_data(training, _export_config("", "", data="/here"), source)
    assert (moved.data.root, training.data.root) == ("/here", "/there")


def test_the_canvas_is_that_of_most_images(run, tmp_path):
    """Of the canvases in the config the one with the most test images; the card tells of the others."""

    def canvases(config):
        config["data"]["canvases"] = [[64, 64], [64, 96], [96, 96]]

    own = exporter.load(_edited(run, tmp_path, "config.json", canvases), _export_config("", ""), "")
    assert own.canvas == (64, 96, 3) and len(own.rows) == 4  # the square one lies on 64 x 64
    meta = exporter._describe(own) | {"checks": {}}
    text = " ".join(card.detector_card(meta, _GENOTYPE).split())
    assert "4 of the 5 test images lie on the canvas of 64 x 96 pixels, more than on any" in text
    assert "its shorter side has 48 pixels, or its longer side 80 if that would be more" in text


def test_a_detector_s_export_is_no_network(exported_run):
    """Where a classifying network is expected, the export of a detector is told to be one."""
    with pytest.raises(UserError, match="is the export of a detector"):
        trained.load_network(exported_run[0])
    backbone = configuration.detection_config().backbone
    backbone.run = str(exported_run[0])
    with pytest.raises(UserError, match="is the export of a detector"):
        detectors.find_source(backbone)
    with pytest.raises(UserError, match="not that of a classifier"):
        predict.predict(exported_run[0], [])

"""Export of a Mask R-CNN: masks in the program, its check, its evaluation, its card and `predict`."""

import functools
import json
import shutil

import jax
import jax.export
import model_card
import numpy as np
import pytest
import tiny_detector
from PIL import Image

from ddarts_jax import configuration, predict
from ddarts_jax.detection import datasets, outlines, saved
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.evaluate import evaluate_stream
from ddarts_jax.detection.exported import Found
from ddarts_jax.errors import UserError
from ddarts_jax.models import weights
from ddarts_jax.tasks import detection, export
from ddarts_jax.tasks.export import detector as exporter
from ddarts_jax.tasks.export import detector_checks, formats


def _rewrite(path, found):
    """Makes the best detections of each image the ground truth, their masks without the first row."""
    content = json.loads(path.read_text())
    sizes = {each["id"]: (each["height"], each["width"]) for each in content["images"]}
    left, rows = dict.fromkeys(sizes, 3), []
    for each in found:
        mask = outlines.mask_of(each["segmentation"], *sizes[each["image_id"]])
        if left[each["image_id"]] and mask.sum() > 20:
            left[each["image_id"]] -= 1
            mask[mask.any(1).argmax()] = False
            own = {key: each[key] for key in ("image_id", "category_id", "bbox")}
            own |= {"id": len(rows), "segmentation": outlines.rle_of(mask)}
            rows.append(own | {"area": int(mask.sum())})
    path.write_text(json.dumps(content | {"annotations": rows}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a Mask R-CNN with random weights, as a training leaves it."""
    place = tmp_path_factory.mktemp("masks")
    data = tiny_detector.write_data(place, 4, 5)
    changes = tiny_detector.TWO_STAGES | {"data.canvases": ((64, 64),)}
    config = tiny_detector.config(place, data, **changes)
    source = detectors.find_source(config.backbone)
    train, test = datasets.load(config.data, masks=True)
    pixels = datasets.pixels_of(config.data, train, {})
    detector, variables = detectors.build(config, source, 2, 3, jax.random.key(0))
    for head, part, factor in (
        ("box", "logits", 500),
        ("box", "deltas", 50),
        ("mask", "logits", 5),
    ):
        own = variables.weights[head][part]
        own["kernel"] = factor * own["kernel"]  # so that answers differ
    stream = datasets.test_stream(config, test, pixels)
    tested = evaluate_stream(detector, variables, stream, pixels, "float32")
    _rewrite(place / "test.json", tested.results)
    workdir = place / "run"
    workdir.mkdir()
    saved.keep(workdir, config, source, *datasets.load(config.data, masks=True), pixels)
    weights.save_network(workdir / "detector.npz", variables)
    config.task = "detect_evaluate"
    detection.evaluate(config, workdir, "float32")
    return workdir


@pytest.fixture(scope="module")
def exported_run(run, tmp_path_factory):
    """The folder that the export of it wrote, and what the task returned."""
    place = tmp_path_factory.mktemp("export")
    config = configuration.export_config()
    config.update({"run": str(run), "output": str(place / "out")})
    return place / "out", export.run(config, place)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(run):
    """The program is loaded, and compiled for one image, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "load_detector", functools.cache(predict.load_detector))
        yield


@pytest.fixture(scope="module")
def found(run):
    """By image, what the run's own evaluation found."""
    rows = {number: [] for number in range(1, 6)}
    for each in json.loads((run / "detections.json").read_text()):
        rows[each["image_id"]].append(each)
    assert min(map(len, rows.values())) > 3
    return list(rows.values())


def _paths(run):
    return [run.parent / "test" / f"{number}.png" for number in range(1, 6)]


def _assert_masks(masks, wanted):
    """Masks are those of detections.json but for pixels at the threshold, and not all empty."""
    expected = np.array(
        [outlines.mask_of(each["segmentation"], *masks.shape[1:]) for each in wanted]
    )
    assert masks.shape == expected.shape and expected.sum() > 100
    assert (masks != expected).sum() <= 0.001 * expected.size


def test_the_program_gives_masks_and_the_folder_tells_of_them(exported_run, run):
    """A fifth result, that was compared like the others; numbers of both kinds are those of the run."""
    folder, meta = exported_run
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    assert [each.shape[1:] for each in program.out_avals] == [
        *((10, 4), (10,), (10,), (), (10, 28, 28))
    ]
    assert program.out_avals[4].dtype == np.float32 and meta["masks"] == [28, 28]
    assert meta["network"]["detector"] == "mask_rcnn" and "anchor_scale" not in meta["network"]
    assert meta["network"]["roi"]["width"] == 16 and meta["network"]["rpn"]["limit"] == 30
    own = json.loads((run / "detection.json").read_text())
    check = meta["checks"]["model.stablehlo"]
    assert check["same"] == check["detections"] > 20 and check["largest_mask_difference"] < 1e-3
    for prefix in ("", "mask_"):
        assert meta["test"][f"{prefix}numbers"] == own[f"{prefix}numbers"]
        assert abs(check[f"{prefix}AP"] - own[f"{prefix}numbers"]["AP"]) <= 1e-3
        assert 0.2 < check[f"{prefix}AP"] < 1
    assert check["AP"] != check["mask_AP"]


def test_an_export_is_evaluated_with_its_masks(exported_run, run, tmp_path):
    """Both kinds of numbers are those of the run."""
    config = configuration.load(run / "config.json")
    config.task, config.export = "detect_evaluate", str(exported_run[0])
    numbers = detection.evaluate(config, tmp_path, "float32")
    own = json.loads((run / "detection.json").read_text())
    for prefix in ("", "mask_"):
        for key, value in own[f"{prefix}numbers"].items():
            assert numbers[f"{prefix}{key}"] == pytest.approx(value, abs=1e-3), key
    assert len(list((tmp_path / "pictures-test-of-out").glob("0?.png"))) == 5


def test_masks_of_image_files(exported_run, run, found, tmp_path, capsys):
    """They are those of the run, as pixels of the file; lines are as without, pictures show them."""
    folder, _ = exported_run
    for (image, result), wanted in zip(
        predict.detect(folder, _paths(run), score=0), found, strict=True
    ):
        assert result.masks.dtype == bool and result.masks.shape[1:] == image.shape[:2]
        _assert_masks(result.masks, wanted)
        some = wanted[0]["score"] - 1e-3
    path = _paths(run)[-1]
    drawn = f"--draw={tmp_path}"
    assert predict.main([str(folder), str(path), f"--score={some}", drawn]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == sum(each["score"] >= some for each in found[-1])
    assert {len(line) for line in lines} == {7}
    ((image, result),) = predict.detect(folder, [path], score=some)
    twice = np.asarray(Image.fromarray(image).resize(np.array(image.shape[1::-1]) * 2))
    picture = np.asarray(Image.open(tmp_path / "5-detections.png"))
    changed = (picture != twice).any(-1)
    assert changed[result.masks.any(0).repeat(2, 0).repeat(2, 1)].mean() > 0.99


def test_the_code_of_the_model_card_pastes_masks(exported_run, run, found, tmp_path, capsys):
    """Its lines print, for each object, as many pixels as the run's own mask of it has."""
    folder, meta = exported_run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.copy(_paths(run)[0], tmp_path / "image.png")
    text = (folder / "README.md").read_text()
    assert "Mask R-CNN above a" in text and "computed by pycocotools" in text
    assert "Masks float32 [batch, 10, 28, 28]" in " ".join(text.split())
    *answers, leaves = model_card.printed(tmp_path, capsys)
    assert len(answers) == len(meta["checks"]) and "weights/mask/logits/kernel" in leaves
    wanted = [each for each in found[0] if each["score"] >= 0.3]
    for lines in map(str.splitlines, answers):
        assert len(lines) == len(wanted) > 0
        for line, each in zip(lines, wanted):
            area = outlines.mask_of(each["segmentation"], *each["segmentation"]["size"]).sum()
            assert abs(int(line.split()[-1]) - area) <= 1 + 0.01 * area


def test_masks_agree_up_to_rounding():
    """A detection whose mask differs is another one."""
    masks = np.random.RandomState(0).rand(2, 28, 28)
    expected = Found(
        np.array([[0, 0, 9, 9.0], [5, 5, 9, 9]]), np.ones(2), np.array([0.9, 0.5]), masks
    )
    near = masks.copy()
    near[0, 3, 4] += 5e-4
    agreement = detector_checks.agreement(expected._replace(masks=near), expected, 1e-3)
    assert agreement.same == 2 and agreement.mask == pytest.approx(5e-4)
    near[0, 3, 4] += 1e-3
    assert detector_checks.agreement(expected._replace(masks=near), expected, 1e-3).same == 1


def test_other_masks_are_no_export(exported_run, run, tmp_path, monkeypatch):
    """Where the mask AP of the program is not that of the training nothing is written."""
    program = exported_run[0] / "model.stablehlo"
    numbers = json.loads((run / "detection.json").read_text())
    aps = {"AP": numbers["numbers"]["AP"], "mask_AP": numbers["mask_numbers"]["AP"] + 0.002}
    monkeypatch.setattr(formats, "write_detector", lambda folder, *_: shutil.copy(program, folder))
    monkeypatch.setattr(exporter, "_expected", lambda *_: ([], np.ones(1)))
    monkeypatch.setattr(detector_checks, "check", lambda *_: {"model.stablehlo": {}})
    monkeypatch.setattr(detector_checks, "measure_aps", lambda *_: aps)
    config = configuration.export_config()
    config.update({"run": str(run), "output": str(tmp_path / "out")})
    with pytest.raises(UserError, match=r"mask AP of 0\.\d+, but .*detection\.json says"):
        export.run(config, tmp_path)
    assert not (tmp_path / "out").exists()

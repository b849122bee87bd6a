"""Tests of the tasks 'detect' and 'detect_evaluate' from the command line, and of what they refuse."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_detector
from PIL import Image

from ddarts_jax import main
from ddarts_jax.detection import outlines, training
from ddarts_jax.distributed import sharding
from ddarts_jax.reports import report
from ddarts_jax.tasks import detection
from ddarts_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Compiles each program once: the runs of this file differ in nothing that is in them.

    A test that needs other ones clears the table, and again behind itself.
    """
    lower, compiled = training.lower, {}

    def kept(function, running, images, truth, seed):
        def compile_():
            key = images.shape, truth.labels.shape, truth.masks is None
            if key not in compiled:
                compiled[key] = lower(function, running, images, truth, seed).compile()
            return compiled[key]

        return SimpleNamespace(compile=compile_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "lower", kept)
        yield compiled


@pytest.fixture
def others(programs):
    """For a test whose programs are others."""
    mine = dict(programs)
    programs.clear()
    yield
    programs.clear()
    programs.update(mine)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images and a config file."""
    folder = tmp_path_factory.mktemp("detection")
    tiny_detector.write_config(folder)
    return folder


def start(place, workdir, *overrides):
    """Runs the tiny config; returns the exit status."""
    return tiny_detector.start(place / "tiny_detector.py", workdir, *overrides)


@pytest.fixture(scope="module")
def unbroken(place):
    """The workdir of a detector that nothing interrupted."""
    assert start(place, place / "unbroken") == 0
    return place / "unbroken"


def masks(flags):
    """The flags for a detector of masks."""
    return [*(f"--config.{k}={v}" for k, v in tiny_detector.TWO_STAGES.items()), *flags]


def read(path):
    return json.loads(Path(path).read_text())


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def files(folder):
    """Content of all files, but for the lock."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in paths}


def refused(capsys, place, workdir, *overrides):
    """Starts what is refused: status 2, one sentence, which is returned, and no file has changed."""
    before = files(place)
    capsys.readouterr()
    assert start(place, workdir, *overrides) == 2
    printed = capsys.readouterr().err.splitlines()
    assert [line for line in printed if line.startswith("error:")] == printed[-1:]
    assert "Traceback" not in "".join(printed)
    assert files(place) == before
    return printed[-1]


def test_a_run_leaves_what_is_promised(place, unbroken):
    """Everything of the table in docs/detection.md, and numbers that agree with each other."""
    summary, evaluation = read(unbroken / "summary.json"), read(unbroken / "detection.json")
    numbers = evaluation["numbers"]
    assert summary["box_ap"] == numbers["AP"] and summary["box_ap50"] == numbers["AP50"]
    assert (evaluation["images"], evaluation["objects"]) == (5, len(truth_of(place, "test")))
    assert [each["name"] for each in evaluation["classes"]] == ["bright", "dark"]
    weights = np.load(unbroken / "detector.npz")
    learnt = sum(weights[name].size for name in weights.files if name.startswith("weights/"))
    assert summary["params"] == sum(summary["params_by_part"].values()) == learnt
    assert summary["macs"] == sum(summary["macs_by_part"].values()) > 0
    assert summary["macs_canvas"] == [64, 64] and summary["seconds"] > 0
    rows = lines(unbroken)
    assert [(row["phase"], row["epoch"]) for row in rows] == [("detect", 1), ("detect", 2)]
    assert rows[-1]["box_ap"] == summary["box_ap"] and 0 < rows[-1]["learning_rate"] <= 0.02
    detections = read(unbroken / "detections.json")
    assert {each["category_id"] for each in detections} <= {3, 7}, "those of the annotation file"
    assert {each["image_id"] for each in detections} <= set(range(1, 6))
    assert len(list((unbroken / "pictures").glob("0?.png"))) == 5
    for name in ("precision_recall.svg", "ap_by_class.png"):
        assert (unbroken / "pictures" / name).stat().st_size
    assert read(unbroken / "network_genotype.json") == read(place / "genotype.json")
    data = read(unbroken / "dataset.json")
    assert data["category_ids"] == [3, 7] and len(data["mean"]) == 3
    assert any((unbroken / "tensorboard" / "detect").iterdir())
    page = tiny.markup(unbroken / "report.html")
    for part in (
        "Detector",
        "AP by class",
        "The twelve numbers of COCO",
        "detector reaches a box AP",
    ):
        assert part in page
    for part in ("not trained here", "sign of collapse"):  # of a network that was searched for
        assert part not in page
    # Strong are the values that are not the default of a detector.
    assert '<tr class="strong"><td>fpn.channels</td>' in page
    assert "<tr><td>train.momentum</td>" in page


def truth_of(place, part):
    return read(place / f"{part}.json")["annotations"]


def test_a_detector_of_masks(place, tmp_path, capsys):
    """Numbers of boxes and of masks in every file and line, and masks beside boxes in the detections."""
    workdir = tmp_path / "run"
    assert start(place, workdir, *masks([])) == 0
    summary, evaluation = read(workdir / "summary.json"), read(workdir / "detection.json")
    for name in ("AP", "AP50", "AP75"):
        assert summary[f"box_{name.lower()}"] == evaluation["numbers"][name]
        assert summary[f"mask_{name.lower()}"] == evaluation["mask_numbers"][name]
    assert len(evaluation["mask_numbers"]) == 12
    assert "loss_masks" in lines(workdir)[-1]
    assert {"AP", "mask_AP"} <= evaluation["classes"][0].keys()
    assert lines(workdir)[-1]["mask_ap"] == summary["mask_ap"]
    sizes = {
        each["id"]: [each["height"], each["width"]] for each in read(place / "test.json")["images"]
    }
    for each in read(workdir / "detections.json"):
        mask = outlines.mask_of(each["segmentation"], *sizes[each["image_id"]])
        x, y, width, height = each["bbox"]
        outside = mask.copy()
        outside[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = False
        assert not outside.any()
    printed = capsys.readouterr().out
    assert "box AP " in printed and f"mask AP {100 * summary['mask_ap']:.1f}, AP50" in printed
    assert "outlines" in read(workdir / "dataset.json")["train"]
    assert len(list((workdir / "pictures").glob("0?.png"))) == 5


def test_the_same_command_again_finds_it_ended(place, unbroken, tmp_path):
    """Nothing is trained or compiled, also where it is evaluated less often from now on."""
    workdir = tmp_path / "again"
    shutil.copytree(unbroken, workdir)
    assert start(place, workdir, "--config.evaluate.every=2") == 0
    assert lines(workdir) == lines(unbroken)
    for name in ("detector.npz", "detections.json"):
        assert (workdir / name).read_bytes() == (unbroken / name).read_bytes(), name


def killing(step):
    """Checkpoints that send SIGTERM when that of a step has been saved."""

    class Killing(Checkpoints):
        def save(self, number, *arguments, **named):
            super().save(number, *arguments, **named)
            if number == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return Killing


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_stopped_run_ends_bit_equal(place, unbroken, tmp_path, monkeypatch, capsys, step):
    """Moved with its images, and with other workers: it ends as if nothing had happened."""
    with monkeypatch.context() as patch:
        patch.setattr(detection, "Checkpoints", killing(step))
        assert start(place, tmp_path / "run") == 128 + signal.SIGTERM
    assert f"SIGTERM in detect, saved at step {step}:" in capsys.readouterr().err
    page = tiny.markup(tmp_path / "run" / "report.html")
    said = "no finished epoch yet" if step == 1 else "epoch 1 of 2 of the detector"
    assert said in page and "The workdir holds no genotype yet" not in page
    moved = tmp_path / "moved"
    for part in ("train", "test"):
        shutil.copytree(place / part, moved / part)
        shutil.copy(place / f"{part}.json", moved)
    names = ("train_annotations", "train_images", "test_annotations", "test_images")
    paths = (moved / "train.json", moved / "train", moved / "test.json", moved / "test")
    flags = [f"--config.data.{name}={path}" for name, path in zip(names, paths)]
    if step == 1:  # starting a process takes seconds
        flags.append("--config.data.num_workers=1")
    (tmp_path / "run").rename(moved / "run")
    assert start(place, moved / "run", *flags) == 0
    for name in ("detector.npz", "detections.json", "network_genotype.json"):
        assert (moved / "run" / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert lines(moved / "run") == lines(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], masks([])], ids=["retinanet", "mask_rcnn"])
def test_a_killed_run_ends_bit_equal(place, tmp_path, flags):
    """SIGKILL within the first epoch, at its end, and within the second, in processes of their own."""
    import time

    def process(workdir):
        arguments = ["-m", "ddarts_jax.main", f"--config={place / 'tiny_detector.py'}"]
        return tiny.start([*arguments, f"--workdir={workdir}", *flags], place / "cache")

    whole = process(tmp_path / "whole")
    output, _ = whole.communicate(timeout=900)
    assert whole.returncode == 0, output
    workdir = tmp_path / "killed"
    for step in (1, 4, 6):
        running, directory = process(workdir), workdir / "checkpoints" / "detect"
        while not any(
            path.name.isdecimal() and int(path.name) >= step for path in directory.glob("*")
        ):
            assert running.poll() is None, running.communicate()[0]
            time.sleep(0.005)
        running.kill()
        running.communicate()
        assert not (workdir / "detector.npz").exists(), "it was killed too late"
    last = process(workdir)
    output, _ = last.communicate(timeout=900)
    assert last.returncode == 0, output
    assert "detect: continues after step" in output
    for name in ("detector.npz", "detections.json"):
        assert (workdir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_an_evaluation_repeats_the_results(place, unbroken, tmp_path, monkeypatch):
    """Of the run's own images, without its backbone or its training images; the summary stays."""
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    for name in ("detections.json", "detection.json"):
        (workdir / name).unlink()
    summary = (workdir / "summary.json").read_bytes()
    flags = ["--config.task=detect_evaluate", "--config.backbone.genotype="]
    flags += ["--config.data.train_annotations=", "--config.data.train_images="]
    assert start(place, workdir, *flags) == 0
    for name in ("detections.json", "detection.json"):
        assert (workdir / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert (workdir / "summary.json").read_bytes() == summary
    # Its own config is one too.
    assert (
        main.main(["main", f"--config={workdir}/config.json", f"--workdir={workdir}", flags[0]])
        == 0
    )
    assert read(workdir / "config.json")["task"] == "detect"


def test_an_evaluation_of_other_images_has_files_of_its_own(place, unbroken, tmp_path, caplog):
    """And one by other thresholds; the run's results stay. That of training images is warned of."""
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    before = files(workdir)
    annotations, images = tiny_detector.write_images(tmp_path / "more", 6, seed=5)
    flags = ["--config.task=detect_evaluate", f"--config.data.test_images={images}"]
    assert start(place, workdir, *flags, f"--config.data.test_annotations={annotations}") == 0
    assert read(workdir / "detection-more.json")["images"] == 6
    assert len(list((workdir / "pictures-more").glob("0?.png"))) == 6
    assert start(place, workdir, flags[0], "--config.test.limit=2") == 0
    assert len(read(workdir / "detections-test.json")) == 2 * 5
    own = [f"--config.data.test_annotations={place / 'train.json'}"]
    own += [f"--config.data.test_images={place / 'train'}"]
    assert "very images" not in caplog.text
    assert start(place, workdir, flags[0], *own) == 0
    assert "was trained on these very images" in caplog.text
    after = files(workdir)
    for name in ("summary.json", "detection.json", "detections.json", "config.json"):
        assert after[workdir / name] == before[workdir / name], name


def test_a_detector_above_a_trained_network(place, tmp_path, others, caplog):
    """Frozen norm and levels: their leaves stay bit-equal, statistics too, and grey images are made."""
    tiny.write_config(tmp_path)
    arguments = [
        "main",
        f"--config={tmp_path / 'tiny_config.py'}",
        f"--workdir={tmp_path / 'network'}",
    ]
    arguments += ["--config.task=train", f"--config.genotype={place / 'genotype.json'}"]
    arguments += [
        "--config.train.stem=half",
        "--config.train.epochs=1",
        "--config.data.image_size=32",
    ]
    assert main.main(arguments) == 0
    flags = [f"--config.backbone.run={tmp_path / 'network'}", "--config.backbone.frozen_levels=1"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert start(place, tmp_path / "run", *flags, "--config.train.epochs=1") == 0
    assert "made grey" in caplog.text
    network, found = (
        np.load(tmp_path / "network" / "network.npz"),
        np.load(tmp_path / "run" / "detector.npz"),
    )
    same, other = set(), set()
    for name in found.files:
        kind, part, *rest = name.split("/")
        if part == "backbone":
            equal = np.array_equal(found[name], network["/".join([kind, *rest])])
            (same if equal else other).add("/".join([kind, *rest]))
    statistics = {name for name in same | other if name.startswith("statistics/")}
    frozen = tuple(f"weights/{part}/" for part in ("stem", "second_stem", "cells/0"))
    still = statistics | {name for name in same | other if name.startswith(frozen)}
    assert statistics and still <= same
    # All others have moved, but for biases of 0 of what the cells do not read.
    assert other and all(name.endswith("preprocess0/norm/bias") for name in same - still)
    data, learnt = (
        read(tmp_path / "run" / "dataset.json"),
        read(tmp_path / "network" / "dataset.json"),
    )
    assert (data["mean"], data["std"]) == (
        pytest.approx(learnt["mean"]),
        pytest.approx(learnt["std"]),
    )
    assert data["image_shape"] == [None, None, 1]
    # The detector needs the network's folder no more.
    shutil.rmtree(tmp_path / "network")
    assert start(place, tmp_path / "run", *flags, "--config.task=detect_evaluate") == 0


def test_more_objects_than_take_part_in_training(place, tmp_path, others, caplog):
    """111 in an image, 100 train, which one line tells; all of them count in the evaluation."""
    content = read(place / "train.json")
    image = next(each for each in content["images"] if (each["height"], each["width"]) == (64, 64))
    content["annotations"] = [
        {"id": n + 1, "image_id": image["id"], "category_id": 3, "bbox": [5 * x, 5 * y, 4, 4]}
        for n, (y, x) in enumerate(divmod(n, 12) for n in range(111))
    ]
    content["annotations"] += [
        {"id": 1000 + n, "image_id": each["id"], "category_id": 7, "bbox": [1, 1, 9, 9]}
        for n, each in enumerate(content["images"])
        if each != image and each["height"] > 40
    ]
    (tmp_path / "many.json").write_text(json.dumps(content))
    flags = [
        f"--config.data.{part}_annotations={tmp_path / 'many.json'}" for part in ("train", "test")
    ]
    flags += [f"--config.data.test_images={place / 'train'}", "--config.data.canvases=((64,64),)"]
    with caplog.at_level(logging.INFO):
        assert start(place, tmp_path / "run", *flags, "--config.train.epochs=1") == 0
    told = [message for message in caplog.messages if "left out of training" in message]
    assert len(told) == 1 and told[0].startswith("11 objects")
    classes = {each["name"]: each for each in read(tmp_path / "run" / "detection.json")["classes"]}
    assert classes["bright"]["objects"] == 111
    assert np.isfinite(lines(tmp_path / "run")[0]["loss"])


# What is changed before a run goes on, and what the sentence names.
_CHANGES = {
    "another rate": (["--config.train.learning_rate=0.5"], "train.learning_rate: 0.02, 0.5"),
    "more epochs": (["--config.train.epochs=3"], "train.epochs: 2, 3. Use the same values"),
    "another seed": (["--config.seed=1"], "seed: 0, 1"),
    "another pyramid": (["--config.fpn.channels=16"], "fpn.channels: 8, 16"),
    "other canvases": (["--config.data.canvases=((64,64),)"], "data.canvases"),
    "other levels": (["--config.backbone.levels=(0,1)"], "backbone.levels"),
    "another width": (["--config.backbone.channels=8"], "backbone.channels: 4, 8"),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_another_run_does_not_continue(place, unbroken, capsys, change):
    """A config that would have given another detector is refused before anything is written."""
    flags, named = _CHANGES[change]
    assert named in refused(capsys, place, unbroken, *flags)


def test_other_images_do_not_continue(place, unbroken, tmp_path, capsys):
    """A box that was moved, in the training or in the test, and a class that was renamed."""
    for part in ("train", "test"):
        content = read(place / f"{part}.json")
        content["annotations"][0]["bbox"][0] += 1
        path = tmp_path / f"{part}.json"
        path.write_text(json.dumps(content))
        found = refused(capsys, place, unbroken, f"--config.data.{part}_annotations={path}")
        assert f"began with other data ({part} " in found
    flags = []
    for part in ("train", "test"):
        content = read(place / f"{part}.json")
        content["categories"][0]["name"] = "black"
        path = tmp_path / f"{part}.json"
        path.write_text(json.dumps(content))
        flags.append(f"--config.data.{part}_annotations={path}")
    assert "(class_names ['bright', 'dark'])" in refused(capsys, place, unbroken, *flags)


def test_a_detector_and_other_runs_keep_apart(place, unbroken, tmp_path, capsys):
    """Each is refused in the workdir of the other, and where a trained network or a run is asked for."""
    import synthetic

    run = synthetic.write_run(place / "search")
    assert "holds a run of task 'pipeline'" in refused(capsys, place, run)
    tiny.write_config(tmp_path)
    genotype = f"--config.genotype={place / 'genotype.json'}"
    for arguments, named in (
        (["--config.task=train", genotype], "holds a run of task 'detect'"),
        (["--config.task=evaluate", genotype], "holds a run of task 'detect'"),
        (["--config.task=pipeline"], "holds a run of task 'detect'"),
    ):
        before = files(unbroken)
        config = f"--config={tmp_path / 'tiny_config.py'}"
        assert main.main(["main", config, f"--workdir={unbroken}", *arguments]) == 2
        assert named in capsys.readouterr().err.splitlines()[-1]
        assert files(unbroken) == before
    for task, flags in (
        ("compare", [f"--config.runs={unbroken},{run}"]),
        ("seeds", [f"--workdir={unbroken}"]),
    ):
        config = f"--config={tiny.ROOT}/configs/{task}.py"
        assert main.main(["main", config, f"--workdir={tmp_path / task}", *flags]) == 2
        named = {"compare": "is that of a detector", "seeds": "holds a run"}[task]
        assert named in capsys.readouterr().err.splitlines()[-1]
    found = refused(capsys, place, tmp_path / "x", f"--config.backbone.run={unbroken}")
    assert "holds no trained network" in found


def test_the_report_of_a_running_detector(place, unbroken, tmp_path):
    """Without results yet; and with a part of the files that a killed run leaves."""
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    for name in ("summary.json", "detection.json", "detections.json", "detector.npz"):
        (workdir / name).unlink()
    page = tiny.markup(report.write(workdir))
    assert "epoch 2 of 2 of the detector" in page and "Average precision" in page
    assert "has reached a box AP of" in page
    (workdir / "metrics.jsonl").unlink()
    assert "no finished epoch yet" in tiny.markup(report.write(workdir))


def changed(place, name, change, part="train"):
    """Writes an annotation file of the images with a change; returns the flag that names it."""
    content = read(place / f"{part}.json")
    content = change(content) or content
    path = place / f"bad-{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return [f"--config.data.{part}_annotations={path}"]


def image(place, name, write):
    """Copies the training images, one of them spoilt; returns the flag that names the folder."""
    folder = place / f"images-{name}"
    if not folder.exists():
        shutil.copytree(place / "train", folder)
        write(folder / "1.png")
    return [f"--config.data.train_images={folder}"]


def table(name, **values):
    """A change of the first row of a table of an annotation file."""
    return lambda content: content[name][0].update(values)


def empty(content):
    """No object at all."""
    content["annotations"] = []


def spoilt(content):
    """Every box is bad."""
    for each in content["annotations"]:
        each["bbox"] = [1, 1, 0, 5]


def outlined(place, name, outline, part="train"):
    """The flags for a detector of masks, one object of which has another outline."""
    return masks(changed(place, name, table("annotations", segmentation=outline), part))


def coloured_map(place):
    """The folder of Cityscapes with a map that is a picture; returns the flags that train on it."""
    root = place / "cityscapes"
    for name in ("leftImg8bit/train/ulm/1_leftImg8bit", "gtFine/train/ulm/1_gtFine_instanceIds"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 32)).save(root / f"{name}.png")
    return masks([*_NOWHERE, "--config.data.name=cityscapes", f"--config.data.root={root}"])


_NOWHERE = [
    f"--config.data.{part}_{what}="
    for part in ("train", "test")
    for what in ("annotations", "images")
]
_RLE = {"size": [3, 3], "counts": [9]}
# {kind: (the flags, given the place, and what the sentence names)}.
_BAD = {
    # Annotation files.
    "no annotation file": (lambda p: ["--config.data.train_annotations=/no.json"], "/no.json"),
    "half an annotation file": (
        lambda p: changed(p, "half", lambda c: json.dumps(c)[:99]),
        "bad-half.json is not valid JSON",
    ),
    "a list": (lambda p: changed(p, "list", lambda c: "[]"), "holds no JSON object"),
    "no images": (lambda p: changed(p, "a", lambda c: c.pop("images") and None), "'images'"),
    "no categories": (
        lambda p: changed(p, "b", lambda c: c.pop("categories") and None),
        "'categories'",
    ),
    "no annotations": (
        lambda p: changed(p, "c", lambda c: c.pop("annotations") and None),
        "'annotations'",
    ),
    "an unknown image": (
        lambda p: changed(p, "d", table("annotations", image_id=99)),
        "image_id 99",
    ),
    "an unknown category": (
        lambda p: changed(p, "e", table("annotations", category_id=9)),
        "category_id 9",
    ),
    "an id twice": (lambda p: changed(p, "f", table("images", id=2)), "id 2 is there twice"),
    "boxes that are none": (lambda p: changed(p, "g", spoilt), "not four finite numbers"),
    "an RLE of another size": (
        lambda p: changed(p, "h", table("annotations", segmentation=_RLE)),
        "RLE of size [3, 3]",
    ),
    "a polygon of two points": (
        lambda p: changed(p, "i", table("annotations", segmentation=[[1, 1, 2, 2]])),
        "at least 3 points",
    ),
    "too many classes": (
        lambda p: changed(
            *(p, "j"),
            lambda c: c["categories"].extend({"id": n, "name": "x"} for n in range(100, 10100)),
        ),
        "10002 categories",
    ),
    "other categories in the test": (
        lambda p: changed(
            *(p, "k"),
            lambda c: c | {"categories": [{"id": 70, "name": "x"}], "annotations": []},
            "test",
        ),
        "no category in common",
    ),
    "a test without objects": (lambda p: changed(p, "l", empty, "test"), "nothing to be found"),
    "a training without objects": (lambda p: changed(p, "m", empty), "no image to train with"),
    # Masks. The first object is in the first image, of 32 x 60 pixels.
    "no outline": (lambda p: outlined(p, "n", None), "first is annotation 1"),
    "no outline in the test": (lambda p: outlined(p, "o", [], "test"), "have no segmentation"),
    "a mask of another size": (lambda p: outlined(p, "q", _RLE), "RLE of size [3, 3]"),
    "a mask of too few pixels": (
        lambda p: outlined(p, "r", {"size": [32, 60], "counts": [9]}),
        "do not add up to the 32 x 60 pixels",
    ),
    "a mask that is noise": (
        lambda p: outlined(p, "s", {"size": [32, 60], "counts": "~~~"}),
        "counts cannot be read",
    ),
    "an outline of two points": (
        lambda p: outlined(p, "t", [[1, 1, 9, 9]]),
        "at least 3 points",
    ),
    "an outline of a word": (
        lambda p: outlined(p, "u", [[1, 1, 9, 9, 1, "9 px"]]),
        "not finite numbers",
    ),
    "boxes of TensorFlow Datasets": (
        lambda p: masks([*_NOWHERE, "--config.data.name=coco/2017"]),
        "no masks",
    ),
    "a map of Cityscapes that is none": (coloured_map, "1_gtFine_instanceIds.png"),
    "an option of another detector": (
        lambda p: masks(["--config.head.convs=2"]),
        "does not use it",
    ),
    # Image files.
    "an image that is not there": (
        lambda p: image(p, "gone", lambda file: file.unlink()),
        "images-gone/1.png",
    ),
    "an image that is none": (
        lambda p: image(p, "text", lambda file: file.write_text("x")),
        "images-text/1.png",
    ),
    "an image of another size": (
        lambda p: image(p, "size", lambda file: Image.new("RGB", (9, 9)).save(file)),
        "has 9 x 9 pixels",
    ),
    # Section data.
    "an unknown name": (lambda p: ["--config.data.name=cityscapes"], "'cityscapes'"),
    "digits with paths": (lambda p: ["--config.data.name=digits"], "data.name=coco"),
    "a root and paths": (lambda p: ["--config.data.root=/data"], "Name either"),
    "three of four paths": (lambda p: ["--config.data.test_images="], "all of"),
    "a canvas that is too small": (
        lambda p: ["--config.data.canvases=((32,64),)"],
        "holds every image (height x width up to 64 x 64)",
    ),
    "a canvas of odd sides": (lambda p: ["--config.data.canvases=((64,65),)"], "multiples of 32"),
    "a canvas of one side": (lambda p: ["--config.data.canvases=((64,),)"], "(height, width)"),
    "sides in the wrong order": (lambda p: ["--config.data.short_side=(9,8)"], "(least, most)"),
    "a batch of more than all images": (
        lambda p: ["--config.train.batch_images=99"],
        "train.batch_images=99 is larger than the images of every canvas",
    ),
    # The backbone.
    "no backbone": (lambda p: ["--config.backbone.genotype="], "needs a backbone"),
    "an unknown genotype": (lambda p: ["--config.backbone.genotype=DD-99"], "DD-99"),
    "a run that is none": (lambda p: ["--config.backbone.run=/nowhere"], "no trained network"),
    "a network without facts": (
        lambda p: [f"--config.backbone.run={bare(p)}"],
        "does not tell what its network was trained on",
    ),
    "random weights that stand still": (
        lambda p: ["--config.backbone.frozen_levels=1"],
        "set it to 0",
    ),
    "a level that there is not": (lambda p: ["--config.backbone.levels=(0,9)"], "position 9"),
    "levels of one stride": (lambda p: ["--config.backbone.levels=(0,2)"], "twice the stride"),
    "too few levels": (lambda p: ["--config.fpn.levels=1"], "config.fpn.levels=1"),
    "large images on a plain stem": (
        lambda p: ["--config.backbone.stem=plain", "--config.data.canvases=((64,512),)"],
        "config.train.stem=half",
    ),
    # Values.
    "decays in the wrong order": (lambda p: ["--config.train.decay_epochs=(3,2)"], "ascending"),
    "a threshold beyond 1": (lambda p: ["--config.test.nms=1.5"], "test.nms"),
    "no epochs": (lambda p: ["--config.train.epochs=0"], "train.epochs"),
    "an evaluation of nothing": (lambda p: ["--config.task=detect_evaluate"], "no detector in"),
}


def bare(place):
    """A folder with a network's weights alone."""
    folder = place / "bare"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "network.npz", x=np.zeros(1))
    return folder


@pytest.mark.parametrize("kind", _BAD)
def test_a_mistake_is_one_sentence(place, tmp_path, capsys, monkeypatch, kind):
    """Status 2, no traceback, before anything is compiled; no result is written."""
    flags, named = _BAD[kind]
    monkeypatch.setattr(training, "lower", None)
    assert named in refused(capsys, place, tmp_path / "run", *flags(place))
    left = (
        {path.name for path in (tmp_path / "run").glob("*")} if (tmp_path / "run").exists() else ()
    )
    assert set(left) <= {".lock"}


def test_what_an_evaluation_refuses(place, unbroken, tmp_path, capsys):
    """Another size of images or another head than the detector has, and other classes."""
    task = "--config.task=detect_evaluate"
    found = refused(capsys, place, unbroken, task, "--config.fpn.channels=16")
    assert "fpn.channels: 8, 16" in found and f"--config={unbroken}/config.json" in found
    other = ("detector=faster_rcnn", "anchor.scale=4.0", "head.convs=4", "rpn.limit=7")
    found = refused(capsys, place, unbroken, task, *(f"--config.{each}" for each in other))
    assert "detector: 'retinanet', 'faster_rcnn'" in found and "rpn.limit: 1000, 7" in found
    found = refused(capsys, place, unbroken, task, "--config.data.short_side=(99,)")
    assert "data.short_side" in found
    content = read(place / "test.json")
    content["categories"][0]["name"] = "black"
    (tmp_path / "named.json").write_text(json.dumps(content))
    flag = f"--config.data.test_annotations={tmp_path / 'named.json'}"
    assert "'dark' in" in refused(capsys, place, unbroken, task, flag)


def test_a_batch_that_does_not_divide(place, tmp_path, capsys, monkeypatch):
    """The sentence names the key and the nearest sizes that do."""
    mesh = sharding.data_mesh
    monkeypatch.setattr(sharding, "data_mesh", lambda size, **named: mesh(size, range(3), **named))
    found = refused(capsys, place, tmp_path / "run")
    assert "train.batch_images=4 cannot be split evenly over 3 devices: use 3 or 6" in found


def test_a_detector_is_trained_by_one_process(place, tmp_path, capsys, monkeypatch):
    """Several are told so."""
    monkeypatch.setattr(main.processes, "count", lambda: 2)
    monkeypatch.setattr(main.processes, "leave", lambda *arguments: None)
    assert start(place, tmp_path / "run") == 2
    assert "Task 'detect' runs in one process" in capsys.readouterr().err


_TREES = tiny.SHARED / "detection" / "real" / "trees"


@pytest.mark.slow
@pytest.mark.skipif(not _TREES.exists(), reason="the photographs are not here")
def test_real_photographs(place, tmp_path, others):
    """Aerial photographs with tree crowns: files load, and the loss about halves in 20 epochs."""
    values = {"data.short_side": "(192,)", "data.canvases": "()", "train.epochs": 20}
    values |= {"backbone.channels": 8, "fpn.channels": 16, "evaluate.every": 20, "chunk_steps": 6}
    values |= {"train.warmup_steps": 20, "test.score": 0.05}
    for part in ("train", "test"):
        values[f"data.{part}_annotations"] = _TREES / f"{part}.json"
        values[f"data.{part}_images"] = _TREES
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    assert start(place, tmp_path / "run", *flags) == 0
    losses = [row["loss"] for row in lines(tmp_path / "run")]
    assert losses[-1] < 0.55 * losses[0], losses
    assert read(tmp_path / "run" / "detection.json")["objects"] == 210

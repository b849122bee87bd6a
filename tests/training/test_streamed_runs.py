"""Whole runs on streamed images: search, training and evaluation, resumed in the middle of an epoch."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from ddarts_jax import main
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.predict import predict

_CONFIG = """
import sys

sys.path.insert(0, {tests!r})
import tiny


def get_config():
    config = tiny.config("")
    config.data.name = "folder:{folder}"
    config.data.stream = True
    config.data.num_workers = 0
    config.data.image_size = 12
    config.search.epochs = 1
    config.search.stem = "strided"
    config.search.augment.resized_crop = 0.3
    config.train.epochs = 2
    config.train.stem = "strided"
    config.train.augment.resized_crop = 0.3
    config.train.augment.color_jitter = 0.2
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 2 x 20 training and 2 x 5 test JPEGs: dark and bright ones; and a config."""
    directory = tmp_path_factory.mktemp("streamed")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for label, (name, level) in enumerate((("dark", 40), ("bright", 200))):
            folder = directory / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(level, 20, (16 + label, 18, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    config = _CONFIG.format(tests=str(tiny.ROOT / "tests"), folder=directory / "images")
    (directory / "config.py").write_text(config)
    return directory


def run(place, workdir, *overrides):
    arguments = ["--config", str(place / "config.py"), "--workdir", str(workdir), *overrides]
    return main.main(["main", *arguments])


def train(place, workdir, *overrides):
    Genotype([[("skip_connect", 2, 0), ("skip_connect", 2, 1)]], (), (2,)).save(
        place / "genotype.json"
    )
    genotype = f"--config.genotype={place / 'genotype.json'}"
    return run(place, workdir, "--config.task=train", genotype, *overrides)


def test_a_search_on_streamed_images(place, tmp_path):
    """Both halves are streamed; what a search on images in memory leaves is left."""
    assert run(place, tmp_path, "--config.task=search") == 0
    assert Genotype.load(tmp_path / "genotype.json").num_cells == 2
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert np.isfinite(record["loss"]) and len(record["marginal_contribution"]) == 2


def test_training_resumes_in_the_middle_of_an_epoch(place, tmp_path, monkeypatch):
    """Stopped within the second epoch it ends bit-equal; the test images count once each."""
    assert train(place, tmp_path / "whole") == 0
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["test_accuracy"] * 10 % 1 == pytest.approx(0, abs=1e-6)
    evaluation = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert {name: row["images"] for name, row in evaluation["classes"].items()} == {
        "bright": 5,
        "dark": 5,
    }

    from ddarts_jax.training.checkpoint import Checkpoints

    save, saved = Checkpoints.save, []

    def stop_after_third(self, step, *arguments, **named):
        save(self, step, *arguments, **named)
        saved.append(step)
        if len(saved) == 3:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop_after_third)
    assert train(place, tmp_path / "broken") == 130
    monkeypatch.undo()
    assert saved[-1] % 4, "the third checkpoint lies within an epoch"
    assert train(place, tmp_path / "broken") == 0
    for name in ("network.npz", "network_genotype.json"):
        whole, broken = ((tmp_path / kind / name).read_bytes() for kind in ("whole", "broken"))
        assert whole == broken

    # Another image in the folder makes it another data set.
    extra = place / "images" / "train" / "dark" / "extra.jpg"
    (place / "images" / "train" / "dark" / "0.jpg").rename(extra)
    try:
        assert train(place, tmp_path / "broken") == 2
    finally:
        extra.rename(place / "images" / "train" / "dark" / "0.jpg")


def test_a_broken_image_is_named(place, tmp_path, capsys):
    """A JPEG that is cut off ends the run with one sentence that names the file."""
    path = place / "images" / "train" / "bright" / "3.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        assert train(place, tmp_path) == 2
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err
    assert "3.jpg" in error.splitlines()[-1] and "Traceback" not in error


def test_the_size_must_be_given(place, tmp_path, capsys):
    """Images of a stream have no common size of their own."""
    assert train(place, tmp_path, "--config.data.image_size=0") == 2
    assert "data.image_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet_train", [0.1 * 0.97**epoch for epoch in range(6)]),
        # Of the last of 2 steps an epoch: 10 steps of warm-up, then half of a cosine of 2 steps.
        ("imagenet_train_cosine", [0.01, 0.03, 0.05, 0.07, 0.09, 0.05]),
    ],
)
def test_imagenet_training_config(place, tmp_path, name, expected):
    """configs/imagenet_train.py and its cosine run with small images, channels and few epochs."""
    cell = (("skip_connect", 2, 0), ("skip_connect", 2, 1))
    Genotype((cell,), (0,), (2,), (0, 0)).save(tmp_path / "genotype.json")
    arguments = ["--config", f"configs/{name}.py", "--workdir", str(tmp_path / "run")]
    arguments += [f"--config.genotype={tmp_path / 'genotype.json'}"]
    arguments += [f"--config.data.name=folder:{place / 'images'}", "--config.data.num_workers=0"]
    arguments += ["--config.data.image_size=24", "--config.data.batch_size=20"]
    arguments += ["--config.train.epochs=6", "--config.train.channels=2"]
    arguments += ["--config.train.auxiliary_weight=0.0"]  # the images are too small for the head
    assert main.main(["main", *arguments]) == 0
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "run/metrics.jsonl").open()]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_network_of_streamed_images_is_exported(place, tmp_path):
    """The export reads test images as the stream does; so does `predict`, from their files."""
    assert train(place, tmp_path / "run", "--config.train.epochs=4") == 0
    arguments = ["--config", "configs/export.py", f"--config.run={tmp_path / 'run'}"]
    assert main.main(["main", *arguments, f"--config.output={tmp_path / 'out'}"]) == 0
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert meta["test"] == {"accuracy": summary["test_accuracy"], "images": 10}
    assert meta["preprocessing"]["crop"] == 0.875
    card = (tmp_path / "out" / "README.md").read_text()
    assert "central square" in card and "0.875 * min(image.size)" in card

    folder = place / "images" / "test"
    files = sorted(folder.glob("*/*.jpg"))
    answers = [rows[0][0] for rows in predict(tmp_path / "out", files, top=1)]
    right = np.mean([answer == file.parent.name for answer, file in zip(answers, files)])
    assert right == summary["test_accuracy"]

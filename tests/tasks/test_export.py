"""Export: every file works without the package, and nothing wrong or half-written is left."""

import collections
import errno
import importlib.util
import json
import logging
import os
import re
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import model_card
import numpy as np
import pages
import pytest
import safetensors.numpy
import tiny
from ml_collections import ConfigDict
from PIL import Image

from ddarts_jax import configuration, main
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network
from ddarts_jax.models.weights import load_network
from ddarts_jax.tasks import export
from ddarts_jax.tasks.export import checks, formats, snippets, task, trained_run

# Two cells that compile quickly; one convolution has another form in the export than in training.
_GENOTYPE = Genotype(
    genes=(
        (("dil_conv_3x3", 2, 0), ("skip_connect", 2, 1)),
        (("max_pool_3x3", 2, 0), ("avg_pool_3x3", 2, 1)),
    ),
    reductions=(1,),
    concat=(2,),
    seq=None,
)


def _config(run, output):
    config = configuration.export_config()
    config.run, config.output = str(run), str(output)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a short training on real digits."""
    place = tmp_path_factory.mktemp("training")
    config = tiny.write_config(place)
    _GENOTYPE.save(place / "genotype.json")
    arguments = ["--config", str(config), "--workdir", str(place / "run"), "--config.task=train"]
    arguments += [f"--config.genotype={place / 'genotype.json'}", "--config.train.epochs=2"]
    assert main.main(["main", *arguments]) == 0
    return place / "run"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder that the export of it wrote, and what `run` returned."""
    place = tmp_path_factory.mktemp("export")
    meta = export.run(_config(trained, place / "new" / "out"), place)
    assert sorted(os.listdir(place)) == ["new"], "something was left in the workdir"
    assert os.listdir(place / "new") == ["out"]
    return place / "new" / "out", meta


@pytest.fixture(scope="module")
def expected(trained):
    """The data set, its test images, normalised, and the logits that the network itself gives."""
    settings = json.loads((trained / "config.json").read_text())
    dataset = data.load(ConfigDict(settings["data"]))
    net, empty = network.build(
        _GENOTYPE,
        channels=settings["train"]["channels"],
        num_classes=dataset.num_classes,
        image_channels=dataset.channels,
        image_size=dataset.image_size,
        stem_multiplier=settings["train"]["stem_multiplier"],
        key=None,
    )
    variables = load_network(trained / "network.npz", empty)
    images = (dataset.test_images / 255.0 - dataset.mean) / dataset.std  # float64
    images = images.astype(np.float32)
    logits = jax.jit(lambda x: network.forward(net, variables, x, False)[0])(images)
    assert logits.std(axis=0).max() > 0.01, "all images alike: a comparison of nothing"
    return dataset, images, np.asarray(logits)


def test_the_folder_holds_what_is_promised(exported, expected, trained):
    """All files are there, and meta.json tells data, preprocessing, accuracy and versions."""
    folder, meta = exported
    dataset, _, logits = expected
    assert set(export.FILES) - {"model.onnx"} <= set(os.listdir(folder)) <= set(export.FILES)
    assert json.loads((folder / "meta.json").read_text()) == meta
    assert Genotype.load(folder / "genotype.json") == _GENOTYPE
    assert meta["class_names"] == ["0", "1", "2"] and meta["data"] == "npz:digits.npz"
    given = meta["preprocessing"]
    assert (given["image_size"], given["channels"]) == (8, 1)
    pixels = dataset.train_images / 255.0
    np.testing.assert_allclose(given["mean"], [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(given["std"], [pixels.std()], rtol=1e-6)
    summary = json.loads((trained / "summary.json").read_text())
    hits = np.sum(logits.argmax(1) == dataset.test_labels)
    assert meta["test"] == {"accuracy": summary["test_accuracy"], "images": 15}
    assert meta["test"]["accuracy"] == hits / 15
    assert (meta["parameters"], meta["macs"]) == (summary["params"], summary["macs"])
    assert meta["versions"]["jax"] == jax.__version__
    check = meta["checks"]["model.stablehlo"]
    assert check["same_class"] == 15 and 0 <= check["largest_difference"] < 1e-5


@pytest.mark.parametrize("count", [1, 15])
def test_stablehlo_takes_any_batch_size(exported, expected, count):
    """The program gives the network's logits for one image and for all of them."""
    _, images, logits = expected
    program = jax.export.deserialize(bytearray((exported[0] / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    assert re.search("tensor<(3x3|5x5)x4x4xf32>", program.mlir_module()), "as for a CPU alone"
    found = program.call(images[:count])
    np.testing.assert_allclose(found, logits[:count], rtol=0, atol=1e-5)


def test_safetensors_are_the_trained_weights(exported, trained):
    """The file holds every array of network.npz under its name, bit for bit."""
    found = safetensors.numpy.load_file(exported[0] / "weights.safetensors")
    with np.load(trained / "network.npz") as wanted:
        assert set(found) == set(wanted.files)
        for name, array in found.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, wanted[name])


def test_onnx_takes_any_batch_size(exported, expected):
    """Where the converter is installed, the ONNX file gives the network's logits too."""
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported[0] / "model.onnx")
    _, images, logits = expected
    for count in (1, 15):
        (found,) = session.run(["logits"], {"images": images[:count]})
        np.testing.assert_allclose(found, logits[:count], rtol=0, atol=1e-5)


def test_the_onnx_graph_is_made_of_folded_standard_operations(exported):
    """No BatchNorm, product of images or broadcast is left: what every runtime and int8 can take."""
    onnx = pytest.importorskip("onnx")
    if not (exported[0] / "model.onnx").is_file():
        pytest.skip("needs jax2onnx")
    model = onnx.load(exported[0] / "model.onnx")
    assert [each.domain for each in model.opset_import] == [""]
    counts = collections.Counter(node.op_type for node in model.graph.node)
    # The stem, four layers before the cells, and a depthwise convolution, without a bias, with its 1x1.
    assert counts.pop("Conv") == 7
    assert sum(len(node.input) == 3 for node in model.graph.node if node.op_type == "Conv") == 6
    assert counts.pop("Transpose") <= 2  # of the images, and of single pixels
    assert set(counts) == {
        *("Relu", "Add", "Concat", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "Squeeze", "Gemm"),
    }


def test_the_recipe_for_int8_works_as_printed(exported, expected, tmp_path, monkeypatch):
    """The page's code quantises the ONNX file, whose logits stay near to those in float32."""
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    dataset, images, logits = expected
    (tmp_path / "model.onnx").write_bytes((exported[0] / "model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    (code,) = [
        each
        for each in pages.blocks(tiny.ROOT / "docs" / "guides" / "export.md")
        if "quantize_static" in each
    ]

    def preprocess(images):
        return ((images / 255 - dataset.mean) / dataset.std).astype(np.float32)

    exec(code, {"images": dataset.train_images, "preprocess": preprocess})
    session = onnxruntime.InferenceSession("model.int8.onnx")
    (found,) = session.run(["logits"], {"images": images})
    assert 0 < np.abs(found - logits).mean() < 0.1 * np.abs(logits).max()


def test_the_code_of_the_model_card_works_as_printed(exported, expected, tmp_path, capsys):
    """Every Python block of README.md runs in the folder and names the network's class."""
    folder, meta = exported
    dataset, _, logits = expected
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.fromarray(dataset.test_images[3, ..., 0]).save(tmp_path / "image.png")
    *answers, weights = model_card.printed(tmp_path, capsys)
    assert answers == [f"['{logits[3].argmax()}']\n"] * len(meta["checks"])
    assert "statistics/stem/norm/mean (4,)" in weights


@pytest.mark.parametrize("package", ["ddarts_jax", "flax", "ddarts_jax.models.network", "jax"])
def test_the_fresh_process_is_without_the_package(tmp_path, monkeypatch, package):
    """What a fresh process must do without cannot be imported there, wherever it is installed."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    with pytest.raises(UserError, match=f"No module named '{package.partition('.')[0]}"):
        checks.run_fresh(f"import {package}", tmp_path, tmp_path, 1, (*checks.OURS, "jax"))
    checks.run_fresh("import numpy", tmp_path, tmp_path, 1, (*checks.OURS, "jax"))


def test_an_export_that_was_killed_leaves_nothing(tmp_path):
    """The next one removes its folder; an earlier export that stood aside comes back."""
    dead = 2**22 + 1  # above the largest number of a process
    for name in (
        f".a[1].{dead}.tmp",
        f".a[1].{dead}.old",
        f".a[1].{os.getpid()}.tmp",
        ".a[1].mine",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / f".a[1].{dead}.old" / "meta.json").write_text("earlier")
    for _ in range(2):
        task._tidy(tmp_path / "a[1]")
        assert sorted(os.listdir(tmp_path)) == sorted(
            ["a[1]", f".a[1].{os.getpid()}.tmp", ".a[1].mine"]
        )
        assert (tmp_path / "a[1]" / "meta.json").read_text() == "earlier"


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _half_done(monkeypatch):
    """Makes the disk full when the last of the large files is written."""
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.name == "weights.safetensors":
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)


def _other_weights(monkeypatch):
    """Makes the safetensors library write one wrong bit."""
    save = safetensors.numpy.save

    def flipped(tensors):
        content = bytearray(save(tensors))
        content[-1] ^= 1
        return bytes(content)

    monkeypatch.setattr(safetensors.numpy, "save", flipped)


def _other_logits(monkeypatch):
    """Makes the code that loads the program give other logits."""
    code = snippets.STABLEHLO + "right = forward\nforward = lambda x: right(x) + 1e-3\n"
    monkeypatch.setattr(snippets, "STABLEHLO", code)


def _broken_program(monkeypatch):
    """Makes the code that loads the program fail."""
    monkeypatch.setattr(snippets, "STABLEHLO", "raise OSError('broken program')\n")


def _interrupted(monkeypatch):
    """Interrupts by Ctrl-C just before the new folder moves to its place."""
    rename = os.rename

    def interrupted(old, new):
        if Path(new).name == "out" and Path(old).suffix == ".tmp":
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "rename", interrupted)
    monkeypatch.setattr(checks, "check", lambda *_: {})


@pytest.mark.parametrize(
    "fault, error, message",
    [
        (_half_done, UserError, "cannot be written to .*out: No space left on device"),
        (_other_weights, UserError, "weights.safetensors does not hold"),
        (_other_logits, UserError, "model.stablehlo does not compute .* by 0.001"),
        (_broken_program, UserError, "fresh process: OSError: broken program"),
        (_interrupted, KeyboardInterrupt, None),
    ],
)
def test_whatever_goes_wrong_the_earlier_export_stays(
    trained, expected, tmp_path, monkeypatch, fault, error, message
):
    """Where an export fails, the folder and all around it is as it was before."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "meta.json").write_text("earlier")
    monkeypatch.setattr(formats, "write_onnx", lambda *_: None)  # takes long
    # Compiled once for all of these tests.
    monkeypatch.setattr(trained_run, "compute_logits", lambda *_: expected[2])
    fault(monkeypatch)
    with pytest.raises(error, match=message):
        export.run(_config(trained, output), tmp_path)
    assert _content(output) == {"meta.json": b"earlier"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_earlier_export_is_replaced(trained, exported, tmp_path, monkeypatch, caplog):
    """Exporting again replaces every file, through a link too; what no longer holds is gone."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.onnx").write_text("earlier")
    (output / "meta.json").write_text("{}")
    (tmp_path / "link").symlink_to(output)
    monkeypatch.setattr(formats, "write_onnx", lambda *_: None)
    monkeypatch.setattr(checks, "check", lambda *_: {})
    summary = (trained / "summary.json").read_text()
    try:
        (trained / "summary.json").write_text('{"test_accuracy": 0.99}')
        export.run(_config(trained, tmp_path / "link"), tmp_path)
    finally:
        (trained / "summary.json").write_text(summary)
    found, wanted = _content(output), _content(exported[0])
    assert set(found) == set(export.FILES) - {"model.onnx"}
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]
    for name in ("genotype.json", "weights.safetensors"):
        assert found[name] == wanted[name]
    assert "is this the data of the training?" in caplog.text


def test_what_is_no_export_is_never_replaced(trained, tmp_path):
    """A folder with anything else in it, or a file, is refused and stays."""
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("mine")
    (folder / "meta.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not an earlier export: it holds 'notes\.txt'"):
        export.run(_config(trained, folder), tmp_path)
    (folder / "meta.json").unlink()
    (folder / "notes.txt").rename(folder / "README.md")
    with pytest.raises(UserError, match=r"not an earlier export: it holds 'README\.md'"):
        export.run(_config(trained, folder), tmp_path)
    with pytest.raises(UserError, match="is a file: name a folder"):
        export.run(_config(trained, file), tmp_path)
    assert _content(folder) == {"README.md": b"mine"} and file.read_text() == "mine"


def test_what_the_user_can_mend_is_one_sentence(trained, tmp_path):
    """A missing name, run, network, config or data set is named."""
    output = tmp_path / "out"
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"--config\.run=DIR"):
        export.run(_config("", output), tmp_path)
    with pytest.raises(UserError, match=r"--config\.output=DIR"):
        export.run(_config(trained, ""), tmp_path)
    with pytest.raises(UserError, match=f"no run {run}"):
        export.run(_config(run, output), tmp_path)
    run.mkdir()
    with pytest.raises(UserError, match=r"no trained network in .*config\.json: run task 'train'"):
        export.run(_config(run, output), tmp_path)
    config = (trained / "config.json").read_text()
    (run / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"no trained network in .*network\.npz: run task"):
        export.run(_config(run, output), tmp_path)
    (run / "network.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"genotype\.json"):
        export.run(_config(run, output), tmp_path)
    _GENOTYPE.save(run / "genotype.json")
    with pytest.raises(UserError, match="cannot be read"):
        export.run(_config(run, output), tmp_path)
    (run / "config.json").write_text(config.replace("digits.npz", "gone.npz"))
    with pytest.raises(UserError, match=r"gone\.npz"):
        export.run(_config(run, output), tmp_path)
    for broken in ("", "[]", "{}", '{"data": 1, "train": {}}'):
        (run / "config.json").write_text(broken)
        with pytest.raises(UserError, match="is not the config of a training"):
            export.run(_config(run, output), tmp_path)
    assert not output.exists()


def test_a_diverged_network_is_not_exported(trained, tmp_path):
    """A network of NaN is told as such."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "network_genotype.json"):
        (run / name).write_text((trained / name).read_text())
    with np.load(trained / "network.npz") as file:
        np.savez(run / "network.npz", **{name: file[name] * np.nan for name in file.files})
    with pytest.raises(UserError, match="diverged"):
        export.run(_config(run, tmp_path / "out"), tmp_path)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("code", [None, "raise ImportError('another JAX')"])
def test_without_a_working_converter_there_is_no_onnx_file(tmp_path, monkeypatch, caplog, code):
    """One that is missing is told, one that fails is an error; logging is as before."""
    if code:
        monkeypatch.delitem(sys.modules, "jax2onnx", raising=False)
        (tmp_path / "jax2onnx.py").write_text(code)
        (tmp_path / "onnxruntime.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UserError, match=r"jax2onnx fails .*ImportError\('another JAX'\)"):
            formats.write_onnx(tmp_path / "model.onnx", jnp.sin, {"images": (8, 8, 1)}, ["logits"])
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        formats.write_onnx(tmp_path / "model.onnx", jnp.sin, {"images": (8, 8, 1)}, ["logits"])
        assert "model.onnx was not written: install 'ddarts_jax[onnx]'" in caplog.text
    assert not (tmp_path / "model.onnx").exists()
    assert logging.root.manager.disable == logging.NOTSET

"""Prediction: an export and image files give the network's own answers, or clear sentences."""

import json
import shutil

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from ddarts_jax import predict
from ddarts_jax.data import dataset as data
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network

_NAMES = [str(digit) for digit in range(10)]
_MEAN, _STD = 0.3, 0.4


def _write_export(folder, forward, size, channels):
    """Writes the files of an export that a prediction reads."""
    folder.mkdir()
    shape = jax.export.symbolic_shape(f"batch, {size}, {size}, {channels}")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.export.export(jax.jit(forward), platforms=("cpu", "cuda"))(images)
    (folder / "model.stablehlo").write_bytes(program.serialize())
    given = {"image_size": size, "crop": None, "channels": channels, "mean": [_MEAN] * channels}
    given |= {"std": [_STD] * channels}
    meta = {"format": 1, "class_names": _NAMES, "preprocessing": given}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An export of a network of random weights for grey digits, and its forward pass."""
    genotype = Genotype(((("skip_connect", 2, 0), ("max_pool_3x3", 2, 1)),), (), (2,), None)
    sizes = {"channels": 8, "num_classes": 10, "image_channels": 1, "image_size": 8}
    net, variables = network.build(genotype, key=jax.random.key(1), **sizes)
    variables = jax.tree.map(np.asarray, variables)

    def forward(images):
        return 10 * network.forward(net, variables, images, False)[0]

    folder = _write_export(tmp_path_factory.mktemp("digits") / "export", forward, 8, 1)
    return folder, jax.jit(forward)


def _corner(images):
    """Logits that tell the first pixel of each channel, [red, green, blue, 0...]."""
    return jnp.pad(images[:, 0, 0], ((0, 0), (0, 7)))


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """An export for colour images of 4x4 pixels that tells an image's colour by its probabilities."""
    return _write_export(tmp_path_factory.mktemp("colour") / "export", _corner, 4, 3)


def test_digits_get_the_network_s_classes(digits, tmp_path, monkeypatch):
    """Real digits, as PNG files in several batches, get the classes that their pixels get."""
    folder, forward = digits
    monkeypatch.setattr(predict, "_BATCH_SIZE", 16)
    images = np.round(load_digits().images[:50] * (255 / 16)).astype(np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    logits = forward(((images[..., None] / 255 - _MEAN) / _STD).astype(np.float32))
    expected = np.asarray(jax.nn.softmax(logits))
    results = predict.predict(folder, paths, top=10)
    assert [result[0][0] for result in results] == [_NAMES[k] for k in expected.argmax(1)]
    assert len({result[0][0] for result in results}) > 1, "a comparison of nothing"
    for result, row in zip(results, expected):
        values = [value for _, value in result]
        assert values == sorted(values, reverse=True) and abs(sum(values) - 1) < 1e-9
        np.testing.assert_allclose([dict(result)[name] for name in _NAMES], row, atol=1e-5)


_GREY16 = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))


@pytest.mark.parametrize(
    "name, image, seen",
    [
        ("rgb.png", Image.new("RGB", (4, 4), (255, 128, 0)), (255, 128, 0)),
        ("large.png", Image.new("RGB", (30, 20), (255, 128, 0)), (255, 128, 0)),
        ("rgb.jpg", Image.new("RGB", (8, 8), (200, 200, 200)), (200, 200, 200)),
        ("grey.png", Image.new("L", (4, 4), 77), (77, 77, 77)),
        ("16bit.png", _GREY16, (128, 128, 128)),
        ("palette.png", Image.new("RGB", (4, 4), (9, 8, 7)).convert("P"), None),
        ("cmyk.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), (255, 255, 255)),
        ("rgba.png", Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
    ],
)
def test_files_of_every_kind_are_treated_like_training_data(colour, tmp_path, name, image, seen):
    """The network sees the colour that the file shows, at its own size."""
    image.save(tmp_path / name)
    seen = np.array(seen or image.convert("RGB").getpixel((0, 0)))
    (result,) = predict.predict(colour, [tmp_path / name], top=10)
    found = np.array([dict(result)[label] for label in _NAMES[:4]])
    # Differences of logits are logarithms of ratios; the fourth logit is 0.
    logits = np.log(found[:3] / found[3])
    np.testing.assert_allclose(logits, (seen / 255 - _MEAN) / _STD, atol=1e-5)


def test_a_colour_file_becomes_grey_for_a_grey_network(digits, tmp_path):
    """A network of grey images sees the luma of a colour file, as Pillow computes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "colour.png")
    image.convert("L").save(tmp_path / "grey.png")
    first, second = predict.predict(
        digits[0], [tmp_path / "colour.png", tmp_path / "grey.png"], top=10
    )
    assert first == second


def test_the_command_line_tells_what_is_broken_and_goes_on(colour, tmp_path, capsys):
    """Good files get a line each in order; missing and broken ones a sentence, and status 2."""
    Image.new("RGB", (4, 4), (0, 255, 0)).save(tmp_path / "green.png")
    Image.new("RGB", (4, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "green.png").read_bytes()[:40])
    names = ["gone.png", "green.png", "broken.jpg", "blue.png", "."]
    arguments = [str(colour), *(str(tmp_path / name) for name in names), "--top", "2"]
    assert predict.main(arguments) == 2
    output, error = capsys.readouterr()
    lines = [line.split("\t") for line in output.splitlines()]
    assert [line[0] for line in lines] == [str(tmp_path / "green.png"), str(tmp_path / "blue.png")]
    assert [line[1].split()[0] for line in lines] == ["1", "2"] and len(lines[0]) == 3
    # e^1.75 among two of e^-0.75 and seven of 1.
    assert lines[0][1] == f"1 {np.exp(1.75) / (np.exp(1.75) + 2 * np.exp(-0.75) + 7):.4f}"
    errors = error.splitlines()
    assert len(errors) == 3 and "Traceback" not in error
    for line, name in zip(errors, ("gone.png", "broken.jpg", "")):
        assert line.startswith("error: ") and str(tmp_path / name) in line

    assert predict.main([str(colour), str(tmp_path / "green.png")]) == 0
    output, error = capsys.readouterr()
    assert len(output.splitlines()) == 1 and output.count("\t") == 3 and not error
    assert predict.main([str(colour), str(tmp_path / "gone.png")]) == 2


def _copy(export, target):
    target.mkdir()
    for path in export.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_folder_that_is_no_export_is_told(digits, colour, tmp_path, capsys):
    """A folder without an export, with half of one, or with files of two is one sentence."""
    image = tmp_path / "image.png"
    Image.new("L", (4, 4)).save(image)

    def error_of(folder, *arguments):
        assert predict.main([str(folder), str(image), *arguments]) == 2
        output, error = capsys.readouterr()
        assert not output and error.count("\n") == 1 and error.startswith("error: ")
        return error

    assert "not a folder that task 'export' wrote" in error_of(tmp_path / "gone")
    assert "not a folder that task 'export' wrote" in error_of(tmp_path)
    assert "--top" in error_of(colour, "--top=0")
    folder = _copy(colour, tmp_path / "export")
    program = (folder / "model.stablehlo").read_bytes()
    (folder / "model.stablehlo").unlink()
    assert "model.stablehlo cannot be read" in error_of(folder)
    (folder / "model.stablehlo").write_bytes(program[: len(program) // 2])
    assert "model.stablehlo is corrupt" in error_of(folder)
    (folder / "model.stablehlo").write_bytes((digits[0] / "model.stablehlo").read_bytes())
    assert "does not belong to meta.json" in error_of(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 2}))
    assert "of format 2" in error_of(folder)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.sampled_from([(), ("format",), ("class_names",), ("preprocessing",)]
    + [("preprocessing", key) for key in ("image_size", "channels", "mean", "std")]),
    _JSON,
)  # fmt: skip
def test_any_other_meta_json_is_a_user_error_or_read(colour, tmp_path_factory, where, value):
    """Whatever stands in a place of meta.json, reading it gives a valid one or a UserError."""
    meta = json.loads((colour / "meta.json").read_text())
    if where:
        inner = meta
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = value
    else:
        meta = value
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    try:
        found = predict.read_meta(folder)
    except UserError as error:
        assert str(folder) in str(error)
    else:
        given = found["preprocessing"]
        assert len(given["mean"]) == len(given["std"]) == given["channels"]
        assert given["image_size"] > 0 and all(isinstance(n, str) for n in found["class_names"])


def test_images_of_16_bits_have_the_range_of_the_training(colour, tmp_path):
    """12 bits in 16: white is what it was in the training, which the export knows."""
    Image.new("I;16", (4, 4), 2047).save(tmp_path / "image.png")
    folder = tmp_path / "export"
    shutil.copytree(colour, folder)
    meta = json.loads((folder / "meta.json").read_text())
    for white, value in ((4095, 127), (0, 8)):
        meta["preprocessing"]["white"] = white
        (folder / "meta.json").write_text(json.dumps(meta))
        read = predict._read(tmp_path / "image.png", predict.read_meta(folder)["preprocessing"])
        assert read.shape == (4, 4, 3) and (read == value).all()
    meta["preprocessing"]["white"] = "4095"
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="corrupt"):
        predict.read_meta(folder)


def test_channels_that_no_image_file_has(tmp_path):
    """A network of two channels is told to be none for image files."""
    folder = _write_export(tmp_path / "export", lambda x: jnp.zeros((x.shape[0], 10)), 4, 2)
    Image.new("L", (4, 4)).save(tmp_path / "image.png")
    (result,) = predict.predict(folder, [tmp_path / "image.png"])
    assert isinstance(result, UserError) and "reads 2 channels" in str(result)


def test_decoding_is_that_of_a_folder_of_training_images(digits, tmp_path):
    """The pixels that the network gets are those that `data.load` gives of the same files."""
    rng = np.random.default_rng(1)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(2):
            image = Image.fromarray(rng.integers(0, 256, (13, 9), np.uint8))
            image.save(tmp_path / label / f"{number}.png")
    config = {"name": f"folder:{tmp_path}", "data_dir": "", "image_size": 8}
    config |= {"images_per_class": 0, "test_fraction": 0.5, "white": 0}
    dataset = data.load(type("Config", (), config))
    images = np.concatenate([dataset.train_images, dataset.test_images])
    logits = digits[1](((images / 255 - _MEAN) / _STD).astype(np.float32))
    results = predict.predict(digits[0], sorted(tmp_path.glob("*/*.png")), top=10)
    found = [[dict(result)[name] for name in _NAMES] for result in results]
    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(sorted(found), sorted(expected.tolist()), atol=1e-5)

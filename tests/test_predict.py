"""Prediction: an export and image files give the program's own answers, or clear sentences."""

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


def _errors(capsys, image):
    """A function that returns the one sentence of a command on this image that is refused."""

    def error_of(folder, *arguments):
        assert predict.main([str(folder), str(image), *arguments]) == 2
        output, error = capsys.readouterr()
        assert not output and error.count("\n") == 1 and error.startswith("error: ")
        return error

    return error_of


def test_a_folder_that_is_no_export_is_told(digits, colour, tmp_path, capsys):
    """A folder without an export, with half of one, or with files of two is one sentence."""
    image = tmp_path / "image.png"
    Image.new("L", (4, 4)).save(image)
    error_of = _errors(capsys, image)

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


_CANVAS = (32, 48)  # height and width


def _find(images, sizes):
    """A detector of three boxes: the image, its left half, and another by the first pixel."""
    height, width = sizes.astype(jnp.float32).T
    zero = jnp.zeros_like(height)
    whole = jnp.stack([zero, zero, width, height], 1)
    half = jnp.stack([zero, zero, width / 2, height], 1)
    pixel = jnp.pad(10 + images[:, 0, 0], ((0, 0), (0, 1)))
    batch = images.shape[0]
    boxes = jnp.stack([whole, half, pixel], 1)
    scores = jnp.broadcast_to(jnp.float32([0.9, 0.5, 0.25]), (batch, 3))
    classes = jnp.broadcast_to(jnp.int32([1, 0, 1]), (batch, 3))
    return boxes, scores, classes, jnp.full(batch, 3)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """An export of `_find`, for colour images of which the shorter side becomes 24 pixels."""
    folder = tmp_path_factory.mktemp("detector") / "export"
    folder.mkdir()
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *_CANVAS, 3), jnp.float32)
    sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
    program = jax.export.export(jax.jit(_find), platforms=("cpu", "cuda"))(images, sizes)
    (folder / "model.stablehlo").write_bytes(program.serialize())
    given = {"canvas": _CANVAS, "short_side": 24, "long_side": 40, "channels": 3, "white": 4095}
    given |= {"mean": [_MEAN] * 3, "std": [_STD] * 3}
    meta = {"format": 2, "kind": "detector", "class_names": ["cat", "dog"], "category_ids": [3, 9]}
    meta |= {"preprocessing": given, "detections": {"limit": 3}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    "name, image, seen",
    [
        ("rgb.png", Image.new("RGB", (60, 30), (255, 128, 0)), (255, 128, 0)),
        ("small.jpg", Image.new("RGB", (8, 8), (200, 200, 200)), (200, 200, 200)),
        ("grey.png", Image.new("L", (48, 48), 77), (77, 77, 77)),
        ("16bit.png", Image.fromarray(np.full((48, 72), 2047, np.uint16)), (127, 127, 127)),
        ("palette.png", Image.new("RGB", (50, 40), (9, 8, 7)).quantize(2), (9, 8, 7)),
        ("cmyk.jpg", Image.new("CMYK", (40, 40), (0, 0, 0, 0)), (255, 255, 255)),
        ("rgba.png", Image.new("RGBA", (40, 30), (10, 20, 30, 0)), (255, 255, 255)),
        ("thin.png", Image.new("RGB", (400, 1), (255, 128, 0)), (255, 128, 0)),
    ],
)
def test_detection_reads_files_of_every_kind(detector, tmp_path, name, image, seen):
    """Boxes come back to the pixels of the file, whose colours the program has seen."""
    image.save(tmp_path / name)
    ((pixels, found),) = predict.detect(detector, [tmp_path / name], score=0)
    width, height = image.size
    assert pixels.shape == (height, width, 3) and (pixels == seen).all()
    np.testing.assert_allclose(found.boxes[0], [0, 0, width, height], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[1], [0, 0, width / 2, height], rtol=1e-6)
    ratio = min(24 / min(width, height), 40 / max(width, height))
    size = np.maximum(1, np.floor(np.array([width, height]) * ratio + 0.5))
    expected = (10 + (np.array(seen) / 255 - _MEAN) / _STD) * (np.array([width, height]) / size)[
        [0, 1, 0]
    ]
    np.testing.assert_allclose(found.boxes[2][:3], expected, rtol=1e-5)
    assert found.labels.tolist() == [1, 0, 1]


def test_a_photograph_is_turned_upright(detector, tmp_path):
    """Boxes are in pixels of the photograph as it is looked at."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    ((pixels, found),) = predict.detect(detector, [tmp_path / "photo.jpg"])
    assert pixels.shape == (30, 20, 3)
    np.testing.assert_allclose(found.boxes[0], [0, 0, 20, 30], rtol=1e-6)


def test_an_image_that_the_canvas_does_not_hold_is_made_smaller(detector, tmp_path, caplog):
    """An upright image on a lying canvas: its boxes are right, and the user is told."""
    for name, size in (("upright.png", (20, 40)), ("lying.png", (40, 20))):
        Image.new("RGB", size).save(tmp_path / name)
        ((_, found),) = predict.detect(detector, [tmp_path / name])
        np.testing.assert_allclose(found.boxes[0], [0, 0, *size], rtol=1e-6)
    (record,) = caplog.records
    assert "upright.png has 20 x 40 pixels, more than the canvas of 48 x 32" in record.getMessage()


def test_detections_are_printed_and_drawn(detector, tmp_path, capsys):
    """A line an object, a picture an image; broken files a sentence; no image is overwritten."""
    (tmp_path / "other").mkdir()
    Image.new("RGB", (80, 40), "blue").save(tmp_path / "blue.png")
    Image.new("L", (30, 30), 9).save(tmp_path / "other" / "blue.jpg")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    paths = [str(tmp_path / name) for name in ("blue.png", "broken.png", "other/blue.jpg")]
    before = (tmp_path / "blue.png").read_bytes()
    assert predict.main([str(detector), *paths, "--draw", str(tmp_path), "--score", "0.5"]) == 2
    output, error = capsys.readouterr()
    lines = [line.split("\t") for line in output.splitlines()]
    assert lines[0] == [paths[0], "dog", "0.9000", "0.00", "0.00", "80.00", "40.00"]
    assert lines[1] == [paths[0], "cat", "0.5000", "0.00", "0.00", "40.00", "40.00"]
    assert [line[0] for line in lines] == [paths[0]] * 2 + [paths[2]] * 2
    assert error.startswith("error: Cannot read") and "broken.png" in error
    assert error.count("\n") == 1
    assert (tmp_path / "blue.png").read_bytes() == before
    pictures = sorted(path.name for path in tmp_path.glob("*-detections.png"))
    assert pictures == ["blue-1-detections.png", "blue-3-detections.png"]
    with Image.open(tmp_path / pictures[0]) as picture:
        assert picture.size == (160, 80)  # small images are drawn twice as large
        assert picture.getpixel((120, 60)) == (0, 0, 255) != picture.getpixel((1, 60))

    assert predict.main([str(detector), paths[0]]) == 0
    output, error = capsys.readouterr()
    assert len(output.splitlines()) == 2 and not error  # from 0.3 on
    assert not list(tmp_path.glob("**/*.tmp"))


def test_the_sides_that_scale_an_image_may_be_of_any_size(detector, tmp_path):
    """What the config of a detector accepts, as its sentence for no limit; the canvas has one."""
    folder = _copy(detector, tmp_path / "export")
    whole = json.loads((folder / "meta.json").read_text())

    def read(**changes):
        given = whole["preprocessing"] | changes
        (folder / "meta.json").write_text(json.dumps(whole | {"preprocessing": given}))
        return predict.read_meta(folder)["preprocessing"]

    assert read(long_side=100_000)["long_side"] == 100_000
    read(short_side=70_000, long_side=100_000)
    read(short_side=0)  # images as they are
    Image.new("RGB", (30, 24)).save(tmp_path / "image.png")
    read(long_side=100_000)
    ((_, found),) = predict.detect(folder, [tmp_path / "image.png"])
    np.testing.assert_allclose(found.boxes[0], [0, 0, 30, 24], rtol=1e-6)
    for changes in (
        *({"long_side": side} for side in (0, -1, 40.0, True, "40", 10**400)),
        *({"short_side": side} for side in (-1, 24.0, None, 10**400)),
        *({"canvas": canvas} for canvas in ([32, 2**16], [0, 48], [32])),
        {"white": 2**16},
    ):
        with pytest.raises(UserError, match="corrupt"):
            read(**changes)


def test_what_a_detector_s_user_can_mend_is_told(detector, colour, tmp_path, capsys):
    """Options of the other kind, values out of range and folders that are none are one sentence."""
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    error_of = _errors(capsys, image)

    assert "is a detector: use --score" in error_of(detector, "--top=2")
    assert "is a classifier: use --top" in error_of(colour, "--score=0.5")
    assert "is a classifier: use --top" in error_of(colour, f"--draw={tmp_path}")
    assert "from 0 to 1, not 1.5" in error_of(detector, "--score=1.5")
    assert "from 0 to 1, not nan" in error_of(detector, "--score=nan")
    assert f"--draw={image}, cannot be made" in error_of(detector, f"--draw={image}")
    with pytest.raises(UserError, match="not that of a detector"):
        next(predict.detect(colour, [image]))
    folder = _copy(detector, tmp_path / "export")
    (folder / "model.stablehlo").write_bytes((colour / "model.stablehlo").read_bytes())
    assert "does not belong to meta.json" in error_of(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 3}))
    assert "of format 3, but this version of ddarts_jax reads format 2" in error_of(folder)
    (folder / "meta.json").write_text(json.dumps(meta | {"masks": [28, 28]}))
    assert "does not belong to meta.json" in error_of(folder)  # its program gives none
    (folder / "meta.json").write_text(json.dumps(meta | {"kind": "poem"}))
    assert "is corrupt" in error_of(folder)


@given(
    st.sampled_from([("kind",), ("class_names",), ("category_ids",), ("preprocessing",)]
    + [("detections", "limit"), ("masks",)]
    + [("preprocessing", key) for key in ("canvas", "short_side", "long_side", "mean", "white")]
    + [("preprocessing", "channels")]),
    _JSON,
)  # fmt: skip
def test_any_other_meta_json_of_a_detector_is_a_user_error_or_read(
    detector, tmp_path_factory, where, value
):
    """Whatever stands in a place of meta.json, reading it gives a valid one or a UserError."""
    meta = json.loads((detector / "meta.json").read_text())
    inner = meta
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    try:
        found = predict.read_meta(folder)
    except UserError as error:
        assert str(folder) in str(error)
    else:
        given = found["preprocessing"]
        assert len(given["mean"]) == given["channels"] and min(given["canvas"]) > 0
        assert isinstance(found["detections"]["limit"], int)
        assert len(found["category_ids"]) == len(found["class_names"])
        assert len(predict.mask_size(found)) in (0, 2)

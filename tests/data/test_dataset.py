"""Every source of images: what it reads, and that what is wrong with it becomes a UserError."""

import dataclasses
import io
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddarts_jax.data import stream
from ddarts_jax.data.dataset import Dataset, load, stratified_halves
from ddarts_jax.errors import UserError

SHARED = tiny.SHARED


@dataclasses.dataclass
class Config:
    """The part of `config.data` that `load` reads."""

    name: str
    data_dir: str = ""
    image_size: int = 0
    images_per_class: int = 0
    test_fraction: float = 0.2


def _check(dataset: Dataset):
    """What holds for every data set, with mean and std recomputed in float64."""
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.shape == (
            len(labels), dataset.image_size, dataset.image_size, dataset.channels,
        )  # fmt: skip
    assert set(dataset.train_labels) == set(range(dataset.num_classes))
    pixels = dataset.train_images / 255.0
    std = pixels.std((0, 1, 2))
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, np.where(std > 1e-9, std, 1), rtol=1e-5)
    assert dataset.mean.dtype == dataset.std.dtype == np.float32


# digits


def test_digits_are_the_official_arrays_split_by_class():
    """Together the splits hold each of scikit-learn's 1,797 digits once, a fifth held out.

    Rounding 0..16 to 0..255 loses nothing: it is undone exactly.
    """
    from sklearn.datasets import load_digits

    dataset = load(Config("digits"))
    _check(dataset)
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == (8, 1, 10)
    official = load_digits()
    expected = sorted((*row, label) for row, label in zip(official.data, official.target))
    images = np.concatenate([dataset.train_images, dataset.test_images]).reshape(-1, 64)
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    got = sorted((*row, label) for row, label in zip(np.round(images / 255 * 16), labels))
    assert got == expected
    sizes = np.bincount(official.target)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), np.round(sizes * 0.2))


def test_digits_split_is_fixed():
    """Two loads give the same split, so that accuracies of different seeds compare."""
    first, second = load(Config("digits")), load(Config("digits"))
    np.testing.assert_array_equal(first.test_images, second.test_images)
    larger = load(Config("digits", test_fraction=0.5))
    assert len(larger.test_labels) > 2 * len(first.test_labels)


def test_image_size_resizes_digits():
    """`image_size` resizes: Pillow's own result on the first image."""
    plain, resized = load(Config("digits")), load(Config("digits", image_size=12))
    _check(resized)
    assert resized.image_size == 12
    expected = Image.fromarray(plain.train_images[0, ..., 0]).resize((12, 12), Image.BILINEAR)
    np.testing.assert_array_equal(resized.train_images[0, ..., 0], np.asarray(expected))


def test_images_per_class_limits_both_splits():
    """A quick trial uses the same number of each class, images that are also in the whole set."""
    few, whole = load(Config("digits", images_per_class=7)), load(Config("digits"))
    assert np.bincount(few.train_labels).tolist() == [7] * 10
    assert np.bincount(few.test_labels).tolist() == [7] * 10
    assert {x.tobytes() for x in few.train_images} <= {x.tobytes() for x in whole.train_images}
    assert {x.tobytes() for x in few.test_images} <= {x.tobytes() for x in whole.test_images}
    np.testing.assert_array_equal(
        load(Config("digits", images_per_class=10**6)).train_images, whole.train_images
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_test_fraction(fraction):
    """A test fraction that leaves one split empty is named."""
    with pytest.raises(UserError, match="test_fraction"):
        load(Config("digits", test_fraction=fraction))


# the halves


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(-(2**40), 2**40))
def test_halves_are_stratified(labels, seed):
    """Disjoint, complete, and balanced within one image for every class and in all."""
    labels = np.array(labels, np.int32)
    first, second = stratified_halves(labels, seed)
    assert first.dtype == second.dtype == np.int32
    np.testing.assert_array_equal(np.sort(np.r_[first, second]), np.arange(len(labels)))
    counts = [np.bincount(labels[half], minlength=7) for half in (first, second)]
    assert abs(counts[0] - counts[1]).max() <= 1
    assert abs(len(first) - len(second)) <= 1
    again = stratified_halves(labels, seed)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])


def test_halves_depend_on_the_seed():
    """Another seed is another split."""
    labels = np.arange(100) % 5
    assert (stratified_halves(labels, 0)[0] != stratified_halves(labels, 1)[0]).any()


# folder:


def _write(root, files):
    """Writes images (or bytes) by their relative path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return f"folder:{root}"


def _image(value=100, size=(6, 6), mode="RGB"):
    return Image.new(mode, size, value if mode in ("L", "1", "I;16") else (value,) * len(mode))


def _classes(count=3, **options):
    """Two classes of `count` images."""
    return {f"{c}/{i}.png": _image(40 * i, **options) for c in ("cat", "dog") for i in range(count)}


def test_folder_is_a_class_each_in_order_of_names(tmp_path):
    """Classes are the folders by name; hidden files, system files and loose files are ignored."""
    files = {f"b/{i}.png": _image(10 + i) for i in range(5)}
    files |= {f"a/{i}.JPG": _image(200) for i in range(5)}
    files |= {"a/.DS_Store": b"x", "b/Thumbs.db": b"x", ".git/x": b"x", "readme.txt": b"x"}
    dataset = load(Config(_write(tmp_path, files)))
    _check(dataset)
    assert dataset.class_names == ("a", "b")
    assert (dataset.image_size, dataset.channels) == (6, 3)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)
    np.testing.assert_array_equal(dataset.train_images[:, 0, 0, 0] > 100, dataset.train_labels == 0)


def test_folder_with_train_and_test_is_not_split_again(tmp_path):
    """train/ and test/ are the splits; test may lack a class; one colour image makes all colour."""
    files = {f"train/{name}": image for name, image in _classes(2, mode="L").items()}
    files["test/dog/x.png"] = _image(7)
    dataset = load(Config(_write(tmp_path, files)))
    _check(dataset)
    assert (len(dataset.train_labels), dataset.channels) == (4, 3)
    np.testing.assert_array_equal(dataset.test_labels, [1])
    np.testing.assert_array_equal(dataset.test_images, np.full((1, 6, 6, 3), 7))


def test_folder_with_val_or_with_train_alone(tmp_path):
    """val/ is the test where there is no test/; of train/ alone a part is held out."""
    files = {f"train/{name}": image for name, image in _classes(5).items()}
    alone = load(Config(_write(tmp_path, files)))
    assert alone.class_names == ("cat", "dog")
    assert (len(alone.train_labels), len(alone.test_labels)) == (8, 2)
    files = {f"val/{name}": _image(200) for name in _classes(1)}
    dataset = load(Config(_write(tmp_path, files)))
    assert (len(dataset.train_labels), dataset.test_images.min()) == (10, 200)
    dataset = load(Config(_write(tmp_path, {"test/cat/0.png": _image(9)})))
    assert dataset.test_images.max() == 9


def test_what_is_skipped_or_missing_in_a_folder_is_logged(tmp_path, caplog):
    """Files that are no images by their names, folders besides the splits, and classes that the
    test lacks are told once, with their number and the first of them.
    """
    files = {f"train/{name}": image for name, image in _classes(2).items()}
    files |= {"test/dog/0.png": _image(), "extra/x.png": _image()}
    files |= {f"train/cat/{name}": b"x" for name in ("notes.txt", "labels.xml", ".hidden", "list")}
    with caplog.at_level(logging.WARNING):
        dataset = load(Config(_write(tmp_path, files)))
    assert len(dataset.train_labels) == 4
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert f"Folders ignored in {tmp_path}: extra." in texts
    skipped = f"Skipped 3 files in {tmp_path}/train that are no images by their names, "
    assert skipped + f"{tmp_path}/train/cat/labels.xml first." in texts
    assert any(text.startswith("1 of 2 classes have no image in") for text in texts)
    assert "'cat'" in caplog.text


def _one(tmp_path, image, name="x.png", **options):
    """What becomes of one image, read among grey ones: uint8 [H, W, C]."""
    files = {f"train/{c}/0.png": _image(0, mode="L") for c in "ab"}
    files[f"test/a/{name}"] = image
    return load(Config(_write(tmp_path, files), image_size=6, **options)).test_images[0]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, [255]),
        ("L", 77, [77]),
        ("LA", (0, 0), [255]),  # transparent black: white, as on a page
        ("LA", (50, 255), [50]),
        ("I;16", 50 * 257, [50]),  # scaled, not clipped
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (9, 9, 9, 0), [255, 255, 255]),
        ("RGBA", (9, 8, 7, 255), [9, 8, 7]),
    ],
)
def test_modes_of_png(tmp_path, mode, value, expected):
    """Every mode of a PNG becomes the 8-bit grey or RGB value that a viewer shows."""
    result = _one(tmp_path, Image.new(mode, (6, 6), value))
    np.testing.assert_array_equal(result, np.broadcast_to(expected, (6, 6, len(expected))))


def test_other_modes(tmp_path):
    """Palette, CMYK, float and 16-bit TIFF are converted; out-of-range floats are refused."""
    palette = Image.new("RGB", (6, 6), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(_one(tmp_path / "p", palette)[0, 0], [10, 20, 30])
    cmyk = Image.new("CMYK", (6, 6), (255, 0, 0, 0))
    np.testing.assert_array_equal(_one(tmp_path / "c", cmyk, "x.tif")[0, 0], [0, 255, 255])
    real = Image.fromarray(np.full((6, 6), 0.2, np.float32))
    np.testing.assert_array_equal(_one(tmp_path / "f", real, "x.tif")[0, 0], [51])
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 0, 0))
    result = _one(tmp_path / "j", cmyk, "x.jpg")
    np.testing.assert_allclose(result, np.full((6, 6, 3), (255, 0, 255)), atol=2)
    deep = _one(tmp_path / "d", _png_of_16_bits((257 * 10, 257 * 20, 65535)))
    np.testing.assert_array_equal(deep, np.full((6, 6, 3), (10, 20, 255)))
    wide = Image.fromarray(np.full((6, 6), 51 * 257, np.int32))
    np.testing.assert_array_equal(_one(tmp_path / "i", wide, "x.tif")[0, 0], [51])
    with pytest.raises(UserError, match=r"x\.tif"):
        _one(tmp_path / "n", Image.fromarray(np.full((6, 6), 20, np.float32)), "x.tif")


def _png_of_16_bits(color):
    """A 6 x 6 PNG of one colour with 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">3H", *color) * 6) * 6
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_rotation_of_the_camera_is_applied(tmp_path):
    """A JPEG stored sideways (EXIF orientation 6) is turned upright."""
    image = Image.new("L", (6, 6), 0)
    image.paste(255, (0, 0, 3, 6))  # the left half is white; turned clockwise, the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", exif=exif, quality=100)
    result = _one(tmp_path, buffer.getvalue(), "x.jpg")
    assert result[:3].min() > 200 and result[3:].max() < 50


@pytest.mark.parametrize(("image_size", "expected"), [(0, 32), (9, 9)])
def test_folder_of_several_sizes(tmp_path, image_size, expected):
    """Images of several sizes become `image_size`, or 32 where the user chose none."""
    files = _classes() | {"cat/tall.png": _image(3, size=(5, 90))}
    dataset = load(Config(_write(tmp_path, files), image_size=image_size))
    _check(dataset)
    assert dataset.image_size == expected


def _missing(files, *names):
    return {name: image for name, image in files.items() if name not in names}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "no class"),
        ({"cat/0.png": _image(), "cat/1.png": _image()}, "at least 2"),
        (_classes() | {"owl/.hidden": b""}, "'owl' is empty"),
        (_classes() | {"owl/notes.txt": b"hello"}, "'owl' is empty"),
        (_classes() | {"cat/notes.png": b"hello"}, r"notes\.png.* of no known kind"),
        (_classes() | {"cat/inner/0.png": _image()}, "'inner'"),
        (_classes() | {"owl/0.png": _image()}, "'owl' has only 1 image"),
        (_classes() | {"Cat /0.png": _image()}, "two spellings of a class, 'Cat ' and 'cat'"),
        (
            {f"train/{k}": v for k, v in _classes().items()} | {"test/Cat/0.png": _image()},
            "two spellings of a class, 'cat' and 'Cat'",
        ),
        (
            {f"{top}/{k}": v for top in "ab" for k, v in _classes().items()},
            r"train and test \(or val",
        ),
        ({"train/.keep": b"", "test/cat/0.png": _image()}, "no class in .*train"),
        (
            {f"train/{k}": v for k, v in _classes().items()} | {"test/owl/0.png": _image()},
            "'owl' is in .*test but not in .*train",
        ),
    ],
)
def test_mistakes_in_a_folder(tmp_path, files, message):
    """Every mistake in a folder of images is a UserError that names the class or the file."""
    with pytest.raises(UserError, match=message):
        load(Config(_write(tmp_path, files)))


@pytest.mark.parametrize("path", ["", "/no/such/folder", "~nobody/x", "a\0b", __file__])
def test_missing_folder(path):
    """A path that is no folder is named, the empty one is not taken for the current folder."""
    with pytest.raises(UserError, match="no folder"):
        load(Config(f"folder:{path}"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about damaged TIFF tags
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_truncated_and_damaged_images(tmp_path, kind):
    """Half an image is a UserError naming the file; flipped bytes give an image or a UserError."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, kind)
    intact = buffer.getvalue()
    name = f"bad.{kind}"
    for length in (0, 1, 20, len(intact) // 2):
        with pytest.raises(UserError, match=name):
            _one(tmp_path, intact[:length], name)
    for _ in range(40):
        damaged = bytearray(intact)
        for position in random.integers(0, min(len(intact), 200), 3):
            damaged[position] = random.integers(256)
        try:
            assert _one(tmp_path, bytes(damaged), name).shape[:2] == (6, 6)
        except UserError as error:
            assert name in str(error)


# npz:

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def _npz(tmp_path, compressed=False, **arrays):
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return f"npz:{path}"


def test_npz_with_a_test_split_is_kept_as_it_is(tmp_path):
    """All arrays come back unchanged and in order, with their class names."""
    dataset = load(
        Config(
            _npz(
                tmp_path,
                images=IMAGES, labels=LABELS, test_images=IMAGES[:2], test_labels=LABELS[:2],
                class_names=["x", "y", "z"],
            )
        )
    )  # fmt: skip
    _check(dataset)
    assert dataset.class_names == ("x", "y", "z")
    np.testing.assert_array_equal(dataset.train_images, IMAGES)
    np.testing.assert_array_equal(dataset.train_labels, LABELS)
    np.testing.assert_array_equal(dataset.test_images, IMAGES[:2])


def test_npz_of_floats_and_grey_images(tmp_path):
    """[n,H,W] gets one channel; floats in [0,1] come back as the bytes they were made from."""
    grey = IMAGES[..., 0]
    options = {"labels": LABELS.astype(np.uint64), "test_labels": LABELS}
    for dtype in (np.float32, np.float64, ">f4"):
        scaled = (grey / 255).astype(dtype)
        dataset = load(Config(_npz(tmp_path, images=scaled, test_images=scaled, **options)))
        _check(dataset)
        np.testing.assert_array_equal(dataset.train_images[..., 0], grey)
    assert dataset.class_names == ("0", "1", "2")


def test_npz_without_test_split_holds_out_and_resizes(tmp_path):
    """One image of each class is held out; images that are not square are resized."""
    dataset = load(Config(_npz(tmp_path, images=IMAGES[:, :4], labels=LABELS), image_size=8))
    _check(dataset)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [1, 1, 1])
    assert dataset.image_size == 8


def test_constant_channel_has_std_one(tmp_path):
    """A channel that never changes gets standard deviation 1, so that normalising is finite."""
    images = IMAGES.copy()
    images[..., 1] = 37
    dataset = load(Config(_npz(tmp_path, images=images, labels=LABELS)))
    _check(dataset)
    assert dataset.std[1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no array 'images'"),
        ({"labels": None}, "no array 'labels'"),
        ({"test_images": IMAGES}, "no array 'test_labels'"),
        ({"images": IMAGES.astype(np.int64)}, "uint8"),
        ({"images": IMAGES.astype(np.float32)}, "exceed 0 to 1"),
        ({"images": np.full(IMAGES.shape, np.nan)}, "exceed 0 to 1"),
        ({"images": IMAGES.astype(complex)}, "uint8"),
        ({"images": IMAGES[0, 0]}, r"\[n,H,W\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"\[n,H,W\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "channels must come last"),
        ({"images": IMAGES[:, :4]}, "not square"),
        ({"images": np.array([{}] * 12)}, "allow_pickle"),
        ({"labels": LABELS[:5]}, "12 integers"),
        ({"labels": LABELS.astype(float)}, "12 integers"),
        ({"labels": LABELS[:, None]}, "12 integers"),
        ({"labels": LABELS - 1}, "from -1 to 1"),
        ({"labels": LABELS * 2}, "no image of 2 of them .'1', '3'"),
        ({"labels": LABELS * 2**40}, "0 to K-1"),
        ({"labels": LABELS * 0}, "at least 2"),
        ({"class_names": ["a", "b"]}, "from 0 to 2"),
        ({"class_names": ["a", "b", "c", "d"]}, "'d'"),
        ({"class_names": [1, 2, 3]}, "list of strings"),
        ({"class_names": "abc"}, "list of strings"),
        ({"test_images": IMAGES, "test_labels": LABELS + 1}, "from 1 to 3"),
        ({"test_images": IMAGES[..., :1], "test_labels": LABELS}, "same"),
        ({"test_images": IMAGES[:, :4, :4], "test_labels": LABELS}, "same"),
    ],
)
def test_mistakes_in_an_npz_file(tmp_path, change, message):
    """Every wrong key, shape, type or label is a UserError that says which."""
    arrays = {"images": IMAGES, "labels": LABELS} | change
    arrays = {key: value for key, value in arrays.items() if value is not None}
    with pytest.raises(UserError, match=message):
        load(Config(_npz(tmp_path, **arrays)))


def test_files_that_are_no_npz(tmp_path):
    """A missing file, a folder, a single array and text are named as unreadable."""
    np.save(tmp_path / "array.npy", IMAGES)
    (tmp_path / "text.npz").write_text("hello")
    for name in ("", "none.npz", "array.npy", "text.npz", "a\0b"):
        with pytest.raises(UserError, match="Cannot read"):
            load(Config(f"npz:{tmp_path}/{name}"))
    with pytest.raises(UserError, match="Cannot read"):
        load(Config("npz:"))


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(tmp_path, compressed):
    """Truncated or with changed bytes, an npz file gives its own data or a UserError."""
    name = _npz(tmp_path, compressed, images=IMAGES, labels=LABELS)
    path = tmp_path / "data.npz"
    intact = path.read_bytes()
    random = np.random.default_rng(0)
    for length in random.integers(0, len(intact), 25):
        path.write_bytes(intact[:length])
        with pytest.raises(UserError, match="Cannot read"):
            load(Config(name))
    for _ in range(200):
        damaged = bytearray(intact)
        for position in random.integers(0, len(intact), random.integers(1, 6)):
            damaged[position] = random.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            _check(load(Config(name)))
        except UserError:
            pass


# TensorFlow Datasets


@pytest.fixture
def no_network(monkeypatch):
    """Makes any connection an error, and an import of TensorFlow during the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    imported = "tensorflow" in sys.modules
    yield
    assert ("tensorflow" in sys.modules) == imported


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """CIFAR-10 and CIFAR-100 as TFDS prepares them, 200 images a split."""
    script = SHARED / "data" / "cifar.py"
    if not script.exists():
        pytest.skip(f"the CIFAR images beside the repository are absent ({script})")
    directory = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, str(script), "prepare", str(directory), "--limit", "200"]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def test_tfds_cifar10_is_read_exactly_without_tensorflow(prepared, no_network):
    """Images and labels equal what TFDS itself decodes, in its order."""
    import tensorflow_datasets as tfds

    dataset = load(Config("cifar10", data_dir=str(prepared)))
    _check(dataset)
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == (32, 3, 10)
    assert dataset.class_names[:2] == ("airplane", "automobile")
    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        source = tfds.data_source("cifar10", split=split, data_dir=prepared, download=False)
        np.testing.assert_array_equal(images, [example["image"] for example in source])
        np.testing.assert_array_equal(labels, [example["label"] for example in source])
    assert load(Config("cifar10", data_dir=str(prepared), image_size=8)).image_size == 8


def test_tfds_is_streamed_as_it_is_loaded(prepared, no_network):
    """A stream gives the images, in order, that `load` gives; workers can be handed its source."""
    config = Config("cifar10", data_dir=str(prepared))
    loaded = load(config)
    train, test = stream.open_records(config)
    assert (len(train), len(test), train.num_classes, train.labels) == (200, 200, 10, None)
    evaluation = stream.ImageStream(records=test, batch_size=50, image_size=28, training=False)
    batch = next(pickle.loads(pickle.dumps(evaluation)).batches())
    # 28 of 32 pixels: the central crop is made of whole pixels.
    np.testing.assert_array_equal(batch.images, loaded.test_images[:50, 2:30, 2:30])
    np.testing.assert_array_equal(batch.labels, loaded.test_labels[:50])
    first, second = stream.halves(train, seed=0)
    assert sorted([*first.indices, *second.indices]) == list(range(200))
    assert train.identity["tfds"] == "cifar10/3.0.2"


def test_tfds_class_without_images_is_named(prepared, no_network):
    """200 images of CIFAR-100 lack some of its classes: refused, not trained on."""
    with pytest.raises(UserError, match="100 classes, but its training split has no image"):
        load(Config("cifar100", data_dir=str(prepared)))


def test_tfds_that_is_damaged_or_tfrecord(prepared, no_network, tmp_path):
    """A damaged ArrayRecord is named, and TFRecord is told from it, both with the way out."""
    source = prepared / "cifar10" / "3.0.2"
    copy = tmp_path / "cifar10" / "3.0.2"
    copy.mkdir(parents=True)
    for file in source.iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[:-1000] if "-train." in file.name else content)
    with pytest.raises(UserError, match="'train' of 'cifar10'"):
        load(Config("cifar10", data_dir=str(tmp_path)))
    info = (copy / "dataset_info.json").read_text()
    (copy / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="stored as tfrecord"):
        load(Config("cifar10", data_dir=str(tmp_path)))


def test_tfds_test_split_without_labels_is_passed_over(monkeypatch):
    """ImageNet's test split has label -1 throughout: its validation split is the test."""
    import tensorflow_datasets as tfds

    def source(split, decoders):
        buffer = io.BytesIO()
        _image({"train": 10, "test": 20, "validation": 30}[split]).save(buffer, "png")
        labels = [-1] * 3 if split == "test" else [0, 1, 1]
        return [{"image": buffer.getvalue(), "label": label} for label in labels]

    class Builder:
        data_dir = "nowhere"
        is_prepared = staticmethod(lambda: True)
        as_data_source = staticmethod(source)

        class info:
            features = tfds.features.FeaturesDict(
                {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
            )
            splits = ("train", "validation", "test")

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder)
    dataset = load(Config("imagenet2012"))
    np.testing.assert_array_equal(dataset.test_images, np.full((3, 6, 6, 3), 30))
    np.testing.assert_array_equal(dataset.test_labels, [0, 1, 1])


def test_tfds_that_is_not_prepared_says_how_and_downloads_nothing(no_network, tmp_path):
    """The message holds the command to prepare; no connection is tried."""
    with pytest.raises(UserError, match=r"file_format='array_record'.*data\.data_dir"):
        load(Config("cifar10", data_dir=str(tmp_path)))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("cifar-10", "'cifar10'"),
        ("CIFAR10", "'cifar10'"),
        ("folder/x", "'folder:'"),
        ("npz", "'npz:'"),
        ("", "Unknown data.name ''"),
        ("!?", "Use 'digits', 'folder:PATH'"),
        ("cifar10/zzz", "cannot open"),
        ("cifar10:1.0.0", "cannot open"),
        (str(Path(__file__).parent), "folder:/"),
    ],
)
def test_unknown_names(name, message, no_network):
    """An unknown name is answered by the nearest known ones and the four ways to name data."""
    with pytest.raises(UserError, match=message):
        load(Config(name))

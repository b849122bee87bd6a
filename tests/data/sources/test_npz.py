"""Files of arrays: kept as they are, and every mistake a UserError."""

import numpy as np
import pytest
from image_files import Config, check, npz
from sample_arrays import IMAGES, LABELS

from ddarts_jax.data.dataset import load
from ddarts_jax.distributed import memory
from ddarts_jax.errors import UserError


def test_npz_with_a_test_split_is_kept_as_it_is(tmp_path):
    """All arrays come back unchanged and in order, with their class names."""
    dataset = load(
        Config(
            npz(
                tmp_path,
                images=IMAGES, labels=LABELS, test_images=IMAGES[:2], test_labels=LABELS[:2],
                class_names=["x", "y", "z"],
            )
        )
    )  # fmt: skip
    check(dataset)
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
        dataset = load(Config(npz(tmp_path, images=scaled, test_images=scaled, **options)))
        check(dataset)
        np.testing.assert_array_equal(dataset.train_images[..., 0], grey)
    assert dataset.class_names == ("0", "1", "2")


def test_npz_without_test_split_holds_out_and_resizes(tmp_path):
    """One image of each class is held out; images that are not square are resized."""
    dataset = load(Config(npz(tmp_path, images=IMAGES[:, :4], labels=LABELS), image_size=8))
    check(dataset)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [1, 1, 1])
    assert dataset.image_size == 8


@pytest.mark.parametrize(
    ("images", "labels", "test_images", "test_labels", "others"),
    [
        (
            "train_images",
            "train_labels",
            "test_images",
            "test_labels",
            ("val_images", "val_labels"),
        ),
        ("x_train", "y_train", "x_test", "y_test", ()),
        ("train_images", "train_labels", "val_images", "val_labels", ()),
    ],
)
def test_names_of_other_collections(tmp_path, images, labels, test_images, test_labels, others):
    """MedMNIST and Keras name their arrays otherwise, with labels [n, 1]."""
    arrays = {images: IMAGES, labels: LABELS[:, None]}
    arrays |= {test_images: IMAGES[:2], test_labels: LABELS[:2, None]}
    arrays |= {name: IMAGES[:1] for name in others}
    dataset = load(Config(npz(tmp_path, **arrays)))
    check(dataset)
    np.testing.assert_array_equal(dataset.train_labels, LABELS)
    np.testing.assert_array_equal(dataset.test_images, IMAGES[:2])


def test_images_and_labels_are_of_one_split(tmp_path, caplog):
    """Test images without labels do not get those of the validation split, nor others of the training."""
    arrays = {"images": IMAGES[::-1], "x_train": IMAGES, "y_train": LABELS}
    arrays |= {"test_images": IMAGES[3:5], "val_images": IMAGES[:2], "val_labels": LABELS[:2]}
    with caplog.at_level("INFO"):
        dataset = load(Config(npz(tmp_path, **arrays)))
    assert "not used: images, test_images." in caplog.text
    np.testing.assert_array_equal(dataset.train_images, IMAGES)
    np.testing.assert_array_equal(dataset.test_images, IMAGES[:2])
    with pytest.raises(UserError, match="no images and labels"):
        load(Config(npz(tmp_path, images=IMAGES, y_train=LABELS)))
    with pytest.raises(UserError, match="no array 'test_labels'"):
        load(Config(npz(tmp_path, images=IMAGES, labels=LABELS, x_test=IMAGES)))


@pytest.mark.parametrize(("dtype", "count"), [(np.uint8, 256), (np.int8, 128)])
def test_labels_that_fill_their_type(tmp_path, dtype, count):
    """256 classes as uint8: one more than the largest label is no uint8."""
    labels = np.tile(np.arange(count), 2).astype(dtype)
    images = np.zeros((2 * count, 2, 2), np.uint8)
    dataset = load(Config(npz(tmp_path, images=images, labels=labels)))
    assert dataset.num_classes == count and dataset.num_test == count


def test_arrays_beyond_the_memory_are_not_read(tmp_path, monkeypatch):
    """It is told before reading, with what to do."""
    monkeypatch.setattr(memory, "available", lambda: 100)
    name = npz(tmp_path, compressed=True, images=IMAGES, labels=LABELS)
    with pytest.raises(UserError, match=r"need about 0\.0 GB of memory, but .*data\.stream"):
        load(Config(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no images and labels in .*: its arrays are labels, but they must be"),
        ({"labels": None}, "its arrays are images, but"),
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
        ({"labels": np.stack([LABELS] * 2, 1)}, "12 integers"),
        ({"labels": LABELS - 1}, "from -1 to 1"),
        ({"labels": LABELS * 2}, "no image of 2 of them .'1', '3'"),
        ({"labels": LABELS * 2**40}, "0 to K-1"),
        ({"labels": LABELS * 0}, "at least 2"),
        ({"class_names": ["a", "b"]}, "from 0 to 2"),
        ({"class_names": ["a", "b", "c", "d"]}, "'d'"),
        ({"class_names": [1, 2, 3]}, "list of strings"),
        ({"class_names": ["a", "b", "a"]}, "name 'a' twice"),
        ({"class_names": ["a", "b", "\udce9"]}, "not Unicode"),
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
        load(Config(npz(tmp_path, **arrays)))


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
def test_corrupt_npz(tmp_path, compressed):
    """Truncated or with changed bytes, an npz file gives its own data or a UserError."""
    name = npz(tmp_path, compressed, images=IMAGES, labels=LABELS)
    path = tmp_path / "data.npz"
    intact = path.read_bytes()
    random = np.random.default_rng(0)
    for length in random.integers(0, len(intact), 25):
        path.write_bytes(intact[:length])
        with pytest.raises(UserError, match="Cannot read"):
            load(Config(name))
    for _ in range(200):
        corrupt = bytearray(intact)
        for position in random.integers(0, len(intact), random.integers(1, 6)):
            corrupt[position] = random.integers(256)
        path.write_bytes(bytes(corrupt))
        try:
            check(load(Config(name)))
        except UserError:
            pass

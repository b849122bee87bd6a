"""Files of arrays: kept as they are, and every mistake a UserError."""

import numpy as np
import pytest
from image_files import Config, check, npz
from sample_arrays import IMAGES, LABELS

from ddarts_jax.data.dataset import load
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

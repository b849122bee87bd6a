"""Data sets in memory: limits, statistics, and construction from arrays."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import Config, check, npz
from sample_arrays import IMAGES, LABELS

from ddarts_jax.data.dataset import Dataset, load
from ddarts_jax.data.splits import HOLD_OUT_SEED
from ddarts_jax.errors import UserError


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


def test_constant_channel_has_std_one(tmp_path):
    """A channel that never changes gets standard deviation 1, so that normalising is finite."""
    images = IMAGES.copy()
    images[..., 1] = 37
    dataset = load(Config(npz(tmp_path, images=images, labels=LABELS)))
    check(dataset)
    assert dataset.std[1] == 1


# from_arrays


def _assert_same(first, second):
    """Two data sets have the same images, labels, classes and statistics."""
    for field in dataclasses.fields(Dataset):
        if field.name != "name":
            a, b = getattr(first, field.name), getattr(second, field.name)
            np.testing.assert_array_equal(a, b)
            assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_names": ["x", "y", "z"]},
        {"images": IMAGES[..., 0]},
        {"images": IMAGES / 255},
        {"labels": LABELS.astype(np.uint8)},
        {"test_images": IMAGES[:2], "test_labels": LABELS[:2]},
        {"test_images": IMAGES[:2], "test_labels": LABELS[:2], "class_names": ["x", "y", "z"]},
    ],
)
def test_arrays_give_what_an_npz_file_of_them_gives(tmp_path, change):
    """Every array of a data set is equal, whatever may be left out or of another dtype."""
    arrays = {"images": IMAGES, "labels": LABELS} | change
    dataset = Dataset.from_arrays(**arrays)
    check(dataset)
    assert dataset.name == "arrays"
    assert dataset.class_names == tuple(change.get("class_names", "012"))
    _assert_same(dataset, load(Config(npz(tmp_path, **arrays))))
    half = Dataset.from_arrays(**arrays, test_fraction=0.5, name="mine")
    assert half.name == "mine"
    _assert_same(half, load(Config(npz(tmp_path, **arrays), test_fraction=0.5)))


def test_lists_are_arrays():
    """Nested lists and tuples are taken, lists of different lengths named."""
    dataset = Dataset.from_arrays(list(IMAGES), LABELS.tolist(), class_names=("x", "y", "z"))
    _assert_same(dataset, Dataset.from_arrays(IMAGES, LABELS, class_names=["x", "y", "z"]))
    with pytest.raises(UserError, match="images in 'arrays' are not an array"):
        Dataset.from_arrays([[[1, 2], [3]]] * 12, LABELS)


def test_arrays_of_the_caller_stay_as_they_are():
    """Nothing is written to the arrays that are given, read-only ones are taken."""
    images, labels = IMAGES.copy(), LABELS.copy()
    images.flags.writeable = labels.flags.writeable = False
    Dataset.from_arrays(images, labels, images, labels)
    Dataset.from_arrays(images, labels)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@given(
    st.lists(st.integers(2, 12), min_size=2, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(-(2**40), 2**40),
    st.randoms(use_true_random=False),
)
def test_arrays_are_split_by_class(sizes, fraction, seed, random):
    """Both splits together hold each image once with its label; the test split holds the fraction
    of each class, rounded, but at least one image and never all; the seed alone decides which.
    """
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    labels = np.array(labels)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))  # which image it is
    options = {"test_fraction": fraction, "seed": seed}
    dataset = Dataset.from_arrays(images, labels, **options)
    check(dataset)
    train, test = (x[:, 0, 0, 0] for x in (dataset.train_images, dataset.test_images))
    assert sorted([*train, *test]) == list(range(len(labels)))
    np.testing.assert_array_equal(dataset.train_labels, labels[train])
    np.testing.assert_array_equal(dataset.test_labels, labels[test])
    expected = np.clip(np.round(np.array(sizes) * fraction), 1, np.array(sizes) - 1)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), expected)
    _assert_same(dataset, Dataset.from_arrays(images, labels, **options))


def test_the_seed_chooses_what_is_held_out():
    """By default the images are those that every source holds out; another seed takes others."""
    images = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    labels = np.arange(100) % 2
    first = Dataset.from_arrays(images, labels)
    _assert_same(first, Dataset.from_arrays(images, labels, seed=HOLD_OUT_SEED))
    other = Dataset.from_arrays(images, labels, seed=HOLD_OUT_SEED + 1)
    assert (first.test_images != other.test_images).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_images": IMAGES}, "no array 'test_labels' in 'mine'"),
        ({"test_labels": LABELS}, "no array 'test_images' in 'mine'"),
        ({"images": None}, "no array 'images' in 'mine'"),
        ({"images": IMAGES.astype(np.int64)}, "images in 'mine' must be uint8"),
        ({"images": IMAGES.astype(np.float32)}, "exceed 0 to 1"),
        ({"images": IMAGES[0, 0]}, r"\[n,H,W\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"\[n,H,W\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "channels must come last"),
        ({"images": IMAGES[:, :4]}, "not square"),
        ({"labels": LABELS[:5]}, "labels in 'mine' must be 12 integers, one per image"),
        ({"labels": LABELS.astype(float)}, "12 integers"),
        ({"labels": np.stack([LABELS] * 2, 1)}, "12 integers"),
        ({"labels": LABELS - 1}, "from -1 to 1"),
        ({"labels": LABELS * 2}, "no image of 2 of them .'1', '3'"),
        ({"labels": LABELS * 2**40}, "0 to K-1"),
        ({"labels": LABELS * 0}, "'mine' needs at least 2"),
        ({"labels": np.arange(12) // 11}, "'1' has only 1 image"),
        ({"class_names": ["a", "b"]}, "from 0 to 2"),
        ({"class_names": ["a", "b", "c", "d"]}, "'d'"),
        ({"class_names": [1, 2, 3]}, "list of strings"),
        ({"class_names": "abc"}, "list of strings"),
        ({"class_names": []}, "list of strings"),
        ({"test_images": IMAGES, "test_labels": LABELS + 1}, "from 1 to 3"),
        ({"test_images": IMAGES, "test_labels": LABELS[:3]}, "test_labels in 'mine'"),
        ({"test_images": IMAGES[..., :1], "test_labels": LABELS}, "same"),
        ({"test_images": IMAGES[:, :4, :4], "test_labels": LABELS}, "same"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": float("nan")}, "test_fraction"),
    ],
)
def test_mistakes_in_arrays(change, message):
    """Every wrong shape, dtype, length or label is a UserError that says which."""
    with pytest.raises(UserError, match=message):
        Dataset.from_arrays(**{"images": IMAGES, "labels": LABELS, "name": "mine"} | change)

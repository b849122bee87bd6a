"""The digits: scikit-learn's own, split by class."""

import numpy as np
from image_files import Config, check
from PIL import Image

from ddarts_jax.data.dataset import load


def test_digits_are_the_official_arrays_split_by_class():
    """Together the splits hold each of scikit-learn's 1,797 digits once, a fifth held out.

    Rounding 0..16 to 0..255 loses nothing: it is undone exactly.
    """
    from sklearn.datasets import load_digits

    dataset = load(Config("digits"))
    check(dataset)
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
    check(resized)
    assert resized.image_size == 12
    expected = Image.fromarray(plain.train_images[0, ..., 0]).resize((12, 12), Image.BILINEAR)
    np.testing.assert_array_equal(resized.train_images[0, ..., 0], np.asarray(expected))

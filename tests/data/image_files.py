"""Configs, image files and checks that the tests of the data share."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ddarts_jax.data.dataset import Dataset, load


@dataclasses.dataclass
class Config:
    """The part of `config.data` that `load` reads."""

    name: str
    data_dir: str = ""
    image_size: int = 0
    white: int = 0
    images_per_class: int = 0
    test_fraction: float = 0.2


def check(dataset: Dataset):
    """Checks what holds for every data set, with mean and std recomputed in float64."""
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


def write(root, files):
    """Writes images (or bytes) by their relative path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return f"folder:{root}"


def image_of(value=100, size=(6, 6), mode="RGB"):
    """An image of one value in all channels."""
    return Image.new(mode, size, value if mode in ("L", "1", "I;16") else (value,) * len(mode))


def classes(count=3, **options):
    """Two classes of `count` images."""
    return {
        f"{c}/{i}.png": image_of(40 * i, **options) for c in ("cat", "dog") for i in range(count)
    }


def one(tmp_path, image, name="x.png", **options):
    """What becomes of one image, read among grey ones: uint8 [H, W, C]."""
    files = {f"train/{c}/0.png": image_of(0, mode="L") for c in "ab"}
    files[f"test/a/{name}"] = image
    return load(Config(write(tmp_path, files), image_size=6, **options)).test_images[0]


def npz(tmp_path, compressed=False, **arrays):
    """Writes an npz file of arrays."""
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return f"npz:{path}"


def numbered_folder(root: Path, counts: dict[str, int]) -> str:
    """PNG files of one colour; the red value numbers them through all folders."""
    numbers = iter(range(256))
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            color = (next(numbers), 0, 200)
            Image.new("RGB", (9, 7), color).save(root / folder / f"{i:03}.png")
    return f"folder:{root}"


def encoded(image, kind="png", **options):
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

"""Images and prepared sets that several tests of the data read."""

import socket
import subprocess
import sys

import pytest
import tiny
from image_files import Config, numbered_folder
from PIL import Image

from ddarts_jax.data import records as encoded_records


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """23 training and 5 test images of the classes a, b."""
    counts = {"train/a": 11, "train/b": 12, "test/a": 2, "test/b": 3}
    return encoded_records.open_records(
        Config(numbered_folder(tmp_path_factory.mktemp("images"), counts))
    )


@pytest.fixture(scope="module")
def photograph():
    """scikit-learn's picture of a flower, 640 x 427."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


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
    """CIFAR-10 and CIFAR-100 as TFDS prepares them, 200 images per split."""
    script = tiny.SHARED / "data" / "cifar.py"
    if not script.exists():
        pytest.skip(f"the CIFAR images beside the repository are absent ({script})")
    directory = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, str(script), "prepare", str(directory), "--limit", "200"]
    subprocess.run(command, check=True, capture_output=True)
    return directory

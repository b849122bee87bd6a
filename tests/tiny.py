"""A tiny run on real digits for tests, and a way to start it as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from ddarts_jax.config import default_config

ROOT = Path(__file__).parents[1]

_CONFIG_FILE = """
import sys
sys.path.insert(0, {tests!r})
import tiny


def get_config():
    return tiny.config({data!r})
"""


def write_data(path: Path, count: int = 80) -> Path:
    """Writes `count` of scikit-learn's digits, 3 classes, equally many of each but for one."""
    digits = load_digits(n_class=3)
    images = np.round(digits.images[:count] * (255 / 16)).astype(np.uint8)
    np.savez(path, images=images, labels=digits.target[:count])
    return path


def config(data: Path | str):
    """Returns the configuration: 3 cells of 1 node, 4 steps of search and 8 of training an epoch."""
    tiny = default_config()
    tiny.data.name = f"npz:{data}"
    tiny.data.batch_size = 8
    tiny.search.epochs = 3
    tiny.search.num_cells = 3
    tiny.search.num_nodes = 1
    tiny.search.channels = 2
    tiny.search.stem_multiplier = 1
    tiny.search.augment.crop_padding = 1
    tiny.parse.method = "darts"
    tiny.train.epochs = 3
    tiny.train.channels = 4
    tiny.train.stem_multiplier = 1
    tiny.train.auxiliary_weight = 0.0
    tiny.train.augment.crop_padding = 1
    tiny.train.augment.cutout = 2
    tiny.chunk_steps = 2
    return tiny


def write_config(directory: Path) -> Path:
    """Writes the data and a config file that reads them into `directory`; returns the file."""
    data = write_data(directory / "digits.npz")
    path = directory / "tiny.py"
    path.write_text(_CONFIG_FILE.format(tests=str(ROOT / "tests"), data=str(data)))
    return path


def command(config_file: Path, workdir: Path, *overrides: str) -> list[str]:
    """Returns the command line of a run."""
    arguments = ["--config", str(config_file), "--workdir", str(workdir)]
    return [sys.executable, "-m", "ddarts_jax.main", *arguments, *overrides]


def environment(cache: Path, **variables: str) -> dict[str, str]:
    """Returns the environment of a process that keeps its compiled programs in `cache`."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **variables,
    }


def start(arguments: list[str], cache: Path, **variables: str) -> subprocess.Popen:
    """Starts a process in the repository's root, its output (both streams) on a pipe, as text."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(cache, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

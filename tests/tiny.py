"""A tiny run on real digits for tests, and a way to start it as a user does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from sklearn.datasets import load_digits

from ddarts_jax.configuration import default_config
from ddarts_jax.genotypes.genotype import Genotype

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"  # reference data, where there are any

# Five cells that compile quickly.
GENOTYPE = Genotype(
    genes=(
        (("skip_connect", 2, 0), ("max_pool_3x3", 2, 1)),
        (("skip_connect", 2, 1), ("avg_pool_3x3", 2, 0)),
        (("skip_connect", 2, 0), ("skip_connect", 2, 1)),
        (("max_pool_3x3", 2, 0), ("skip_connect", 2, 1)),
        (("avg_pool_3x3", 2, 1),),
    ),
    reductions=(1, 3),
    concat=(2,),
    seq=None,
)

_CONFIG_FILE = """
import sys

sys.path.insert(0, {tests!r})
import tiny


def get_config():
    return tiny.config({data!r})
"""


def write_data(path: Path, count: int = 80) -> Path:
    """Writes `count` of scikit-learn's digits 0, 1 and 2."""
    digits = load_digits(n_class=3)
    images = np.round(digits.images[:count] * (255 / 16)).astype(np.uint8)
    np.savez(path, images=images, labels=digits.target[:count])
    return path


def write_noise(path: Path, count: int = 80) -> Path:
    """Writes noisy images in the shape of `write_data`, whose level tells the three classes.

    In the black of digits many pixels are equal but for rounding, which then decides which of them a
    max pool takes: programs that round otherwise give the gradient to another pixel.
    """
    labels = np.arange(count) % 3
    levels = 64 + 64 * labels[:, None, None] + np.zeros((count, 8, 8))
    images = np.random.default_rng(0).normal(levels, 40).clip(0, 255).astype(np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


def write_latencies(path: Path, scale: float = 1.0) -> Path:
    """Writes a made-up table of latencies of some primitives, for small networks on images of 8x8.

    The dilated convolution, which has the fewest weights, is slower than the separable one.
    """
    per_value = {"max_pool_3x3": 1, "skip_connect": 2, "sep_conv_3x3": 8, "dil_conv_5x5": 11}
    entries = [
        {
            **{"primitive": name, "channels": channels, "stride": stride, "size": size},
            "ms": scale * 1e-4 * cost * channels * size**2 / stride,
        }
        for name, cost in per_value.items()
        for channels in (4, 6, 8, 12, 16, 24)
        for stride in (1, 2)
        for size in (8, 4, 2)
    ]
    about = {"device": "phone", "dtype": "float16", "batch": 1, "versions": {}}
    path.write_text(json.dumps(about | {"milliseconds": entries}))
    return path


def config(data: Path | str):
    """Returns the configuration: 2 cells of 1 node, 4 steps of search and 8 of training an epoch.

    A search of three candidates, one with weights and one that is strided by a convolution, compiles in
    half the time of one of seven.
    """
    tiny = default_config()
    tiny.search.space = "max_pool_3x3,skip_connect,sep_conv_3x3"
    tiny.data.name = f"npz:{data}"
    tiny.data.batch_size = 8
    tiny.search.epochs = 12
    tiny.search.num_cells = 2
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
    tiny.checkpoint.every_minutes = 0.0
    return tiny


def write_config(directory: Path) -> Path:
    """Writes the data and a config file that reads them into `directory`; returns the file."""
    data = write_data(directory / "digits.npz")
    path = directory / "tiny_config.py"
    path.write_text(_CONFIG_FILE.format(tests=str(ROOT / "tests"), data=str(data)))
    return path


def start(arguments: list[str], cache: Path, **variables: str) -> subprocess.Popen:
    """Starts Python in the repository's root, with stdout and stderr on one pipe, as text.

    Args:
        arguments: of Python.
        cache: where compiled programs are kept for the processes that follow.
        **variables: of the environment.
    """
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles in half the time
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def last_line(
    place: Path,
    code: str,
    devices: int,
    folder: Path = ROOT / "tests",
    *,
    x64: bool = False,
    timeout: int = 500,
) -> str:
    """Runs code on simulated devices; returns the last line that it prints.

    Args:
        place: has the folder of compiled programs.
        code: may import the files of `folder`.
        devices: their number.
        folder: see above.
        x64: whether to enable float64.
        timeout: in seconds.
    """
    process = start(
        ["-c", code],
        place / "cache",
        PYTHONPATH=os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "benchmarks", folder])),
        JAX_ENABLE_X64=str(int(x64)),
        XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    )
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output.splitlines()[-1]


# Sums of at most a few hundred products in float64.
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def markup(report: Path) -> str:
    """The markup of a report without the links of its terms, so that sentences are in one piece."""
    return re.sub(r"</?a\b[^>]*>", "", report.read_text(encoding="utf-8"))


def normal(seed, *shape, dtype=np.float64):
    """Normal numbers that follow from the seed."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def split(module, seed=0):
    """Structure, random weights and statistics of a module."""
    import jax

    from ddarts_jax.models import layers

    graph, (weights, statistics) = layers.split(module)
    return graph, layers.initialise(jax.random.key(seed), weights), statistics


def stepless(chunk, data, seed, running):
    """Stands in for `feeds.resident`: a program that only counts its steps, which compile slowly."""
    from ddarts_jax.training import feeds

    def advance(running, step):
        state = running.state._replace(step=running.state.step + 1)
        return running._replace(state=state), {}

    return feeds.Program(advance, SimpleNamespace(memory_analysis=lambda: None))

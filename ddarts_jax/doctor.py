"""What a bug report needs to tell of an installation: `ddarts-jax doctor`.

Each check is a line of text; those that fail say why, and the others still run.
"""

import collections
import contextlib
import logging
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ddarts_jax.distributed import memory, processes
from ddarts_jax.errors import UserError, first_line
from ddarts_jax.runs import layout, packages

# What the extras of setup.py install.
OPTIONAL = (
    *("jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"),
    *("jax2onnx", "onnxruntime", "submitit", "torch"),
)
# The fewest images and the smallest supernet: one step, which compiles in seconds.
TINY = {
    "task": "search",
    "data.images_per_class": 4,
    "data.batch_size": 16,
    "search.epochs": 1,
    "search.num_cells": 1,
    "search.num_nodes": 1,
    "search.channels": 2,
    "search.space": ("skip_connect", "sep_conv_3x3"),
    "search.gap_images": 0,
}


def run() -> int:
    """Prints a line for each check.

    Returns:
        The exit status: 0; 1 if a check failed, which the last line names.
    """
    failures = {}
    for name, check in _CHECKS.items():
        print(f"{name:10}", end="", flush=True)  # first, for a crash leaves nothing else
        try:
            print(check(), flush=True)
        except Exception as error:  # whatever is wrong with an installation
            print("FAILED:", first_line(error), flush=True)
            failures[name] = error
    for error in failures.values():
        if not isinstance(error, UserError):
            print("".join(["\n", *traceback.format_exception(error)]), end="")
    print("result", f"FAILED: {', '.join(failures)}" if failures else "all is well", sep="    ")
    return 1 if failures else 0


def _program() -> str:
    return f"ddarts_jax {packages.versions()['ddarts_jax']} in {Path(__file__).parent}"


def _python() -> str:
    room = memory.in_gigabytes(memory.available())
    return f"{platform.python_version()}, {platform.platform()}, {room} of memory"


def _packages() -> str:
    found = {name: _version(name) for name in packages.OF_RESULTS}
    if missing := [name for name, version in found.items() if not version]:
        raise UserError(f"{', '.join(missing)} not installed: install ddarts_jax with pip.")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _optional() -> str:
    found = {name: _version(name) for name in OPTIONAL}
    present = [f"{name} {version}" for name, version in found.items() if version]
    absent = [name for name, version in found.items() if not version]
    return f"{', '.join(present) or 'none'}; without {', '.join(absent) or 'none'}"


def _version(name: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _settings() -> str:
    """The variables of the environment that JAX and XLA read."""
    names = [name for name in os.environ if name.startswith(("JAX_", "XLA_", "CUDA_", "LIBTPU_"))]
    return ", ".join(f"{name}={os.environ[name]}" for name in sorted(names)) or "none"


def _devices() -> str:
    kinds = collections.Counter(device.device_kind for device in processes.devices())
    from ddarts_jax.ops import backend

    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    room = memory.in_gigabytes(memory.of_device())
    return f"{listed}, {room} of memory each, {backend.default_dtype()} by default"


def _cache() -> str:
    import jax

    from ddarts_jax.training import compilation

    compilation.keep_programs()
    if not jax.config.jax_enable_compilation_cache:
        return "off"
    folder = Path(jax.config.jax_compilation_cache_dir)
    sizes = [path.stat().st_size for path in folder.glob("*") if path.is_file()]
    return f"{folder}, {memory.in_gigabytes(sum(sizes))} in {len(sizes)} files"


def _step() -> str:
    from ddarts_jax import api
    from ddarts_jax.runs import metrics
    from ddarts_jax.training import compilation

    begun, compiled = time.monotonic(), compilation.spent()
    config = api.config("digits", **TINY)
    with tempfile.TemporaryDirectory() as workdir, _quiet():
        api.search(config, api.load_data(config.data), workdir)
        row = metrics.read(Path(workdir) / layout.METRICS)[-1]
    return (
        f"compiled in {compilation.spent() - compiled:.1f} s, ran in {row['seconds']:.2f} s, "
        f"{time.monotonic() - begun:.1f} s with checkpoint and report; loss {row['loss']:.3f}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what a run logs, except errors, out of what is pasted."""
    logger = logging.getLogger("ddarts_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_CHECKS = {
    "program": _program,
    "python": _python,
    "packages": _packages,
    "optional": _optional,
    "settings": _settings,
    "devices": _devices,
    "cache": _cache,
    "step": _step,
}

"""The check of an export: every file is read again in a fresh process that lacks this package."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.tasks.export import snippets

# Largest difference of a logit, relative to the largest logit (or 1 if that is larger). Rounding of
# float32 through a deep network stays 10 to 100 times below.
_TOLERANCE = 1e-4

# Packages that a user of the export need not have.
OURS = ("ddarts_jax", "flax", "optax", "orbax", "ml_collections")
# The files that compute, and the packages without which they do.
MODELS = {"model.stablehlo": OURS, "model.onnx": (*OURS, "jax", "jax2onnx")}

# A fresh process runs the code of the model card between these. Its arguments: a folder to write to,
# the batch size, and the packages that it must not import.
_WITHOUT = """\
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[3:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
"""
_SAVE_LOGITS = """\
images = np.load(sys.argv[1] + "/images.npy", mmap_mode="r")
logits = np.zeros((len(images), len(meta["class_names"])), np.float32)
size = min(int(sys.argv[2]), len(images))
for start in range(0, len(images), size):
    start = min(start, len(images) - size)
    logits[start : start + size] = forward(preprocess(images[start : start + size]))
np.save(sys.argv[1] + "/logits.npy", logits)
"""
_SAVE_WEIGHTS = """\
import numpy as np

np.savez(sys.argv[1] + "/weights.npz", **weights)
"""


def check(
    folder: Path,
    scratch: Path,
    batch_size: int,
    expected: np.ndarray,
    weights: dict[str, np.ndarray],
) -> dict[str, dict]:
    """Reads every file in a fresh process without this package, and compares it.

    Args:
        folder: the export.
        scratch: holds images.npy, the test images.
        batch_size: images that are run at a time.
        expected: the trained network's logits for them, float32 [n, classes].
        weights: the arrays that must come back from `weights.safetensors` bit for bit.

    Returns:
        For each model the largest difference of a logit, and how many images get the same class.

    Raises:
        UserError: a file cannot be read, or does not agree.
    """
    check_weights(folder, scratch, weights)
    checks = {}
    for name, absent in MODELS.items():
        if (folder / name).is_file():
            load = snippets.STABLEHLO if name == "model.stablehlo" else snippets.ONNX
            code = snippets.PREPROCESS + load + _SAVE_LOGITS
            run_fresh(code, folder, scratch, batch_size, absent)
            checks[name] = _compare(name, np.load(scratch / "logits.npy"), expected)
    return checks


def check_weights(folder: Path, scratch: Path, weights: dict[str, np.ndarray]) -> None:
    """Reads `weights.safetensors` in a fresh process; UserError unless it holds `weights`."""
    code = snippets.SAFETENSORS + _SAVE_WEIGHTS
    run_fresh(code, folder, scratch, 1, (*OURS, "jax"))
    with np.load(scratch / "weights.npz") as found:
        same = set(found.files) == set(weights) and all(
            found[name].dtype == leaf.dtype and np.array_equal(found[name], leaf)
            for name, leaf in weights.items()
        )
    if not same:
        raise UserError("weights.safetensors does not hold the weights of the trained network.")


def run_fresh(
    code: str, folder: Path, scratch: Path, batch_size: int, absent: tuple[str, ...]
) -> None:
    """Runs `code` in `folder` with a Python that cannot import the packages `absent`.

    Raises:
        UserError: the code fails.
    """
    process = subprocess.run(
        [sys.executable, "-P", "-c", _WITHOUT + code, str(scratch), str(batch_size), *absent],
        cwd=folder,
        # This process holds most of a GPU's memory.
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip() or f"status {process.returncode}").splitlines()[-1]
        raise UserError(f"The exported files do not work in a fresh process: {reason}")


def _compare(name: str, found: np.ndarray, expected: np.ndarray) -> dict:
    """Compares the logits `found` by the file `name` with those of the trained network.

    Returns:
        The file's entry of `checks` in `meta.json`.

    Raises:
        UserError: they differ by more than rounding.
    """
    difference = float(np.abs(found - expected).max())
    tolerance = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= tolerance:  # so that NaN fails too
        raise UserError(
            f"{name} does not compute what the trained network does: a logit of the test images "
            f"differs by {difference:.3g}, where rounding explains {tolerance:.3g}."
        )
    same = int(np.sum(found.argmax(axis=1) == expected.argmax(axis=1)))
    return {"largest_difference": difference, "tolerance": tolerance, "same_class": same}

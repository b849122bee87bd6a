"""Export of a trained network as a folder that people use who do not have this package.

    genotype.json        the architecture
    weights.safetensors  weights and BatchNorm statistics, named by their paths in the network
    meta.json            preprocessing, class names, accuracy, size, versions
    model.stablehlo      the forward pass with its weights, of any batch size, for CPU and CUDA: needs JAX
    model.onnx           the same for ONNX runtimes, where the converter is installed
    README.md            the model card, with code that loads each of them

The folder appears only after each file has been read again by that very code, in a fresh process that
cannot import this package, and agrees with the trained network on the whole test set.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.data import crops, stream
from ddarts_jax.data import dataset as data
from ddarts_jax.data.augment import normalize
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.models.weights import load_network, named
from ddarts_jax.ops import backend
from ddarts_jax.predict import FORMAT
from ddarts_jax.training import train

_logger = logging.getLogger(__name__)

FILES = (
    "README.md",
    "genotype.json",
    "meta.json",
    "model.onnx",
    "model.stablehlo",
    "weights.safetensors",
)

# Largest difference of a logit, relative to the largest logit (or 1 if that is larger). Rounding of
# float32 through a deep network stays 10 to 100 times below.
_TOLERANCE = 1e-4

_STREAMED = 1000  # test images of a streamed data set on which the files are compared

# The code of the model card, which the fresh processes run.
_PREPROCESS = """\
import json

import numpy as np

with open("meta.json", encoding="utf-8") as file:
    meta = json.load(file)
mean, std = (np.array(meta["preprocessing"][key], np.float32) for key in ("mean", "std"))


def preprocess(images):  # uint8 [batch, height, width, channels]
    return (images.astype(np.float32) / 255 - mean) / std
"""
_STABLEHLO = """\
import jax
import jax.export

with open("model.stablehlo", "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
forward = jax.jit(program.call)
"""
_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def forward(x):
    return session.run(["logits"], {"images": x})[0]
"""
_SAFETENSORS = """\
from safetensors.numpy import load_file

weights = load_file("weights.safetensors")
"""

# What a fresh process runs before and after that code. Its arguments: a folder to write to, the batch
# size, and the packages that it must do without.
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
_OURS = ("ddarts_jax", "flax", "optax", "orbax", "ml_collections")


def run(config, workdir: Path) -> dict:
    """Writes the folder `config.output` of the trained network in `config.run`.

    An earlier export there is replaced; whatever goes wrong, it stays as it was.

    Args:
        config: see `config.export_config`.
        workdir: exists; what is exchanged with the fresh processes lies there until the end.

    Returns:
        What `meta.json` holds.

    Raises:
        UserError: there is no trained network, or its data cannot be loaded; the output cannot be
            written, or is something else already; a file does not give the network's logits.
    """
    if not config.run:
        raise UserError(
            "Name the workdir of the training whose network to export: --config.run=DIR."
        )
    if not config.output:
        raise UserError("Name the folder to write the export to: --config.output=DIR.")
    source = Path(os.path.expanduser(config.run))
    output = Path(os.path.expanduser(config.output)).resolve()
    _check_output(output)
    settings, genotype = _read_run(source)
    dataset = _load_data(settings.data)
    net, variables = train.build(settings, genotype, dataset, "float32", trained=True)
    variables = load_network(source / "network.npz", variables)
    variables = jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), variables)
    weights = named(variables)

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        # Products of full float32 on every device, in the exported program too.
        with jax.default_matmul_precision("highest"):
            expected = _test_logits(net, variables, dataset, settings.data.batch_size)
            _write_models(temporary, net, variables, dataset)
        (temporary / "weights.safetensors").write_bytes(safetensors.numpy.save(weights))
        meta = _describe(settings, genotype, dataset, _accuracy(expected, dataset, source))
        genotype.save(temporary / "genotype.json")
        _write_json(temporary / "meta.json", meta)
        with tempfile.TemporaryDirectory(dir=workdir) as scratch:
            np.save(Path(scratch, "images.npy"), dataset.test_images)
            batch_size = settings.data.batch_size
            _logger.info("export: reads every file again in a fresh process")
            meta["checks"] = _check(temporary, Path(scratch), batch_size, expected, weights)
        _write_json(temporary / "meta.json", meta)
        (temporary / "README.md").write_text(_model_card(meta, genotype), encoding="utf-8")
        files = sorted(os.listdir(temporary))
        _replace(output, temporary)
    except OSError as error:
        raise UserError(
            f"The export cannot be written to {output}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"test accuracy {100 * meta['test']['accuracy']:.2f}%")
    print(f"written to {output}: {', '.join(files)}")
    return meta


def _check_output(output: Path) -> None:
    """Raises UserError unless `output` is absent, an empty folder or an earlier export."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"config.output is {output}, which is a file: name a folder.")
    found = set(os.listdir(output))
    strange = sorted(found - set(FILES))
    if strange or (found and "meta.json" not in found):
        raise UserError(
            f"config.output is {output}, which is no earlier export: it holds "
            f"{(strange or sorted(found))[0]!r}. Name another folder, or empty this one."
        )


def _read_run(source: Path) -> tuple[ConfigDict, Genotype]:
    """The config (seed, data, train) and the genotype of a training.

    Raises:
        UserError: `source` is not the workdir of one that came to its end.
    """
    if not source.is_dir():
        raise UserError(f"There is no run {source}: name the workdir of a training by config.run.")
    for name in ("config.json", "network.npz"):
        if not (source / name).is_file():
            raise UserError(
                f"There is no trained network in {source}, which has no {name}: run task 'train' or "
                f"'pipeline' to its end first."
            )
    path = source / "config.json"
    try:
        found = json.loads(path.read_text())
        settings = configuration.default_config().to_dict()
        # Keys that came after the training was done keep their defaults.
        parts = {part: settings[part] | found[part] for part in ("data", "train")}
        settings = ConfigDict({"seed": settings["seed"], **parts})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not the config of a training: {error!r}.") from error
    # That of the network, which may have more cells than the one that was searched.
    names = [source / name for name in ("network_genotype.json", "genotype.json")]
    return settings, Genotype.load(next((path for path in names if path.is_file()), names[0]))


def _load_data(settings) -> Dataset:
    """The data of the training; of streamed ones `_STREAMED` test images, spread evenly over all."""
    if not settings.stream:
        return data.load(settings)
    streamed = stream.load(settings)
    some = np.unique(np.linspace(0, streamed.num_test - 1, _STREAMED).astype(int))
    testing = dataclasses.replace(streamed, test=streamed.test.select(some)).testing(100)
    batches = [
        (batch.images[batch.weights > 0], batch.labels[batch.weights > 0])
        for batch in testing.batches()
    ]
    images, labels = (np.concatenate(part) for part in zip(*batches))
    return Dataset(
        name=streamed.name,
        train_images=images[:0],
        train_labels=labels[:0],
        test_images=images,
        test_labels=labels,
        class_names=streamed.class_names,
        mean=streamed.mean,
        std=streamed.std,
    )


def _test_logits(
    net: Network, variables: Variables, dataset: Dataset, batch_size: int
) -> np.ndarray:
    """The trained network's logits of all test images, float32 [n, classes]."""

    @jax.jit
    def forward(images):
        images = normalize(images, dataset.mean, dataset.std, jnp.float32)
        return network.forward(net, variables, images, train=False)[0]

    images = dataset.test_images
    logits = np.zeros((len(images), dataset.num_classes), np.float32)
    size = min(batch_size, len(images))
    for start in range(0, len(images), size):
        start = min(start, len(images) - size)  # every batch is full: one program is compiled
        logits[start : start + size] = forward(images[start : start + size])
    if not np.isfinite(logits).all():
        raise UserError("The trained network gives NaN or infinite logits: its training diverged.")
    return logits


def _accuracy(logits: np.ndarray, dataset: Dataset, source: Path) -> float:
    """The accuracy of the logits; warns where the training had measured another one."""
    accuracy = float(np.mean(logits.argmax(axis=1) == dataset.test_labels))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        measured = json.loads((source / "summary.json").read_text())["test_accuracy"]
        if abs(accuracy - measured) > 0.01:
            _logger.warning(
                "the accuracy is %.2f%%, but %.2f%% in %s: are these the data of the training?",
                *(100 * accuracy, 100 * measured, source / "summary.json"),
            )
    return accuracy


def _write_models(folder: Path, net: Network, variables: Variables, dataset: Dataset) -> None:
    """Writes `model.stablehlo` and, with its converter, `model.onnx`."""
    shape = (dataset.image_size, dataset.image_size, dataset.channels)
    (folder / "model.stablehlo").write_bytes(stablehlo(net, variables, shape).serialize())
    _write_onnx(folder / "model.onnx", _portable(net, variables), shape)


def _portable(net: Network, variables: Variables) -> Callable[[jax.Array], jax.Array]:
    """The forward pass, of operations that every backend and the ONNX converter know."""

    def forward(images):
        module = nnx.merge(net.graph, *variables)
        with backend.compiling_for("gpu"):
            return module(images)

    return forward


def stablehlo(
    net: Network, variables: Variables, image_shape: tuple[int, int, int]
) -> jax.export.Exported:
    """Exports a network's forward pass for CPU and CUDA.

    Args:
        net: structure.
        variables: weights and statistics, which become constants.
        image_shape: (H, W, C).

    Returns:
        The program that maps normalised float32 images [batch, H, W, C], of any batch size, to logits.
    """
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *image_shape), jnp.float32)
    forward = jax.jit(_portable(net, variables))
    return jax.export.export(forward, platforms=("cpu", "cuda"))(images)


def _write_onnx(path: Path, forward: Callable, shape: tuple[int, ...]) -> None:
    """Converts `forward` of images [batch, *shape]; says so where the converter is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime")):
        _logger.warning("model.onnx was not written: install 'ddarts_jax[onnx]'")
        return
    logging.disable(logging.WARNING)  # the converter speaks of parts that are not used here
    try:
        import jax2onnx

        model = jax2onnx.to_onnx(
            forward,
            [("batch", *shape)],
            model_name="ddarts_jax",
            opset=20,
            input_names=["images"],
            output_names=["logits"],
        )
    except Exception as error:  # a converter that does not fit this JAX raises nearly anything
        logging.disable(logging.NOTSET)
        _logger.warning("model.onnx was not written: jax2onnx failed (%r)", error)
        return
    finally:
        logging.disable(logging.NOTSET)
    # The converter's notes on shapes inside are wrong where it moved a transposition.
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())


def _describe(settings, genotype: Genotype, dataset: Dataset, accuracy: float) -> dict:
    """The content of `meta.json`, without the checks."""
    cost = train.cost(settings, genotype, dataset)
    kind, _, path = dataset.name.partition(":")
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        # Without the folders that it lies in, which are nobody else's business.
        "data": f"{kind}:{Path(path).name}" if path else kind,
        "class_names": list(dataset.class_names),
        "preprocessing": {
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            # Of the image, before it is resized: the whole, or the central square of this share of
            # its shorter side.
            "crop": crops.CENTRAL if settings.data.stream else None,
            "mean": dataset.mean.tolist(),
            "std": dataset.std.tolist(),
            "formula": "x = (image / 255 - mean) / std, float32 [batch, height, width, channels]",
        },
        "test": {"accuracy": accuracy, "images": len(dataset.test_labels)},
        "parameters": cost.params,
        "macs": cost.macs,
        "versions": {name: _version(name) for name in ("ddarts_jax", "jax", "jaxlib", "flax")}
        | {"python": platform.python_version()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # this package, run from its sources


def _check(
    folder: Path, scratch: Path, batch_size: int, expected: np.ndarray, weights: dict
) -> dict:
    """Reads every file in a fresh process without this package, and compares.

    Args:
        folder: the export.
        scratch: holds images.npy, the test images.
        batch_size: images that are run at a time.
        expected: the trained network's logits of them, float32 [n, classes].
        weights: the arrays that must come back from `weights.safetensors` bit for bit.

    Returns:
        For each model the largest difference of a logit, and how many images get the same class.

    Raises:
        UserError: a file cannot be read, or does not agree.
    """
    _run_fresh(_SAFETENSORS + _SAVE_WEIGHTS, folder, scratch, batch_size, (*_OURS, "jax"))
    with np.load(scratch / "weights.npz") as found:
        same = set(found.files) == set(weights) and all(
            found[name].dtype == leaf.dtype and np.array_equal(found[name], leaf)
            for name, leaf in weights.items()
        )
    if not same:
        raise UserError("weights.safetensors does not hold the weights of the trained network.")
    checks = {}
    for name, code, absent in (
        ("model.stablehlo", _STABLEHLO, _OURS),
        ("model.onnx", _ONNX, (*_OURS, "jax", "jax2onnx")),
    ):
        if (folder / name).is_file():
            code = _PREPROCESS + code + _SAVE_LOGITS
            _run_fresh(code, folder, scratch, batch_size, absent)
            checks[name] = _compare(name, np.load(scratch / "logits.npy"), expected)
    return checks


def _run_fresh(
    code: str, folder: Path, scratch: Path, batch_size: int, absent: tuple[str, ...]
) -> None:
    """Runs `code` in `folder` by a Python that cannot import the packages `absent`."""
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
    """What `meta.json` tells of the logits `found` by the file `name`; UserError if they are others."""
    difference = float(np.abs(found - expected).max())
    tolerance = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= tolerance:  # NaN is not either
        raise UserError(
            f"{name} does not compute what the trained network does: a logit of the test images "
            f"differs by {difference:.3g}, where rounding explains {tolerance:.3g}."
        )
    same = int(np.sum(found.argmax(axis=1) == expected.argmax(axis=1)))
    return {"largest_difference": difference, "tolerance": tolerance, "same_class": same}


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _replace(output: Path, new: Path) -> None:
    """Moves the folder `new` to `output`, in place of what is there."""
    if not output.exists():
        os.rename(new, output)
        return
    old = new.with_suffix(".old")
    os.rename(output, old)
    try:
        os.rename(new, output)
    except BaseException:
        os.rename(old, output)
        raise
    shutil.rmtree(old)


def _model_card(meta: dict, genotype: Genotype) -> str:
    """The text of `README.md`."""
    given, test, checks = meta["preprocessing"], meta["test"], meta["checks"]
    size, channels = given["image_size"], given["channels"]
    what = "the central square, 7/8 of the shorter side," if given["crop"] else "the whole image"
    reductions = " and ".join(map(str, genotype.reductions)) or "none"
    agreement = "\n".join(
        f"- `{name}`: the same class for {check['same_class']:,} of {test['images']:,} images, "
        f"logits within {check['largest_difference']:.1g}"
        for name, check in checks.items()
    )
    onnx_file = onnx_section = ""
    if "model.onnx" in checks:
        onnx_file = "| `model.onnx` | the same for ONNX runtimes |\n"
        onnx_section = f"""\
## With ONNX

Needs `pip install onnxruntime pillow`.

```python
{_PREPROCESS}

{_ONNX}

{_example(size, channels, given["crop"])}```

"""
    return f"""\
# An image classifier for {meta["data"]}

A convolutional network of {genotype.num_cells} cells (reduction cells: {reductions}), found by
differentiable architecture search (D-DARTS) and trained from scratch.

| | |
|---|---|
| accuracy | {100 * test["accuracy"]:.2f}% of the {test["images"]:,} test images of {meta["data"]} |
| input | images of {size} x {size} pixels, {channels} channel{"s" if channels > 1 else ""} |
| output | logits of {len(meta["class_names"])} classes |
| parameters | {meta["parameters"]:,} |
| multiply-accumulates | {meta["macs"]:,} an image |
| written | {meta["date"]} with {", ".join(f"{k} {v}" for k, v in meta["versions"].items())} |

| file | holds |
|---|---|
| `model.stablehlo` | the forward pass with its weights, any batch size, for CPU and CUDA |
{onnx_file}| `weights.safetensors` | weights, and running statistics of BatchNorm, float32 |
| `genotype.json` | the architecture: for each cell, entries (operation, node, source) |
| `meta.json` | preprocessing, class names, accuracy, versions |

Before this folder was written, each file was read by the code below, in a process of its own without
ddarts_jax, and compared with the trained network:

- `weights.safetensors`: equal bit for bit
{agreement}

## Preprocessing

Resize {what} to {size} x {size} pixels (bilinear, antialiased, as Pillow does),
then, with `mean` and `std` from `meta.json`,

    {given["formula"]}

The code below does both. With ddarts_jax installed, `python -m ddarts_jax.predict DIR IMAGE...` does it
for files of any kind (16 bits, transparent, CMYK) and prints classes and probabilities.

## With JAX

Needs `pip install jax flatbuffers pillow` (`jax[cuda12]` for a GPU). JAX reads files of its
earlier versions for at least six months; for longer, the weights are in `weights.safetensors`.

```python
{_PREPROCESS}

{_STABLEHLO}
{_example(size, channels, given["crop"])}```

The program computes in float32 without the shortcuts of GPUs (TF32).

{onnx_section}## The weights

Needs `pip install safetensors numpy`. Kernels are [height, width, in, out].

```python
{_SAFETENSORS}
for name, array in weights.items():
    print(name, array.shape)
```

## Classes

In the order of the logits:

```json
{json.dumps(meta["class_names"], ensure_ascii=False)}
```

## Limits

The network knows these classes only, and names one of them for any image. The accuracy holds for images
like those of {meta["data"]}: others (another camera, cut, background) may fare worse. Probabilities
(softmax of the logits) are not calibrated. Nothing was tested about fairness or attacks.
"""


def _example(size: int, channels: int, crop: float | None) -> str:
    """The end of the model card's code: from an image file, where there are such, to a class."""
    if channels in (1, 3):
        mode = "L" if channels == 1 else "RGB"
        box, argument = "", ""
        if crop:
            box = f"""\
(w, h), side = image.size, {crop} * min(image.size)
box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
"""
            argument = ", box"
        images = f"""\
from PIL import Image

image = Image.open("image.png").convert("{mode}")
{box}image = image.resize(({size}, {size}), Image.Resampling.BILINEAR{argument})
images = np.array(image, np.uint8).reshape(1, {size}, {size}, {channels})
"""
    else:
        images = f"images = np.zeros((1, {size}, {size}, {channels}), np.uint8)  # yours\n"
    return (
        images
        + """\
logits = np.asarray(forward(preprocess(images)))
print([meta["class_names"][best] for best in logits.argmax(axis=1)])
"""
    )

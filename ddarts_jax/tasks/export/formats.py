"""The forward pass as a file: StableHLO for JAX, ONNX for other runtimes."""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from ddarts_jax.data.dataset import Dataset
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.detector import Detector
from ddarts_jax.detection.retinanet import Detections
from ddarts_jax.errors import UserError
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.ops import backend

_logger = logging.getLogger(__name__)


def write_models(folder: Path, net: Network, variables: Variables, dataset: Dataset) -> None:
    """Writes `model.stablehlo` and, where its converter is installed, `model.onnx`."""
    shape = (dataset.image_size, dataset.image_size, dataset.channels)
    (folder / "model.stablehlo").write_bytes(stablehlo(net, variables, shape).serialize())
    inputs = {"images": ("batch", *shape)}
    write_onnx(folder / "model.onnx", _portable(net, variables), inputs, ["logits"])


def write_detector(
    folder: Path, detector: Detector, variables: Variables, shape: tuple[int, int, int]
) -> None:
    """Writes `model.stablehlo` and, where its converter is installed, `model.onnx`, for one image.

    Args:
        folder: where to.
        detector: structure.
        variables: weights and statistics, which become constants.
        shape: of the canvas, (H, W, C).
    """

    def find(images, sizes):
        with backend.compiling_for("gpu"):
            found = detectors.detect(detector, variables, images, sizes)
        return tuple(part for part in found if part is not None)

    def inputs(batch):
        return {
            "images": jax.ShapeDtypeStruct((batch, *shape), jnp.float32),
            "sizes": jax.ShapeDtypeStruct((batch, 2), jnp.int32),
        }

    (batch,) = jax.export.symbolic_shape("batch")
    program = _exported(find, *inputs(batch).values())
    (folder / "model.stablehlo").write_bytes(program.serialize())
    write_onnx(folder / "model.onnx", find, inputs(1), Detections._fields[: len(program.out_avals)])


def write_weights(folder: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes `weights.safetensors`."""
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(weights))


def _portable(net: Network, variables: Variables) -> Callable[[jax.Array], jax.Array]:
    """Returns the forward pass, made of operations that every backend and the ONNX converter know."""

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
    return _exported(_portable(net, variables), images)


def _exported(function: Callable, *inputs: jax.ShapeDtypeStruct) -> jax.export.Exported:
    return jax.export.export(jax.jit(function), platforms=("cpu", "cuda"))(*inputs)


def write_onnx(
    path: Path, forward: Callable, inputs: Mapping[str, object], outputs: Sequence[str]
) -> None:
    """Converts `forward` to ONNX; logs a warning instead where the converter is not installed.

    Args:
        path: file to write.
        forward: maps arrays to one or several.
        inputs: names of its arguments and what they are: a float32 shape, in which a name is any size,
            or a shape with a dtype.
        outputs: names of its results.

    Raises:
        UserError: the converter fails.
    """
    if not all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime")):
        _logger.warning("model.onnx was not written: install 'ddarts_jax[onnx]'")
        return
    logging.disable(logging.WARNING)  # the converter warns about parts that are not used here
    try:
        import jax2onnx

        model = jax2onnx.to_onnx(
            forward,
            list(inputs.values()),
            model_name="ddarts_jax",
            opset=20,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    except Exception as error:  # a converter that does not fit this JAX raises nearly anything
        raise UserError(
            f"model.onnx cannot be written: jax2onnx fails with JAX {jax.__version__} ({error!r:.200}); "
            "install versions that fit each other (pip install 'ddarts_jax[onnx]'), or remove jax2onnx "
            "to export without it."
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    # The converter's shapes of inner values are wrong where it moved a transposition.
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())

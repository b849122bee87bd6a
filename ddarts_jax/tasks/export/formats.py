"""The forward pass as a file: StableHLO for JAX, ONNX for other runtimes."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from ddarts_jax.data.dataset import Dataset
from ddarts_jax.errors import UserError
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.network import Network
from ddarts_jax.ops import backend

_logger = logging.getLogger(__name__)


def write_models(folder: Path, net: Network, variables: Variables, dataset: Dataset) -> None:
    """Writes `model.stablehlo` and, where its converter is installed, `model.onnx`."""
    shape = (dataset.image_size, dataset.image_size, dataset.channels)
    (folder / "model.stablehlo").write_bytes(stablehlo(net, variables, shape).serialize())
    write_onnx(folder / "model.onnx", _portable(net, variables), shape)


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
    forward = jax.jit(_portable(net, variables))
    return jax.export.export(forward, platforms=("cpu", "cuda"))(images)


def write_onnx(path: Path, forward: Callable, shape: tuple[int, ...]) -> None:
    """Converts `forward` to ONNX; logs a warning instead where the converter is not installed.

    Args:
        path: file to write.
        forward: maps images [batch, *shape] to logits.
        shape: of one image.

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
            [("batch", *shape)],
            model_name="ddarts_jax",
            opset=20,
            input_names=["images"],
            output_names=["logits"],
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

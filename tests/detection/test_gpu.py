"""Programs of heads compile for described GPUs, over which images are split (no GPU is needed).

Those of whole detectors, of Mask R-CNN too, are in `test_training`.
"""

import gpu_program
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddarts_jax import configuration
from ddarts_jax.detection import mask_rcnn, retinanet
from ddarts_jax.detection.found import Options
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.distributed import sharding

_REASON = gpu_program.unavailable()
needs_compiler = pytest.mark.skipif(bool(_REASON), reason=_REASON)

_BATCH = 4


def retina():
    """A small RetinaNet."""
    return retinanet.build((8,), (8,), 3, channels=8, levels=2, convs=1, key=None)


def two_stages():
    """A small Faster R-CNN."""
    config = configuration.detection_config()
    config.rpn.limit, config.roi.samples, config.roi.width = 20, 16, 8
    sections = {"proposing": config.rpn, "looking": config.roi}
    sizes = {"channels": 8, "levels": 1}
    return mask_rcnn.build((8,), (8,), 3, masks=False, **sections, **sizes, key=None)


def compiled(function, build) -> str:
    """Compiles `function(net, variables, features, truth)` for two devices, in bfloat16.

    Args:
        function: of a small detector; its results are those of each image, or of all.
        build: returns the detector.

    Returns:
        The program's text.
    """
    net, variables = build()
    mesh = gpu_program.mesh(_BATCH, 2)
    features = [jnp.zeros((_BATCH, 4, 2, 8), jnp.bfloat16)]
    truth = GroundTruth(
        np.zeros((_BATCH, 5, 4), np.float32),
        np.zeros((_BATCH, 5), np.int32),
        np.zeros((_BATCH, 2), np.int32),
        np.zeros((_BATCH, 5, 112, 112), np.uint8),
    )

    @jax.jit
    def run(variables, features, truth):
        with sharding.over(mesh):
            return function(net, variables, features, truth)

    arguments = (
        gpu_program.described(variables, sharding.replicated(mesh)),
        *gpu_program.described((features, truth), sharding.batch_sharding(mesh)),
    )
    text = gpu_program.Program(run, arguments).compile().as_text()
    assert gpu_program.describe(text)["kernels"] > 0
    assert "f64[" not in text
    return text


@needs_compiler
@pytest.mark.parametrize("build", [retina, two_stages])
def test_losses_and_gradients(build):
    """Only sums pass between the devices, in float32; suppression alone has rounds of any number."""

    def gradient(net, variables, features, truth):
        def total(weights):
            changed = variables._replace(weights=weights)
            return sum(net.losses(changed, features, truth, jax.random.key(0)).values())

        return jax.grad(total)(variables.weights)

    text = compiled(gradient, build)
    unknown = gpu_program.describe(text)["unknown_loops"]
    assert "while(" in text and bool(unknown) == (build is two_stages)
    kinds = set(gpu_program.collectives(text))
    assert {operation for operation, _ in kinds} == {"all-reduce"}
    assert {kind for _, kind in kinds} <= {"f32", "s32"}, kinds


@needs_compiler
@pytest.mark.parametrize("build", [retina, two_stages])
def test_detections(build):
    """Each device finds the objects of its own images, in rounds whose number depends on them."""

    def detect(net, variables, features, truth):
        return net.detect(variables, features, truth.sizes, Options(per_level=16, limit=10))

    text = compiled(detect, build)
    assert gpu_program.describe(text)["unknown_loops"]
    assert not gpu_program.collectives(text)

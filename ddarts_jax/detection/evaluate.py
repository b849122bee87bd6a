"""What a detector finds in the test images, and how well that fits."""

import collections
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ddarts_jax.data.stream import prefetch
from ddarts_jax.detection import coco_evaluation
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.coco_evaluation import Evaluation
from ddarts_jax.detection.datasets import Pixels
from ddarts_jax.detection.detector import Detector
from ddarts_jax.detection.found import Detections
from ddarts_jax.detection.instances import Instances
from ddarts_jax.distributed import sharding
from ddarts_jax.models.layers import Variables

_WAITING = 8  # batches whose results are being made while the devices go on


class Tested(NamedTuple):
    """The result of a test.

    Attributes:
        results: all detections as COCO's results, see `coco_evaluation.results_of`.
        evaluations: how well they fit the ground truth: "bbox", and "segm" of a detector of masks.
    """

    results: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]


@functools.partial(jax.jit, static_argnames=("detector", "dtype", "mesh"))
def _detect(variables, images, sizes, mean, std, *, detector, dtype, mesh):
    images, sizes = sharding.split_batch((images, sizes), mesh)
    images = detectors.prepared(images, sizes, mean, std, dtype)
    with sharding.over(mesh):
        found = detectors.detect(detector, variables, images, sizes)
    return jax.lax.with_sharding_constraint(found, sharding.replicated(mesh))


def evaluate_stream(
    detector: Detector, variables: Variables, stream: CanvasStream, pixels: Pixels, dtype
) -> Tested:
    """Finds the objects in all images of a stream of evaluation, and compares them with the truth.

    Args:
        detector: structure.
        variables: weights and statistics.
        stream: of evaluation, see `CanvasStream.training`; its batches are split over all devices.
        pixels: how images reach the detector.
        dtype: compute dtype.

    Raises:
        UserError: an image cannot be read, or batches do not divide over the devices.
    """
    mesh = sharding.data_mesh(stream.batch_size)
    variables, moments = sharding.replicate((variables, (pixels.mean, pixels.std)), mesh)

    def find(images, sizes):
        return _detect(
            variables, images, sizes, *moments, detector=detector, dtype=dtype, mesh=mesh
        )

    return evaluate_found(find, stream, mesh)


def evaluate_found(find: Callable[..., Detections], stream: CanvasStream, mesh: Mesh) -> Tested:
    """Compares what a function finds in all images of a stream of evaluation with the truth.

    Args:
        find: maps images uint8 [B, H, W, C] on their canvas and sizes int32 [B, 2] to detections.
        stream: of evaluation; its objects need outlines if masks are found.
        mesh: devices over which the batches that it gets are split.

    Raises:
        UserError: an image cannot be read.
    """
    results, waiting, kinds = [], collections.deque(), ("bbox",)
    split = sharding.batch_sharding(mesh)
    with (
        contextlib.closing(prefetch(stream.batches(), split)) as batches,
        ThreadPoolExecutor() as threads,
    ):
        for batch in batches:
            found = find(batch.images, batch.sizes)
            kinds = ("bbox",) if found.masks is None else ("bbox", "segm")
            got = jax.device_get((batch.rows, batch.sizes, found))
            waiting.append(threads.submit(_results, stream.instances, *got))
            if len(waiting) > _WAITING:
                results += waiting.popleft().result()
        for each in waiting:
            results += each.result()
    evaluate = functools.partial(coco_evaluation.evaluate, stream.instances, results)
    return Tested(results, {kind: evaluate(kind) for kind in kinds})


def _results(instances: Instances, rows, sizes, found: Detections) -> list[dict[str, Any]]:
    valid = found.classes >= 0
    return coco_evaluation.results_of(
        instances, rows, sizes, found.boxes, found.scores, found.classes, valid, found.masks
    )

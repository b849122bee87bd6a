"""The check of a detector's export: its files find what the trained detector finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from ddarts_jax.detection import coco_evaluation
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.datasets import Pixels
from ddarts_jax.detection.evaluate import evaluate_found
from ddarts_jax.detection.exported import Found
from ddarts_jax.detection.found import Detections
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.tasks.export import checks, snippets

_BOX = 1e-3  # pixels by which a coordinate may differ, on canvases of up to `_SIDE` pixels
_SIDE = 256  # on larger ones, whose anchors are larger, in proportion
_SCORE = 1e-4
_MASK = 1e-3  # of a probability
# Share of the detections that may be others: a score or an overlap may lie so near to its threshold that
# rounding decides.
_OTHERS = 0.01

_SAVE = """\
found = {}
with np.load(sys.argv[1] + "/images.npz") as images:
    for name in images.files:
        for key, array in zip(("boxes", "scores", "labels", "masks"), detect(images[name])):
            found[key + name] = array
np.savez(sys.argv[1] + "/found.npz", **found)
"""


def check(
    folder: Path,
    scratch: Path,
    images: Sequence[np.ndarray],
    expected: Sequence[Found],
    pixels: np.ndarray,
) -> dict[str, dict]:
    """Detects with every file in a fresh process without this package, and compares.

    Args:
        folder: the export.
        scratch: an empty folder.
        images: test images, uint8 [h, w, C].
        expected: what the trained detector finds in each.
        pixels: float [n], by which a box in each may differ.

    Returns:
        For each model how many detections there are, how many are the same, and the largest differences
        of these.

    Raises:
        UserError: a file cannot be read, or finds other objects.
    """
    np.savez(scratch / "images.npz", **{str(n): image for n, image in enumerate(images)})
    found, masks = {}, any(each.masks is not None for each in expected)
    detect = snippets.DETECT_MASKS if masks else snippets.DETECT
    for name, absent in checks.MODELS.items():
        if (folder / name).is_file():
            load = snippets.STABLEHLO if name == "model.stablehlo" else snippets.DETECTOR_ONNX
            code = snippets.DETECTOR_PREPROCESS + load + detect + _SAVE
            checks.run_fresh(code, folder, scratch, 1, absent)
            parts = Found._fields if masks else Found._fields[:-1]
            with np.load(scratch / "found.npz") as file:
                own = [Found(*(file[f"{key}{n}"] for key in parts)) for n in range(len(images))]
            found[name] = _compare(name, own, expected, pixels)
    return found


class Agreement(NamedTuple):
    """How two sets of detections in an image agree.

    Attributes:
        same: number of pairs of the same class, box, score and mask.
        box: largest difference of a coordinate in these pairs, in pixels.
        score: largest difference of a score in these pairs.
        mask: largest difference of a probability in the masks of these pairs; 0 without masks.
    """

    same: int
    box: float
    score: float
    mask: float


def agreement(found: Found, expected: Found, pixels: float) -> Agreement:
    """Pairs detections, one to one, that agree up to `pixels`, a score of 1e-4 and masks of 1e-3."""
    boxes = np.abs(expected.boxes[:, None] - found.boxes).max(-1, initial=0)
    scores = np.abs(expected.scores[:, None] - found.scores)
    masks = np.zeros_like(scores)
    if expected.masks is not None:
        masks = np.abs(expected.masks[:, None] - found.masks).max((2, 3), initial=0)
    alike = (boxes <= pixels) & (scores <= _SCORE) & (masks <= _MASK)
    alike &= expected.labels[:, None] == found.labels
    pairs = []
    for row in range(len(alike)):
        columns = np.flatnonzero(alike[row])
        if len(columns):
            best = columns[boxes[row, columns].argmin()]
            alike[:, best] = False
            pairs.append((row, best))
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    largest = (float(each[rows, columns].max(initial=0)) for each in (boxes, scores, masks))
    return Agreement(len(pairs), *largest)


def box_tolerance(canvas: tuple[int, int]) -> float:
    """Returns the pixels by which rounding may move a box on a canvas."""
    return _BOX * max(1.0, max(canvas) / _SIDE)


def _compare(name: str, found: Sequence[Found], expected: Sequence[Found], pixels) -> dict:
    """Compares what the file `name` finds with what the trained detector finds."""
    pairs = [agreement(*each) for each in zip(found, expected, pixels, strict=True)]
    same = sum(pair.same for pair in pairs)
    total, own = (sum(len(each.labels) for each in side) for side in (expected, found))
    others = total + own - 2 * same
    if others > _OTHERS * (total + own):
        raise UserError(
            f"{name} does not find what the trained detector does: {total - same} of its {total} "
            f"detections in {len(expected)} test images are missing, and {own - same} others are there."
        )
    parts = ("box", "score", "mask") if expected[0].masks is not None else ("box", "score")
    return {
        "images": len(expected),
        "detections": total,
        "same": same,
        **{
            f"largest_{part}_difference": max(getattr(pair, part) for pair in pairs)
            for part in parts
        },
    }


def measure_aps(path: Path, stream: CanvasStream, pixels: Pixels) -> dict[str, float]:
    """Returns the AP of the program in the file `path` on all images of a stream.

    Args:
        path: `model.stablehlo`.
        stream: of evaluation, all images on the program's canvas.
        pixels: how images reach the detector.

    Returns:
        "AP", that of boxes; of a detector of masks also "mask_AP".
    """
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)

    def find(images, sizes):
        images = detectors.prepared(images, sizes, pixels.mean, pixels.std, jnp.float32)
        return Detections(*call(images, sizes))

    mesh = sharding.data_mesh(stream.batch_size, jax.devices()[:1])
    evaluations = evaluate_found(find, stream, mesh).evaluations
    return {
        f"{coco_evaluation.PREFIXES[kind]}AP": own.numbers["AP"]
        for kind, own in evaluations.items()
    }

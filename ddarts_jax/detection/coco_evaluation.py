"""Average precision as COCO defines it, computed by pycocotools, and detections as COCO's results.

The results have original image ids, category ids and pixels: written as JSON they can be uploaded to
COCO's server as they are.
"""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddarts_jax import files
from ddarts_jax.detection import pasting
from ddarts_jax.detection.instances import Instances

_logger = logging.getLogger(__name__)

NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
SIZES = ("all", "small", "medium", "large")  # areas up to 32^2, up to 96^2, and above
PREFIXES = {"bbox": "", "segm": "mask_"}  # of the names of what is told of each kind
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # of IoU


class Evaluation(NamedTuple):
    """How well detections fit the ground truth.

    Attributes:
        numbers: the 12 numbers of COCO by `NAMES`; -1: there is no object that it is about.
        by_class: float64 [K, 4], AP of each class at `SIZES`; -1: likewise.
        precision: float64 [10, 101, K], at `THRESHOLDS` and at recalls 0, 0.01, ..., 1, of objects of all
            sizes and 100 detections an image; -1: the class has no object.
    """

    numbers: dict[str, float]
    by_class: np.ndarray
    precision: np.ndarray


def results_of(
    instances: Instances,
    rows: np.ndarray,
    sizes: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray,
    masks: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Converts the detections of a batch to COCO's results.

    Args:
        instances: the images.
        rows: integers [B], positions of the images; negative for padding, which is left out.
        sizes: integers [B, 2], height and width of the images on their canvas.
        boxes: float [B, D, 4], x1, y1, x2, y2 in pixels of the canvas.
        scores: float [B, D].
        labels: integers [B, D].
        valid: bool [B, D]; False: there is no detection.
        masks: float [B, D, S, S], probabilities of the pixels within each box; None: there are none.

    Returns:
        Detections with `image_id`, `category_id`, `bbox` (x, y, width, height in pixels of the original
        image, clipped to it, with 2 decimals) and `score` (5 decimals); with masks also `segmentation`,
        see `pasting.to_rle`.
    """
    results = []
    for place in np.flatnonzero(rows >= 0):
        row, real = rows[place], valid[place]
        own_boxes, own_scores, own_labels = (each[place][real] for each in (boxes, scores, labels))
        original = instances.sizes[row]
        scale = (original / sizes[place])[[1, 0, 1, 0]]
        exact = np.clip(own_boxes.astype(np.float64) * scale, 0, original[[1, 0, 1, 0]])
        corners = exact.round(2)
        corners[:, 2:] -= corners[:, :2]
        own = [
            {
                "image_id": int(instances.image_ids[row]),
                "category_id": category,
                "bbox": box,
                "score": score,
            }
            for category, box, score in zip(
                instances.category_ids[own_labels].tolist(),
                corners.round(2).tolist(),
                own_scores.astype(np.float64).round(5).tolist(),
            )
        ]
        if masks is not None:
            outlines = pasting.to_rle(masks[place][real], exact, *original.tolist())
            own = [each | {"segmentation": rle} for each, rle in zip(own, outlines)]
        results += own
    return results


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results as JSON in one line; see `files.writing`."""
    files.write_text(path, json.dumps(results))


def evaluate(
    instances: Instances, results: Sequence[dict[str, Any]], kind: str = "bbox"
) -> Evaluation:
    """Compares results with the ground truth by pycocotools' COCOeval.

    Args:
        instances: images and objects.
        results: as `results_of`. Not changed.
        kind: "bbox", or "segm" for the masks, which all objects and results must have then.
    """
    from pycocotools.cocoeval import COCOeval

    if not results:
        _logger.warning("Nothing was detected in %s: its AP is 0.", instances.name)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _indexed(_ground_truth(instances))
        # `loadRes` adds keys to what it gets, fails for an empty list, and takes the area of the box for
        # that of the mask where there are both.
        other = {"bbox": "segmentation", "segm": "bbox"}[kind]
        own = [{key: each[key] for key in each if key != other} for each in results]
        found = truth.loadRes(own) if own else _nothing(truth)
        judge = COCOeval(truth, found, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval[
        "precision"
    ]  # [thresholds, recalls, classes, sizes, 1, 10 or 100 detections]
    by_class = np.array(
        [
            [_mean_of_known(precision[:, :, label, size, -1]) for size in range(len(SIZES))]
            for label in range(instances.num_classes)
        ]
    )
    numbers = dict(zip(NAMES, map(float, judge.stats), strict=True))
    return Evaluation(numbers, by_class, precision[:, :, :, 0, -1])


def facts(instances: Instances, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Returns evaluations as JSON: the 12 numbers, AP by class and size, and what was there.

    Args:
        instances: images and objects.
        evaluations: by kind; those of masks are `mask_numbers`, and `mask_AP` of each class.
    """
    crowds = int(instances.crowd.sum())
    content = {
        "images": len(instances),
        "objects": len(instances.boxes) - crowds,
        "crowds": crowds,
    }
    rows = zip(instances.category_ids.tolist(), instances.class_names, _objects_by_class(instances))
    classes = [{"id": number, "name": name, "objects": count} for number, name, count in rows]
    for kind, evaluation in evaluations.items():
        content[f"{PREFIXES[kind]}numbers"] = evaluation.numbers
        for each, ap in zip(classes, evaluation.by_class.tolist()):
            each[f"{PREFIXES[kind]}AP"] = dict(zip(SIZES, ap))
    return content | {"classes": classes}


def _objects_by_class(instances: Instances) -> list[int]:
    labels = instances.labels[~instances.crowd]
    return np.bincount(labels, minlength=instances.num_classes).tolist()


def _mean_of_known(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _ground_truth(instances: Instances) -> dict[str, list[dict[str, Any]]]:
    """Returns images, categories and objects as COCO's JSON has them."""
    ids, sizes = instances.image_ids.tolist(), instances.sizes.tolist()
    objects = zip(
        instances.owners.tolist(),
        instances.category_ids[instances.labels].tolist(),
        instances.boxes.tolist(),
        instances.areas.tolist(),
        instances.crowd.tolist(),
        instances.segmentations or [None] * len(instances.boxes),
    )
    return {
        "images": [
            {"id": each, "height": height, "width": width}
            for each, (height, width) in zip(ids, sizes)
        ],
        "categories": [
            {"id": each, "name": name}
            for each, name in zip(instances.category_ids.tolist(), instances.class_names)
        ],
        "annotations": [
            {
                "id": number,  # from 1: pycocotools takes an object with id 0 as never found
                "image_id": ids[owner],
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                "segmentation": outline,
            }
            for number, (owner, category, box, area, crowd, outline) in enumerate(objects, 1)
        ],
    }


def _indexed(content: dict[str, Any]):
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _nothing(truth):
    """Returns results without any detection."""
    return _indexed(truth.dataset | {"annotations": []})

"""Average precision and results in COCO's format, against pycocotools on files made elsewhere."""

import json

import coco_folder
import numpy as np
import pytest
import tiny

from ddarts_jax.detection import coco_evaluation, coco_json, outlines
from ddarts_jax.detection.coco_evaluation import NAMES, evaluate, facts, results_of

PARITY = tiny.SHARED / "detection" / "coco_eval"


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """Ground truth as read by us, results without what the kind does not need, expected numbers."""
    if not PARITY.exists():
        pytest.skip("the parity data beside the repository are absent")
    images = tmp_path_factory.mktemp("images")
    for image in json.loads((PARITY / "ground_truth.json").read_text())["images"]:
        (images / image["file_name"]).touch()
    truth = coco_json.read(str(PARITY / "ground_truth.json"), str(images))
    results = json.loads((PARITY / "detections.json").read_text())
    expected = json.loads((PARITY / "expected.json").read_text())
    return truth, results, expected


def _check(truth, found, expected):
    assert list(found.numbers) == list(expected["stats"])
    for name in NAMES:
        assert abs(found.numbers[name] - expected["stats"][name]) < 1e-9
    for number, ap in zip(truth.category_ids, found.by_class[:, 0]):
        assert abs(ap - expected["AP_by_category"][str(number)]) < 1e-9


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers(parity, kind, tmp_path, capfd):
    """Ground truth through our reader, with crowds and a class without objects; boxes and masks from one
    list of results, written and read back; nothing is printed.
    """
    truth, results, expected = parity
    coco_evaluation.write_results(tmp_path / "detections.json", results)
    results = json.loads((tmp_path / "detections.json").read_text())
    before = json.dumps(results)
    found = evaluate(truth, results, kind)
    _check(truth, found, expected[kind])
    arrays = np.load(PARITY / "expected.npz")
    np.testing.assert_allclose(found.precision, arrays[f"{kind}/precision_all_100"], atol=1e-7)
    assert json.dumps(results) == before  # pycocotools had copies
    assert capfd.readouterr() == ("", "")


def test_the_twelve_numbers_through_the_writer(parity, tmp_path):
    """As a detector gives them, in batches of padded float32 on canvases, written, and read back."""
    truth, results, expected = parity
    known = [each for each in results if each["category_id"] in truth.category_ids]
    by_image = [[e for e in known if e["image_id"] == i] for i in truth.image_ids.tolist()]
    most = max(map(len, by_image))
    written = []
    for row in range(0, len(truth), 4):
        rows = np.array([r if r < len(truth) else -1 for r in range(row, row + 4)])
        boxes, scores = np.full((4, most, 4), 7, np.float32), np.ones((4, most), np.float32)
        labels, valid = np.zeros((4, most), np.int32), np.zeros((4, most), bool)
        sizes = 2 * truth.sizes[rows]  # on a canvas of twice the size
        for place, own in enumerate(by_image[row : row + 4]):
            for number, each in enumerate(own):
                x, y, w, h = each["bbox"]
                boxes[place, number] = 2 * np.array([x, y, x + w, y + h])
                scores[place, number] = each["score"]
                labels[place, number] = np.searchsorted(truth.category_ids, each["category_id"])
                valid[place, number] = True
        written += results_of(truth, rows, sizes, boxes, scores, labels, valid)
    assert len(written) == len(known)
    coco_evaluation.write_results(tmp_path / "detections.json", written)
    read = json.loads((tmp_path / "detections.json").read_text())
    _check(truth, evaluate(truth, read), expected["bbox"])


@pytest.fixture
def small(tmp_path):
    """Three images; ids have gaps and are unsorted, and the class "ox" has no object."""
    return coco_json.read(*coco_folder.write(tmp_path))


def test_results_are_in_original_pixels_and_ids(small):
    """Scaled by each side's own ratio, clipped, rounded; padding and what is not valid are left out."""
    boxes = np.array([[[10, 10, 20, 30], [-5, 3.0001, 1000, 1000], [0, 0, 9, 9]]] * 2, np.float32)
    found = results_of(
        small,
        rows=np.array([1, -1]),
        sizes=np.array([[100, 60], [1, 1]]),
        boxes=boxes,
        scores=np.array([[0.1234567, 0.9, 0.8]] * 2, np.float32),
        labels=np.array([[2, 1, 0]] * 2),
        valid=np.array([[True, True, False]] * 2),
    )
    assert found == [
        {"image_id": 4, "category_id": 90, "bbox": [6.67, 5.0, 6.66, 10.0], "score": 0.12346},
        {"image_id": 4, "category_id": 18, "bbox": [0.0, 1.5, 40.0, 48.5], "score": 0.9},
    ]


def _perfect(truth):
    objects = zip(truth.owners, truth.labels, truth.boxes.tolist(), truth.crowd)
    return [
        {
            "image_id": int(truth.image_ids[owner]),
            "category_id": int(truth.category_ids[label]),
            "bbox": box,
            "score": 0.5,
        }
        for owner, label, box, crowd in objects
        if not crowd
    ]


def test_what_cannot_be_found_does_not_count(small):
    """Perfect detections have AP 1, also of the object with id 0; a class without objects has -1 and is
    not in the mean; crowds are neither found nor missed.
    """
    found = evaluate(small, _perfect(small))
    assert found.numbers["AP"] == pytest.approx(1) and found.numbers["AP_large"] == -1
    np.testing.assert_allclose(found.by_class[:, 0], [1, 1, -1])
    assert (found.precision[..., 2] == -1).all() and found.precision.shape == (10, 101, 3)
    written = json.loads(json.dumps(facts(small, {"bbox": found})))
    assert (written["images"], written["objects"], written["crowds"]) == (3, 3, 1)
    assert [(each["id"], each["name"], each["objects"]) for each in written["classes"]] == [
        (2, "cat", 2), (18, "dog", 1), (90, "ox", 0),
    ]  # fmt: skip
    assert written["classes"][2]["AP"] == dict.fromkeys(coco_evaluation.SIZES, -1)


def test_nothing_detected(small, caplog):
    """AP is 0, where there are objects, and a line tells it."""
    found = evaluate(small, [])
    assert found.numbers["AP"] == found.numbers["AR_100"] == 0 and found.numbers["AP_large"] == -1
    assert found.by_class[:, 0].tolist() == [0, 0, -1]
    assert "Nothing was detected" in caplog.text


def test_all_objects_are_evaluated():
    """Also those that an image has beyond what training takes, and images that do not train."""
    boxes = [[(2 * x, x, 1 + x % 7, 9) for x in range(111)], []]
    truth = coco_folder.in_memory([(300, 300), (20, 20)], boxes)
    found = evaluate(truth, _perfect(truth)[:100])
    assert found.numbers["AR_100"] == pytest.approx(100 / 111)
    written = facts(truth, {"bbox": found})
    assert written["objects"] == 111 and written["images"] == 2


def test_results_with_masks(small):
    """Each mask fills its box in the original image, before its numbers are rounded; facts have both."""
    found = results_of(
        small,
        rows=np.array([1]),
        sizes=np.array([[100, 60]]),  # 50 x 40
        boxes=np.array([[[3, 10, 30, 30], [0, 0, 6, 6]]], np.float32),
        scores=np.array([[0.5, 0.25]], np.float32),
        labels=np.array([[2, 1]]),
        valid=np.array([[True, False]]),
        masks=np.ones((1, 2, 28, 28), np.float32),
    )
    (own,) = found
    mask = outlines.mask_of(own["segmentation"], 50, 40)
    expected = np.zeros((50, 40), bool)
    expected[5:15, 2:20] = True
    np.testing.assert_array_equal(mask, expected)
    assert own["bbox"] == [2.0, 5.0, 18.0, 10.0]
    nothing = evaluate(small, [])
    written = facts(small, {"bbox": nothing, "segm": nothing})
    assert written["mask_numbers"] == written["numbers"]
    assert written["classes"][0]["mask_AP"] == written["classes"][0]["AP"]

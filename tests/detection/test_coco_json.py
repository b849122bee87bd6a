"""COCO's annotation files: what they mean, and every mistake in one sentence that names the file."""

import json

import coco_folder
import pytest
import tiny
from coco_folder import changed, content

from ddarts_jax.detection import coco_json
from ddarts_jax.errors import UserError


def test_everything_is_kept_by_image_and_rank_of_category(tmp_path):
    """Images in their order with their own objects; labels are ranks of ids with gaps."""
    found = coco_json.read(*coco_folder.write(tmp_path))
    assert found.image_ids.tolist() == [30, 4, 11]
    assert found.sizes.tolist() == [[48, 64], [50, 40], [33, 33]]
    assert found.category_ids.tolist() == [2, 18, 90]
    assert found.class_names == ("cat", "dog", "ox")
    assert found.owners.tolist() == [0, 1, 1, 1]
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.boxes[1].tolist() == [-3.5, 10.25, 20.0, 30.5]
    assert found.crowd.tolist() == [False, False, True, False]
    assert found.areas.tolist() == [1200, 300.5, 400, 96]  # the last one that of its box
    outlines = [each.get("segmentation") for each in content()["annotations"]]
    assert found.segmentations == (None, outlines[0], outlines[2], None)
    assert found.read(1, 3)[0, 0].tolist() == [4, 0, 200]


def test_ignore_and_empty_sets(tmp_path):
    """`ignore` is read, and a file without objects is no mistake by itself."""
    found = coco_json.read(*coco_folder.write(tmp_path, changed("annotations", 1, ignore=1)))
    assert found.ignore.tolist() == [True, False, False, False]
    found = coco_json.read(*coco_folder.write(tmp_path, content(annotations=[])))
    assert len(found) == 3 and found.boxes.shape == (0, 4) and not len(found.trained_images)


WHOLE = json.dumps(content())
IMAGES, CATEGORIES, OBJECTS = (content()[key] for key in ("images", "categories", "annotations"))
BAD = [0, 0, 5, -1]
POLYGON = [[0, 0, 5, 5]]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (WHOLE[: len(WHOLE) // 2], "is not valid JSON"),
        (WHOLE[1:-1], "is not valid JSON"),
        ("[]", "holds no JSON object"),
        (content(images=None), "has no list 'images'"),
        (content(annotations=None), "has no list 'annotations'"),
        (content(categories={"id": 1}), "has no list 'categories'"),
        (content(images=[]), "has an empty list 'images'"),
        (content(categories=[]), "has an empty list 'categories'"),
        (content(images=[7]), "Entry 0 of 'images' in .* has no 'id'"),
        (changed("images", 1, width=None), "Entry 1 of 'images' in .* has no 'width'"),
        (changed("annotations", 2, bbox=None), "Entry 2 of 'annotations' in .* has no 'bbox'"),
        (changed("categories", 1, id="two"), "has the id 'two': ids are integers"),
        (
            changed("categories", 1, name="dark \ud83d"),
            r"Category 2 in .* has the name 'dark \\ud83d', which is not Unicode: rename it",
        ),
        (changed("images", 2, id=30), "id 30 is there twice in 'images'"),
        (changed("annotations", 2, id=5), "id 5 is there twice in 'annotations'"),
        (changed("categories", 0, id=2), "id 2 is there twice in 'categories'"),
        (changed("images", 1, width=0), "Image 4 in .* width 0: both must be positive"),
        (changed("images", 1, height=5.5), "Image 4 in .* height 5.5 and"),
        (changed("images", 0, file_name="b.png"), "1 of 3 images .* do not exist, .*images/b.png"),
        (changed("annotations", 0, image_id=99), "Annotation 5 in .* image_id 99, which is not"),
        (changed("annotations", 0, image_id=[4]), r"Annotation 5 in .* image_id \[4\], which"),
        (changed("annotations", 0, category_id=1), "Annotation 5 in .* category_id 1, which"),
        (
            content(annotations=[each | {"bbox": BAD} for each in OBJECTS]),
            "4 of 4 boxes in .* first",
        ),
        (changed("annotations", 0, area="big"), "Annotation 5 in .* has the area 'big'"),
        (changed("annotations", 0, segmentation=POLYGON), "annotation 5 in .* at least 3 points"),
        (changed("annotations", 0, segmentation=[[*"abcdefg"]]), "annotation 5 in .* at least 3"),
        (changed("annotations", 0, segmentation="x"), "annotation 5 in .* at least 3 points"),
        (
            changed("annotations", 2, segmentation={"size": [40, 50], "counts": [2000]}),
            r"annotation 9 in .* RLE of size \[40, 50\], but .* \[50, 40\]",
        ),
    ],
)
def test_mistakes_are_one_sentence_that_names_the_file(tmp_path, whole, message):
    """Whatever is wrong in the file, a user reads where and what to do."""
    path, images = coco_folder.write(tmp_path, whole)
    with pytest.raises(UserError, match=message) as raised:
        coco_json.read(path, images)
    text = str(raised.value)
    assert path in text and text.endswith(".") and "\n" not in text


def _outlined(**replaced):
    """The content with an outline of every object, those of some annotation ids replaced."""
    whole = content()
    for each in whole["annotations"]:
        outline = each.get("segmentation", [[1, 2, 9, 2, 9, 8, 1, 8]])
        each["segmentation"] = replaced.get(f"of_{each['id']}", outline)
    return whole


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (
            content(),
            "2 of 4 annotations in .* no segmentation, the first is annotation 1: .* boxes",
        ),
        (_outlined(of_0=[]), "1 of 4 annotations in .* the first is annotation 0"),
        (
            _outlined(of_5=[[0, 0, 5, 5, 1e300, 1]]),
            "annotation 5 in .* has points that are not fini",
        ),
        (
            _outlined(of_9={"size": [50, 40], "counts": [1999]}),
            "annotation 9 in .* counts do not add up to the 50 x 40 pixels of its image: correct it",
        ),
    ],
)
def test_masks_that_are_needed(tmp_path, whole, message):
    """Without them boxes can be learnt, but no masks: the first annotation is named."""
    path, images = coco_folder.write(tmp_path, whole)
    coco_json.read(path, images)
    with pytest.raises(UserError, match=message) as raised:
        coco_json.read(path, images, masks=True)
    assert path in str(raised.value) and str(raised.value).endswith(".")


def test_masks_of_every_kind(tmp_path):
    """Polygons and RLE become the masks of the objects that train, a crowd's is not among them."""
    found = coco_json.read(*coco_folder.write(tmp_path, _outlined()), masks=True)
    triangle, square = found.masks(1)
    assert triangle.shape == (50, 40) and square[2:8, 1:9].all() and square.sum() == 48
    y, x = triangle.nonzero()  # 0, 10; 16, 10; 16, 40
    assert x.max() == 15 and y.min() == 10 and 230 < triangle.sum() < 250
    boxes, _, crops = found.ground_truth(1, masks=True)
    assert boxes.tolist() == [[0, 10.25, 16.5, 40.75], [30, 30, 38, 42]]
    shares = crops.mean((1, 2)) / 255 * (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert crops.shape == (2, 112, 112) and not crops[1].any()  # an outline beside its box
    assert abs(shares[0] - triangle.sum()) < 5
    assert found.ground_truth(1).masks is None


def test_missing_files(tmp_path):
    """The annotation file, or all images because the folder is another one."""
    path, _ = coco_folder.write(tmp_path)
    with pytest.raises(UserError, match=r"nothing\.json does not exist"):
        coco_json.read(str(tmp_path / "nothing.json"), str(tmp_path))
    with pytest.raises(UserError, match=r"3 of 3 images .* or name the folder"):
        coco_json.read(path, str(tmp_path))


def test_too_many_classes(tmp_path, monkeypatch):
    """There is a limit, which is told."""
    monkeypatch.setattr(coco_json, "_MOST_CLASSES", 2)
    with pytest.raises(UserError, match="has 3 categories: at most 2"):
        coco_json.read(*coco_folder.write(tmp_path))


@pytest.mark.parametrize(
    "box",
    [BAD, [0, 0, 0, 5], [1, 2, 3], "box", [0, 0, float("nan"), 1], [float("inf"), 0, 1, 1],
     [0, 0, 10**400, 1], ["0", 0, 1, 1], None],
)  # fmt: skip
def test_some_bad_boxes_are_left_out_and_counted(tmp_path, caplog, box):
    """A box that is no box costs one warning with its annotation, not the run."""
    whole = content()
    whole["annotations"][2]["bbox"] = whole["annotations"][3]["bbox"] = box
    found = coco_json.read(*coco_folder.write(tmp_path, whole))
    assert found.boxes.tolist() == [[1, 2, 30, 40], [-3.5, 10.25, 20.0, 30.5]]
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 4 boxes in ")
    assert "first is that of annotation 9" in record.getMessage()


def test_a_pair_shares_its_classes(tmp_path):
    """The test is labelled as the training is."""
    train = coco_folder.write(tmp_path)
    two = content(categories=CATEGORIES[:1], annotations=OBJECTS[:1])
    test = coco_folder.write(tmp_path, two, "test.json")
    _, found = coco_json.read_pair(*train, *test)
    assert found.labels.tolist() == [1] and found.class_names == ("cat", "dog", "ox")


def test_the_layout_of_2017():
    """The four paths below the folder that COCO 2017 is unpacked into."""
    assert coco_json.paths_of_2017("/data/coco") == (
        "/data/coco/annotations/instances_train2017.json",
        "/data/coco/train2017",
        "/data/coco/annotations/instances_val2017.json",
        "/data/coco/val2017",
    )


@pytest.mark.parametrize(
    ("name", "images", "objects", "classes"),
    [("trees", (26, 7), (487, 210), ("tree",)), ("nuclei", (3, 1), (108, 28), ("nucleus",))],
)
def test_real_files(name, images, objects, classes):
    """Annotated photographs as they come: every file is read, boxes lie inside, nothing is lost."""
    root = tiny.SHARED / "detection" / "real" / name
    if not root.exists():
        pytest.skip("the annotated photographs beside the repository are absent")
    paths = [str(root / part) for part in ("train.json", "", "test.json", "")]
    pair = coco_json.read_pair(*paths)
    for found, num_images, num_objects in zip(pair, images, objects):
        assert (len(found), len(found.boxes), found.class_names) == (
            num_images,
            num_objects,
            classes,
        )
        for row in range(len(found)):
            height, width, _ = found.read(row, 3).shape
            boxes, labels, _ = found.ground_truth(row)
            assert not labels.any() and len(labels) and (boxes >= 0).all()
            assert (boxes[:, 2:] <= [width, height]).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()

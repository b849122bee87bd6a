"""Streams: each image when and where it belongs, the same from anywhere on, and the right crops."""

import dataclasses
import io
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from ddarts_jax.data import stream
from ddarts_jax.data.stream import ImageStream
from ddarts_jax.distributed.sharding import data_mesh
from ddarts_jax.errors import UserError


@dataclasses.dataclass
class Config:
    """The part of `config.data` that `open_records` reads."""

    name: str
    data_dir: str = ""
    test_fraction: float = 0.2
    images_per_class: int = 0


def _write(root: Path, counts: dict[str, int]) -> str:
    """PNG files of one colour; the red value numbers them through all folders."""
    numbers = iter(range(256))
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            color = (next(numbers), 0, 200)
            Image.new("RGB", (9, 7), color).save(root / folder / f"{i:03}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """23 training and 5 test images of the classes a, b."""
    counts = {"train/a": 11, "train/b": 12, "test/a": 2, "test/b": 3}
    return stream.open_records(Config(_write(tmp_path_factory.mktemp("images"), counts)))


def _take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _numbers(batch):
    """Which images are in a batch."""
    return batch.images[:, 0, 0, 0][batch.weights > 0].tolist()


def _assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for got, wanted in zip(batches, expected):
        for a, b in zip(got, wanted):
            np.testing.assert_array_equal(a, b)


# sources


def test_folder_records_are_files_with_their_labels(records):
    """Every file is there once, in the split and class whose folder it lies in."""
    train, test = records
    assert train.class_names == test.class_names == ("a", "b")
    np.testing.assert_array_equal(train.labels, [0] * 11 + [1] * 12)
    np.testing.assert_array_equal(test.labels, [0] * 2 + [1] * 3)
    assert [os.path.basename(train.source.files[i]) for i in (0, 11)] == [b"000.png"] * 2


def test_folder_without_test_split_holds_out_of_each_class(tmp_path):
    """Both parts together hold each image once; images_per_class limits both."""
    name = _write(tmp_path, {"a": 10, "b": 20})
    train, test = stream.open_records(Config(name))
    assert np.bincount(test.labels).tolist() == [2, 4]
    assert sorted([*train.indices, *test.indices]) == list(range(30))
    train, test = stream.open_records(Config(name, images_per_class=3))
    assert (np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()) == (
        [3, 3], [2, 3],
    )  # fmt: skip


def test_halves_divide_each_class(records):
    """The halves are disjoint, cover everything and hold half of each class."""
    first, second = stream.halves(records[0], seed=1)
    assert sorted([*first.indices, *second.indices]) == list(range(23))
    assert abs(np.bincount(first.labels) - np.bincount(second.labels)).max() <= 1


def test_identity_tells_images_from_others(tmp_path, records):
    """JSON can say it; a file more, another name or another half change it; a new listing not."""
    name = _write(tmp_path, {"a": 4, "b": 4})
    identity = stream.open_records(Config(name))[0].identity
    assert json.loads(json.dumps(identity)) == identity
    assert stream.open_records(Config(name))[0].identity == identity
    first, second = stream.halves(records[0], seed=0)
    assert first.identity != second.identity
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "new.png")
    renamed = stream.open_records(Config(name))[0].identity
    Image.new("RGB", (9, 7)).save(tmp_path / "a" / "000.png")
    larger = stream.open_records(Config(name))[0].identity
    assert len({str(x) for x in (identity, renamed, larger)}) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {}, "cannot be streamed"),
        ("npz:x.npz", {}, "cannot be streamed"),
        ("folder:/no/such/folder", {}, "no folder"),
        ("cifar10", {"images_per_class": 3}, "images_per_class"),
        ("cifar-10", {}, "did you mean 'cifar10'"),
    ],
)
def test_what_cannot_be_streamed(name, options, message):
    """Data in memory, missing folders and unknown names are refused with the reason."""
    with pytest.raises(UserError, match=message):
        stream.open_records(Config(name, **options))


def test_no_file_is_opened_before_it_is_needed(tmp_path):
    """The checks at the start look at names only: unreadable content is no obstacle to them."""
    name = _write(tmp_path, {"a": 3, "b": 3})
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    train, _ = stream.open_records(Config(name))
    with pytest.raises(UserError, match=r"Cannot read .*/[ab]/00\d\.png as an image"):
        next(ImageStream(records=train, batch_size=2, image_size=8, training=True).batches())


def test_a_broken_record_of_tfds_is_told_with_its_number():
    """The message names the split, the image's number, the reason and what to do."""
    source = stream.Tfds("the split 'train' of 'x'", [{"image": b"no", "label": 0}] * 3, "mend it")
    records = stream.Records(source, np.arange(3), ("a", "b"))
    evaluation = ImageStream(records=records, batch_size=3, image_size=8, training=False)
    with pytest.raises(UserError, match=r"image 0 of the split 'train' of 'x' \(.*\): mend it\."):
        next(evaluation.batches())


# batches


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch(records):
    """Within an epoch no image comes twice; epochs and seeds differ in order; all images come."""
    train, _ = records
    orders = {}
    for seed in (0, 1, 2**32):
        batches = ImageStream(
            records=train, batch_size=4, image_size=8, training=True, seed=seed
        ).batches()
        taken = _take(batches, 20)
        for batch in taken:
            np.testing.assert_array_equal(batch.labels, np.array(_numbers(batch)) >= 11)
            assert batch.images.shape == (4, 8, 8, 3) and batch.images.dtype == np.uint8
            assert batch.labels.dtype == np.int32 and batch.weights.tolist() == [1] * 4
        for epoch in range(4):
            numbers = [n for b in taken[5 * epoch : 5 * epoch + 5] for n in _numbers(b)]
            assert len({*numbers}) == 20 and {*numbers} < {*range(23)}
            orders[seed, epoch] = tuple(numbers)
    assert len({*orders.values()}) == 12
    assert {number for order in orders.values() for number in order} == {*range(23)}


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.sampled_from([2, 4, 6, 10]),
    first=st.integers(0, 30),
    seed=st.integers(-(2**40), 2**40),
    process_count=st.sampled_from([1, 2]),
)
def test_a_stream_from_any_step_equals_the_unbroken_one(
    records, batch_size, first, seed, process_count
):
    """Resumed anywhere, in the middle of an epoch or at its end, on one or two hosts, the batches
    that follow are the same, the hosts' rows put together.
    """
    options = {
        "records": records[0], "batch_size": batch_size, "image_size": 8,
        "training": True, "seed": seed,
    }  # fmt: skip
    unbroken = _take(ImageStream(**options).batches(), first + 3)[first:]
    shards = [
        _take(
            ImageStream(**options, process_index=i, process_count=process_count).batches(first), 3
        )
        for i in range(process_count)
    ]
    resumed = [stream.Batch(*map(np.concatenate, zip(*parts))) for parts in zip(*shards)]
    _assert_equal(resumed, unbroken)


@pytest.mark.parametrize(("batch_size", "process_count"), [(2, 1), (2, 2), (4, 2), (5, 1), (8, 2)])
def test_evaluation_takes_each_image_once_and_fills_up(records, batch_size, process_count):
    """Over all hosts each image has weight 1 once; all hosts have equally many equal batches."""
    shards = [
        list(
            ImageStream(
                records=records[1], batch_size=batch_size, image_size=8, training=False,
                process_index=i, process_count=process_count,
            ).batches()
        )
        for i in range(process_count)
    ]  # fmt: skip
    assert {len(shard) for shard in shards} == {-(-5 // batch_size)}
    assert {b.images.shape[0] for shard in shards for b in shard} == {batch_size // process_count}
    numbers = [n for batches in zip(*shards) for batch in batches for n in _numbers(batch)]
    assert numbers == [23, 24, 25, 26, 27]
    labels = [x for bs in zip(*shards) for b in bs for x in b.labels[b.weights > 0]]
    assert labels == [0, 0, 1, 1, 1]


def test_the_end_of_an_evaluation_can_be_asked_for(records):
    """After the last batch comes nothing, and `first` may lie in the middle."""
    evaluation = ImageStream(records=records[1], batch_size=2, image_size=8, training=False)
    assert [_numbers(batch) for batch in evaluation.batches(2)] == [[27]]
    assert list(evaluation.batches(3)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "at most 23"),
        ({"batch_size": 5, "process_count": 2}, "5 cannot be split evenly over 2"),
    ],
)
def test_impossible_batches(records, options, message):
    """A batch larger than the data, or one that hosts cannot share, is refused at the start."""
    with pytest.raises(UserError, match=message):
        ImageStream(records=records[0], image_size=8, training=True, **options)


def test_two_workers_and_the_device_see_what_no_worker_sees(tmp_path):
    """Two processes give the batches that none gives, through `prefetch` too, and live through
    signals for the group; a broken file ends both with the same sentence, and no process is left.
    """
    name = _write(tmp_path, {"train/a": 20, "train/b": 20, "test/a": 1, "test/b": 1})
    train, _ = stream.open_records(Config(name))
    options = {"records": train, "batch_size": 4, "image_size": 8, "training": True}
    expected = _take(ImageStream(**options).batches(), 8)
    broken = tmp_path / "train" / train.source.files[stream._order(40, 0, 0)[34]].decode()[6:]
    broken.write_bytes(broken.read_bytes()[:40])  # in the ninth batch

    sharding = NamedSharding(data_mesh(4, jax.devices()[:1]), PartitionSpec("data"))
    batches = stream.prefetch(ImageStream(**options, num_workers=2).batches(), sharding)
    taken = [next(batches) for _ in range(3)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    with pytest.raises(UserError, match=f"Cannot read {broken} as an image") as from_workers:
        for batch in itertools.islice(batches, 10):
            taken.append(batch)
    assert all(batch.images.sharding == sharding for batch in taken)
    _assert_equal(taken, expected[:7])  # one was on its way
    with pytest.raises(UserError) as from_none:
        list(itertools.islice(ImageStream(**options).batches(), 10))
    assert str(from_workers.value) == str(from_none.value)
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_told(records):
    """A worker that the system kills is a UserError that names what may have run short."""
    batches = ImageStream(
        records=records[0], batch_size=4, image_size=8, training=True, num_workers=1
    ).batches()
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="memory"):
        for _ in range(100):
            next(batches)


def test_prefetch_hands_on_every_batch_and_closes(records):
    """All batches come in order, fewer than wait ahead too; an early end closes the stream."""
    sharding = NamedSharding(data_mesh(5, jax.devices()[:1]), PartitionSpec("data"))
    evaluation = ImageStream(records=records[1], batch_size=5, image_size=8, training=False)
    _assert_equal(list(stream.prefetch(evaluation.batches(), sharding)), [*evaluation.batches()])
    training = ImageStream(records=records[0], batch_size=5, image_size=8, training=True).batches()
    ahead = stream.prefetch(training, sharding)
    next(ahead)
    ahead.close()
    with pytest.raises(StopIteration):
        next(training)


# decoding and crops


def _encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photograph():
    """scikit-learn's picture of a flower, 640 x 427."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


def _assert_close(a, b, tolerance=1.0):
    """Mean absolute difference, in levels of 0..255."""
    assert abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean() < tolerance


def test_evaluation_crop_is_resize_256_crop_224(photograph):
    """The central crop agrees with Pillow's own two steps, within a level in the mean."""
    width = round(photograph.width * 256 / photograph.height)
    left = round((width - 224) / 2)
    resized = photograph.resize((width, 256), Image.Resampling.BILINEAR)
    expected = resized.crop((left, 16, left + 224, 240))
    got = stream.crop(_encoded(photograph), stream.central_box, 224)
    assert got.shape == (224, 224, 3)
    _assert_close(got, expected, 1.5)
    _assert_close(got[:, ::-1], got, 1000)
    with pytest.raises(AssertionError):  # the tolerance tells a shift of two pixels
        _assert_close(np.roll(got, 2, axis=1), expected, 1.5)


@pytest.mark.parametrize("size", [20, 50, 100, 224])
def test_a_jpeg_decoded_small_is_the_image_resized(photograph, size):
    """The quick decoding of JPEG gives nearly what decoding at full size and resizing gives."""
    encoded = _encoded(photograph, "jpeg", quality=95)
    box = (37, 21, 530, 402)
    expected = Image.open(io.BytesIO(encoded)).crop(box).resize((size, size), Image.BILINEAR)
    _assert_close(stream.crop(encoded, lambda width, height: box, size), expected, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_camera_s_rotation_is_applied_before_the_crop(photograph, orientation, kind):
    """However it was stored, the upright image is cropped (EXIF orientations 1 to 8)."""
    transpose = Image.Transpose
    upright = photograph.resize((160, 107))
    stored = {
        2: transpose.FLIP_LEFT_RIGHT, 3: transpose.ROTATE_180, 4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE, 6: transpose.ROTATE_90, 7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }  # fmt: skip
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "jpeg" else {}
    sizes = []

    def box(width, height):
        sizes.append((width, height))
        return 90, 10, 150, 70

    got = stream.crop(_encoded(image, kind, exif=exif, **options), box, 30)
    assert sizes == [(160, 107)]
    _assert_close(got, upright.crop((90, 10, 150, 70)).resize((30, 30), Image.BILINEAR), 3)


@pytest.mark.parametrize(
    ("mode", "kind", "value", "expected"),
    [
        ("L", "png", 77, (77, 77, 77)),
        ("I;16", "png", 50 * 257, (50, 50, 50)),
        ("RGBA", "png", (9, 9, 9, 0), (255, 255, 255)),
        ("CMYK", "jpeg", (255, 0, 0, 0), (0, 255, 255)),
        ("P", "gif", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, kind, value, expected):
    """Grey, 16 bits, transparency, CMYK and palettes become what a viewer shows, in RGB."""
    encoded = _encoded(Image.new(mode, (16, 16), value), kind)
    got = stream.crop(encoded, stream.central_box, 8)
    assert got.shape == (8, 8, 3) and got.dtype == np.uint8
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=2)


@given(
    st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32),
    st.sampled_from([(0.08, 1.0), (0.5, 0.6), (1.0, 1.0)]),
)  # fmt: skip
def test_random_boxes_lie_inside_with_the_aspect_asked_for(width, height, seed, scale):
    """Any box is inside the image and not empty; aspect and area are within rounding of the bounds,
    but for images so long that none fits.
    """
    left, top, right, bottom = stream.random_box(random.Random(seed), width, height, scale)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    assert (w - 0.5) / (h + 0.5) <= 4 / 3 and (w + 0.5) / (h - 0.5) >= 3 / 4
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w + 0.5) * (h + 0.5) >= scale[0] * width * height * 9 / 16


def test_random_boxes_are_distributed_as_torchvision_s():
    """Area uniform, aspect log-uniform, place uniform, where every box fits (4 sigma bounds)."""
    generator = random.Random(0)
    boxes = np.array(
        [stream.random_box(generator, 1000, 1000, (0.1, 0.5)) for _ in range(4000)], float
    )
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]

    def assert_uniform(values):  # on [0, 1]: mean 1/2, variance 1/12
        bound = 4 / np.sqrt(len(values))
        assert abs(values.mean() - 0.5) < bound * np.sqrt(1 / 12)
        assert abs(values.var() - 1 / 12) < bound * np.sqrt(1 / 180)

    assert_uniform((w * h / 1e6 - 0.1) / 0.4)
    assert_uniform(np.log(w / h) / np.log(4 / 3) / 2 + 0.5)
    assert_uniform((boxes[:, 0] + 0.5) / (1001 - w))
    assert_uniform((boxes[:, 1] + 0.5) / (1001 - h))


@pytest.mark.parametrize(
    ("size", "expected"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))]
)
def test_an_image_too_long_for_any_box_is_cropped_in_its_middle(size, expected):
    """After ten tries: the largest central box of the nearest aspect, as torchvision."""
    assert stream.random_box(random.Random(0), *size, (1.0, 1.0)) == expected


def test_crops_depend_on_seed_epoch_and_image_only(tmp_path, photograph):
    """An image gets another crop every epoch and for another seed, whatever its place in a batch;
    without `crop_scale` the central one.
    """
    for i in range(2):
        (tmp_path / "ab"[i]).mkdir()
        for k in range(3):
            photograph.resize((64, 48)).save(tmp_path / "ab"[i] / f"{k}.png")
    train, _ = stream.open_records(Config(f"folder:{tmp_path}", test_fraction=0.3))
    options = {"records": train, "image_size": 16, "training": True}
    epochs = [_take(ImageStream(**options, batch_size=4, seed=s).batches(), 2) for s in (0, 1)]
    crops = {image.tobytes() for seed in epochs for batch in seed for image in batch.images}
    assert len(crops) == 16
    smaller = _take(ImageStream(**options, batch_size=2, seed=0).batches(), 2)
    assert {x.tobytes() for b in smaller for x in b.images} == {
        x.tobytes() for x in epochs[0][0].images
    }
    central = next(ImageStream(**options, batch_size=4, crop_scale=None).batches())
    expected = stream.crop(_encoded(photograph.resize((64, 48))), stream.central_box, 16)
    np.testing.assert_array_equal(central.images, np.stack([expected] * 4))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about damaged EXIF
def test_damaged_files_give_an_image_or_their_name(tmp_path, photograph):
    """Flipped bytes and cut ends of a JPEG give some image or a UserError that names the file."""
    name = _write(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    intact = _encoded(photograph.resize((40, 30)), "jpeg", exif=exif)
    _, test = stream.open_records(Config(name))
    evaluation = ImageStream(records=test, batch_size=1, image_size=8, training=False)
    generator = np.random.default_rng(0)
    outcomes = []
    for trial in range(150):
        damaged = bytearray(intact)
        for position in generator.integers(0, min(len(intact), 400), 3):
            damaged[position] = generator.integers(256)
        (tmp_path / "test/a/000.png").write_bytes(damaged[: len(intact) - trial % 3 * 200])
        try:
            assert evaluation._batch(0).images.shape == (1, 8, 8, 3)
            outcomes.append("image")
        except UserError as error:
            assert str(tmp_path / "test/a/000.png") in str(error)
            outcomes.append("error")
    assert {*outcomes} == {"image", "error"}


# statistics


def test_pixel_statistics_are_those_of_the_crops(records):
    """All images where there are few: mean and deviation in float64; else evenly spread ones."""
    train, _ = records
    mean, std = stream.pixel_statistics(train, 8)
    red = np.arange(23) / 255
    np.testing.assert_allclose(mean, [red.mean(), 0, 200 / 255], rtol=1e-6)
    np.testing.assert_allclose(std, [red.std(), 1, 1], rtol=1e-6)
    mean, _ = stream.pixel_statistics(train, 8, num_images=3)
    np.testing.assert_allclose(mean[0], np.mean([0, 11, 22]) / 255, rtol=1e-6)


def test_a_class_that_the_test_lacks_is_logged(tmp_path, caplog):
    """val/ serves as the test; a class that is missing there is named once."""
    name = _write(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1})
    with caplog.at_level(logging.WARNING):
        _, test = stream.open_records(Config(name))
    assert test.labels.tolist() == [0]
    assert "1 of 2 classes have no image in" in caplog.text and "'b'" in caplog.text

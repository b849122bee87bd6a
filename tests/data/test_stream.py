"""Streams: each image when and where it belongs, the same from anywhere on."""

import itertools
import multiprocessing
import os
import signal

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import Config, encoded, numbered_folder
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from ddarts_jax.data import crops, stream
from ddarts_jax.data import records as encoded_records
from ddarts_jax.data.stream import ImageStream
from ddarts_jax.distributed.sharding import data_mesh
from ddarts_jax.errors import UserError


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


def test_no_file_is_opened_before_it_is_needed(tmp_path):
    """The checks at the start look at names only: unreadable content is no obstacle to them."""
    name = numbered_folder(tmp_path, {"a": 3, "b": 3})
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    train, _ = encoded_records.open_records(Config(name))
    with pytest.raises(UserError, match=r"Cannot read .*/[ab]/00\d\.png as an image"):
        next(ImageStream(records=train, batch_size=2, image_size=8, training=True).batches())


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
    name = numbered_folder(tmp_path, {"train/a": 20, "train/b": 20, "test/a": 1, "test/b": 1})
    train, _ = encoded_records.open_records(Config(name))
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


def test_crops_depend_on_seed_epoch_and_image_only(tmp_path, photograph):
    """An image gets another crop every epoch and for another seed, whatever its place in a batch;
    without `crop_scale` the central one.
    """
    for i in range(2):
        (tmp_path / "ab"[i]).mkdir()
        for k in range(3):
            photograph.resize((64, 48)).save(tmp_path / "ab"[i] / f"{k}.png")
    train, _ = encoded_records.open_records(Config(f"folder:{tmp_path}", test_fraction=0.3))
    options = {"records": train, "image_size": 16, "training": True}
    epochs = [_take(ImageStream(**options, batch_size=4, seed=s).batches(), 2) for s in (0, 1)]
    seen = {image.tobytes() for seed in epochs for batch in seed for image in batch.images}
    assert len(seen) == 16
    smaller = _take(ImageStream(**options, batch_size=2, seed=0).batches(), 2)
    assert {x.tobytes() for b in smaller for x in b.images} == {
        x.tobytes() for x in epochs[0][0].images
    }
    central = next(ImageStream(**options, batch_size=4, crop_scale=None).batches())
    expected = crops.crop(encoded(photograph.resize((64, 48))), crops.central_box, 16)
    np.testing.assert_array_equal(central.images, np.stack([expected] * 4))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about corrupt EXIF
def test_corrupt_files_give_an_image_or_their_name(tmp_path, photograph):
    """Flipped bytes and cut ends of a JPEG give some image or a UserError that names the file."""
    name = numbered_folder(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    intact = encoded(photograph.resize((40, 30)), "jpeg", exif=exif)
    _, test = encoded_records.open_records(Config(name))
    evaluation = ImageStream(records=test, batch_size=1, image_size=8, training=False)
    generator = np.random.default_rng(0)
    outcomes = []
    for trial in range(150):
        corrupt = bytearray(intact)
        for position in generator.integers(0, min(len(intact), 400), 3):
            corrupt[position] = generator.integers(256)
        (tmp_path / "test/a/000.png").write_bytes(corrupt[: len(intact) - trial % 3 * 200])
        try:
            assert evaluation._batch(0).images.shape == (1, 8, 8, 3)
            outcomes.append("image")
        except UserError as error:
            assert str(tmp_path / "test/a/000.png") in str(error)
            outcomes.append("error")
    assert {*outcomes} == {"image", "error"}


def test_pixel_statistics_are_those_of_the_crops(records):
    """All images where there are few: mean and deviation in float64; else evenly spread ones."""
    train, _ = records
    mean, std = stream.pixel_statistics(train, 8)
    red = np.arange(23) / 255
    np.testing.assert_allclose(mean, [red.mean(), 0, 200 / 255], rtol=1e-6)
    np.testing.assert_allclose(std, [red.std(), 1, 1], rtol=1e-6)
    mean, _ = stream.pixel_statistics(train, 8, num_images=3)
    np.testing.assert_allclose(mean[0], np.mean([0, 11, 22]) / 255, rtol=1e-6)

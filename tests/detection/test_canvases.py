"""Canvases: which there are, which an image goes to, and the order of the batches."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.detection import canvases
from ddarts_jax.errors import UserError

SIZES = st.lists(st.tuples(st.integers(20, 2000), st.integers(20, 2000)), min_size=1, max_size=60)
COCO = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((426, 640), (800, 1202)),
        ((200, 600), (444, 1333)),  # the longer side decides
        ((800, 1333), (800, 1333)),
        ((1, 5000), (1, 1333)),
    ],
)
def test_images_are_resized_as_in_mmdetection(size, expected):
    """Its numbers for 800/1333; an image is never without pixels."""
    assert canvases.resized(size, 800, 1333).tolist() == list(expected)


@given(sizes=SIZES, short_side=st.integers(32, 900), more=st.integers(0, 900))
def test_resized_sides_keep_to_the_limits_and_the_proportions(sizes, short_side, more):
    """Neither side exceeds its limit; one of them reaches it; each is the exact one up to rounding."""
    long_side = short_side + more
    found = canvases.resized(sizes, short_side, long_side)
    assert (found.min(1) <= short_side).all() and (found.max(1) <= long_side).all()
    assert ((found.min(1) == short_side) | (found.max(1) == long_side)).all()
    scale = found.max(1) / np.max(sizes, 1)
    error = np.abs(found - np.array(sizes) * scale[:, None])
    assert (error <= 0.5 * (1 + np.array(sizes).min(1) / np.max(sizes, 1))[:, None] + 0.5).all()


def test_default_canvases():
    """COCO's four as far as they are needed, Cityscapes' one, one for small images."""
    photographs = [(480, 640), (640, 480), (426, 640), (640, 360), (500, 500)]
    assert canvases.default_canvases(photographs, 800, 1333) == COCO
    assert canvases.default_canvases(photographs[:1], 800, 1333) == COCO[:1]
    assert canvases.default_canvases([(1024, 2048)] * 3, 1024, 2048) == ((1024, 2048),)
    assert canvases.default_canvases([(96, 96)], 0, 0) == ((96, 96),)
    assert canvases.default_canvases([(384, 400), (400, 384)], 0, 0) == ((416, 416),)
    assert canvases.default_canvases([(480, 640), (640, 480)], 240, 400) == ((320, 320),)


@given(sizes=SIZES)
def test_default_canvases_hold_every_image(sizes):
    """Whatever the proportions, dealing to them fails for no image, and each one is used."""
    chosen = canvases.default_canvases(sizes, 800, 1333)
    dealt = canvases.deal(np.arange(len(sizes)), canvases.resized(sizes, 800, 1333), chosen)
    assert sum(map(len, dealt.groups)) == len(sizes) and all(map(len, dealt.groups))


@given(sizes=SIZES, least=st.integers(1, 20))
def test_images_are_dealt_to_the_smallest_canvas_with_enough(sizes, least):
    """Each is on one canvas that holds it, no canvas has fewer than a batch, and an image is on a larger
    one, or nowhere, only because those that would do are empty.
    """
    images = 7 * np.arange(len(sizes))
    within = canvases.resized(sizes, 800, 1333)
    try:
        dealt = canvases.deal(images, within, COCO[::-1], least)
    except UserError as error:  # it names a number that would do
        enough = int(re.search(r"at most (\d+)", str(error))[1])
        assert enough < least and canvases.deal(images, within, COCO, enough)
        return
    assert dealt.canvases == COCO
    everywhere = np.concatenate(dealt.groups)
    assert len(set(everywhere)) == len(everywhere) and set(everywhere) <= set(images)
    for number, group in enumerate(dealt.groups):
        assert len(group) == 0 or len(group) >= least
        assert (within[group // 7] <= COCO[number]).all() and (np.diff(group) > 0).all()
    for image, size in zip(images, within):
        holding = [n for n, canvas in enumerate(COCO) if (size <= canvas).all()]
        on = [n for n in holding if image in dealt.groups[n]]
        before = holding[: holding.index(on[0])] if on else holding
        assert not any(len(dealt.groups[n]) for n in before)


def test_images_without_a_batch_are_told(caplog):
    """Few images go to the next canvas that holds them; where none does, a warning counts them."""
    within = np.array([(800, 1067)] * 3 + [(800, 1333)] * 5 + [(1333, 800)] * 2, np.int32)
    dealt = canvases.deal(np.arange(10), within, COCO, 4)
    assert [len(group) for group in dealt.groups] == [0, 0, 8, 0]
    (record,) = caplog.records
    assert record.getMessage().startswith("2 images are left out of training")


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ([(800, 1100)], "data.canvases has 800 x 1100: sides must be multiples of 32"),
        ([(800, 1088)], r"No canvas of 800 x 1088 holds every image .* up to 1067 x 800"),
    ],
)
def test_impossible_canvases(sides, message):
    """Sides that a pyramid cannot halve, and images that are larger."""
    within = np.array([(800, 1067), (1067, 800)], np.int32)
    with pytest.raises(UserError, match=message):
        canvases.deal(np.arange(2), within, sides)


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 8),
    seed=st.integers(-(2**40), 2**40),
)
def test_an_epoch_is_full_batches_of_one_canvas_each(counts, batch_size, seed):
    """Every epoch has as many, no image comes twice, and the result follows from its arguments."""
    ends = np.cumsum(counts)
    groups = tuple(np.arange(end - count, end) for end, count in zip(ends, counts))
    dealt = canvases.Deal(COCO[: len(counts)], groups)
    number = canvases.batches_per_epoch(dealt, batch_size)
    assert number == sum(count // batch_size for count in counts)
    for epoch in range(2):
        batches = canvases.epoch(dealt, batch_size, seed, epoch)
        assert len(batches) == number
        for canvas, images in batches:
            assert len(images) == batch_size and set(images) <= set(groups[canvas])
        images = [image for _, own in batches for image in own]
        assert len(set(images)) == len(images)
        again = canvases.epoch.__wrapped__(dealt, batch_size, seed, epoch)
        assert [own.tolist() for _, own in again] == [own.tolist() for _, own in batches]


def test_epochs_and_seeds_differ_in_order_and_in_what_is_left_out():
    """Batches of all canvases are mixed; all images come in the end."""
    dealt = canvases.Deal(COCO[:2], (np.arange(40), np.arange(40, 75)))
    epochs = {
        (seed, number): canvases.epoch(dealt, 8, seed, number)
        for seed in (0, 2**32)
        for number in (0, 1)
    }
    assert len({str(batches) for batches in epochs.values()}) == 4
    for batches in epochs.values():
        order = [canvas for canvas, _ in batches]
        assert order != sorted(order)
    seen = {image for batches in epochs.values() for _, own in batches for image in own.tolist()}
    assert seen == set(range(75))


def test_a_pass_takes_each_image_once():
    """Canvas by canvas in ascending order, the last batch of each filled with -1."""
    dealt = canvases.Deal(COCO[:3], (np.arange(3), np.arange(0), np.arange(3, 7)))
    batches = canvases.one_pass(dealt, 2)
    assert [(canvas, rows.tolist()) for canvas, rows in batches] == [
        (0, [0, 1]), (0, [2, -1]), (2, [3, 4]), (2, [5, 6]),
    ]  # fmt: skip


@given(
    st.tuples(*[st.integers(1, 3000)] * 2),
    st.sampled_from([(32, 32), (800, 1088), (1344, 800)]),
)
def test_an_image_is_made_smaller_until_the_canvas_holds_it(size, canvas):
    """One that fits stays; of another, both sides shrink alike and one of them fills the canvas."""
    found = canvases.fitted(size, canvas)
    assert found.dtype == np.int32 and (found >= 1).all() and (found <= canvas).all()
    if (np.array(size) <= canvas).all():
        assert found.tolist() == [*size]
    else:
        scale = min(np.array(canvas) / size)
        assert (abs(found - np.maximum(1, np.array(size) * scale)) <= 0.5 + 1e-6).all()
        assert (found == canvas).any()

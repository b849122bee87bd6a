"""Tests of a detector's training: it learns, traces once a canvas, resumes bit-equal, on any devices."""

import functools
import json
import os
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import gpu_program
import jax
import numpy as np
import pytest
import tiny
import tiny_detector

from ddarts_jax import configuration
from ddarts_jax.detection import datasets, evaluate, retinanet, rpn, training
from ddarts_jax.detection import detector as detectors
from ddarts_jax.distributed import sharding
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.training import loop, schedule, signals
from ddarts_jax.training.checkpoint import Checkpoints

_EPOCHS = 3
_FLOAT32 = np.dtype("float32")


class _Head(NamedTuple):
    """What a head needs and shows.

    Attributes:
        changes: of the tiny config.
        digits: the config that finds digits with it, and changes of that for few of them.
        module: whose loss reads all levels of the pyramid.
        stride: of the finest of them.
        of_objects: parts of the loss that are 0 without objects.
    """

    changes: dict
    digits: tuple[str, dict]
    module: ModuleType
    stride: int
    of_objects: set[str]


_HEADS = {
    "retinanet": _Head(
        changes={},
        digits=(
            "detect_digits.py",
            {
                "fpn.channels": 32,
                "head.convs": 1,
                "train.learning_rate": 0.02,
                "train.warmup_steps": 100,
            },
        ),
        module=retinanet,
        stride=8,
        of_objects={"boxes"},
    ),
    "mask_rcnn": _Head(
        changes=tiny_detector.TWO_STAGES,
        digits=(
            "detect_digits_masks.py",
            {"fpn.channels": 16, "train.learning_rate": 0.04, "train.warmup_steps": 20},
        ),
        module=rpn,
        stride=4,
        of_objects={"proposals", "boxes", "masks"},
    ),
}


def parts(directory, head, **changes):
    """Everything that a training of 3 epochs of 4 steps on two canvases is made of."""
    changes = _HEADS[head].changes | {"train__epochs": _EPOCHS, "data__max_objects": 1} | changes
    data = tiny_detector.write_data(directory, 16, 5)
    config = tiny_detector.config(directory, data, **changes)
    return made_of(config, *datasets.load(config.data, datasets.with_masks(config)))


def made_of(config, train, test):
    """Everything that the training of a config is made of."""
    source = detectors.find_source(config.backbone)
    pixels = datasets.pixels_of(config.data, train, source.data)
    stream = datasets.training_stream(config, train, pixels)
    key = jax.random.key(0)
    detector, variables = detectors.build(config, source, train.num_classes, pixels.channels, key)
    batch = config.train.batch_images
    plan = schedule.schedule(stream.batches_per_epoch * batch, batch, config.train.epochs, 1)
    init, step = training.make_step(detector, config.train, plan, variables.weights)
    return SimpleNamespace(
        config=config,
        test=datasets.test_stream(config, test, pixels),
        pixels=pixels,
        stream=stream,
        detector=detector,
        variables=variables,
        plan=plan,
        # Copies: the state is donated.
        start=lambda: init(jax.tree.map(np.array, variables)),
        step=step,
    )


def feed_of(own, devices=1):
    mesh = sharding.data_mesh(own.plan.batch_size, jax.devices()[:devices])
    return training.Feed(own.stream, own.step, own.plan, own.pixels, _FLOAT32, mesh, 0)


class _Programs:
    """Stands in for `lower`: each program is compiled once, for all feeds of one step."""

    def __init__(self, lower):
        self._lower, self.compiled = lower, {}

    def __call__(self, function, running, images, truth, seed):
        def compiled():
            if images.shape not in self.compiled:
                lowered = self._lower(function, running, images, truth, seed)
                self.compiled[images.shape] = lowered.compile()
            return self.compiled[images.shape]

        return SimpleNamespace(compile=compiled)


@pytest.fixture(scope="module", params=_HEADS)
def own(request, tmp_path_factory):
    """The parts of a training, its programs, and how often its loss has been traced."""
    own = parts(tmp_path_factory.mktemp("training"), request.param)
    own.head = _HEADS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        own.programs = _Programs(training.lower)
        patch.setattr(training, "lower", own.programs)
        own.traces, loss = [], own.head.module.loss

        def counted(net, outputs, *arguments):
            own.traces.append(outputs[0].size)
            return loss(net, outputs, *arguments)

        patch.setattr(own.head.module, "loss", counted)
        yield own


def trained(own, workdir, kill_after=None):
    """Runs the whole training in a workdir; gets SIGTERM when a step's checkpoint has been saved."""

    class Killing(Checkpoints):
        def save(self, step, *arguments, **named):
            super().save(step, *arguments, **named)
            if step == kill_after:
                os.kill(os.getpid(), signal.SIGTERM)

    feed, writer = feed_of(own), MetricsWriter(workdir)
    try:
        with Killing(workdir / "checkpoints", {}, keep_last=2) as checkpoints:
            state = loop.run(
                *("detect", feed.start(own.start()), feed.compile, 1, own.plan),
                *(checkpoints, writer, 0.0, lambda epoch, state, means: means),
            )
    finally:
        feed.close()
        writer.close()
    return jax.device_get(state)


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


@pytest.fixture(scope="module")
def unbroken(own, tmp_path_factory):
    """An unbroken training: its final state and its metrics."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return trained(own, workdir), lines(workdir)


def assert_same(state, other):
    for leaf, same in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, same)


def test_one_trace_a_canvas(own, unbroken):
    """Of 3 epochs on two canvases, and the shapes of the metrics take none of their own."""
    assert own.stream.shapes == ((32, 64, 3), (64, 64, 3)) and own.plan.epoch == 4
    low, high = 32 // own.head.stride, 64 // own.head.stride
    assert sorted(own.traces) == [(low, high), (high, high)]
    assert sorted(own.programs.compiled) == [(4, 32, 64, 3), (4, 64, 64, 3)]


def test_the_metrics_of_an_epoch(own, unbroken):
    """All parts of the loss, their sum, and norms, of every epoch."""
    state, found = unbroken
    assert state.step == 12 and [row["epoch"] for row in found] == [1, 2, 3]
    for row in found:
        loss_parts = {name: row[name] for name in row if name.startswith("loss_")}
        assert loss_parts.keys() > {f"loss_{part}" for part in own.head.of_objects}
        assert row["loss"] == pytest.approx(sum(loss_parts.values()))
        assert row["gradient_norm"] > row["update_norm"] > 0


@pytest.mark.parametrize("step", [1, 4, 7, 10])
def test_a_stopped_training_ends_bit_equal(own, unbroken, tmp_path, step):
    """Within an epoch and at its end, before a batch on the same canvas or another."""
    with pytest.raises(signals.Stopped, match=f"SIGTERM in detect, saved at step {step}:"):
        trained(own, tmp_path, kill_after=step)
    assert_same(trained(own, tmp_path), unbroken[0])
    assert lines(tmp_path) == unbroken[1]


def test_the_next_canvas_of_the_stopped_trainings(own):
    """The steps above are followed by both kinds of batch."""
    batches = own.stream.batches(0)
    shapes = [next(batches).images.shape[1:3] for _ in range(12)]
    batches.close()
    changes = {shapes[step - 1] != shapes[step] for step in (1, 4, 7, 10)}
    assert changes == {True, False}, shapes


def test_batches_without_objects(own):
    """Images without any object among others, and alone: finite numbers, and no loss of boxes."""
    feed = feed_of(own)
    running = feed.start(own.start())
    feed.compile(running)
    batch = next(own.stream.batches(0))
    program = own.programs.compiled[batch.images.shape]
    for left in (1, 0):
        labels = batch.labels.copy()
        labels[left:] = -1
        boxes = np.where(labels[..., None] < 0, 0, batch.boxes)
        truth = training.GroundTruth(boxes, labels, batch.sizes, batch.masks)
        running = jax.tree.map(np.asarray, running)
        arguments = sharding.replicate(running, sharding.data_mesh(4, jax.devices()[:1]))
        after, finite = program(arguments, batch.images, truth, np.uint32(0))
        assert all(jax.tree.leaves(finite))
        found = jax.device_get(after.totals)
        found = {name.removeprefix("loss_"): value for name, value in found.items()}
        assert found["classification"] > 0 and found["gradient_norm"] > 0
        nothing = {name for name, value in found.items() if value == 0}
        assert nothing == (set() if left else own.head.of_objects)


def test_a_detector_learns_some_images_by_heart(own):
    """60 steps on the same batch: the loss falls below half, as a mean of five steps.

    For good only without proposals: once those are better, more of them count, and the loss of Mask R-CNN
    rises.
    """
    feed = feed_of(own)
    running = feed.start(own.start())
    feed.compile(running)
    batch = next(own.stream.batches(0))
    truth = training.GroundTruth(batch.boxes, batch.labels, batch.sizes, batch.masks)
    program = own.programs.compiled[batch.images.shape]
    losses, before = [], 0.0
    for step in range(60):
        running, _ = program(running, batch.images, truth, np.uint32(0))
        total = float(running.totals["loss"])  # of the steps of the epoch
        losses.append(total - (before if step % own.plan.epoch else 0.0))
        before = total
    assert np.convolve(losses, np.full(5, 0.2), "valid").min() < 0.5 * losses[0], losses
    if "proposals" not in own.head.of_objects:
        assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.slow
@pytest.mark.parametrize("head", _HEADS)
def test_eight_canvases_are_found_again(tmp_path, monkeypatch, head):
    """After 300 steps on them: AP50 at least 0.95, of masks too, and a loss of less than a tenth."""
    monkeypatch.setenv("XLA_FLAGS", "")  # a slow program would take longer than compiling
    code = f"import test_training; test_training.learn_eight({str(tmp_path)!r}, {head!r})"
    printed = tiny.last_line(tmp_path, code, 1, Path(__file__).parent, timeout=3000)
    found = json.loads(printed)
    assert found["ap50"].keys() == ({"bbox", "segm"} if head == "mask_rcnn" else {"bbox"})
    assert all(ap50 >= 0.95 for ap50 in found["ap50"].values()), printed
    assert len(found["losses"]) == 300
    assert np.mean(found["losses"][-5:]) < 0.1 * found["losses"][0], printed


def learn_eight(directory, head):
    """Prints the losses of 300 steps on eight canvases of digits, and what is found in these then."""
    name, changes = _HEADS[head].digits
    config = configuration.load(tiny.ROOT / "configs" / name)
    changes = changes | {
        "backbone.genotype": tiny_detector.values(Path(directory))["backbone.genotype"],
        "backbone.levels": (0, 1, 2),
        "backbone.channels": 8,
        "train.epochs": 300,  # of one step
        "train.batch_images": 8,
        "train.decay_epochs": (240,),
    }
    config.update_from_flattened_dict(changes)
    train, _ = datasets.load(config.data, datasets.with_masks(config))
    own = made_of(config, *[train.select(np.arange(8))] * 2)
    feed = feed_of(own)
    running = feed.start(own.start())
    program = feed.compile(running)
    losses = []
    for step in range(own.plan.total):
        running, _ = program.advance(running, step)
        losses.append(float(running.totals["loss"]))
    feed.close()
    variables = running.state.variables
    tested = evaluate.evaluate_stream(own.detector, variables, own.test, own.pixels, _FLOAT32)
    ap50 = {kind: each.numbers["AP50"] for kind, each in tested.evaluations.items()}
    ap = {kind: each.numbers["AP"] for kind, each in tested.evaluations.items()}
    print(json.dumps({"ap50": ap50, "ap": ap, "losses": losses}))


@pytest.mark.parametrize("head", ["retinanet", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_four_devices_give_the_result_of_one(tmp_path, head):
    """Losses of 20 steps to rounding, and the same detections."""
    code = f"import test_training; test_training.compare_devices({str(tmp_path)!r}, {head!r})"
    found = json.loads(tiny.last_line(tmp_path, code, 4, Path(__file__).parent))
    assert found["devices"] == [1, 4]
    np.testing.assert_allclose(*found["losses"], rtol=1e-5)
    one, four = found["detections"]
    assert len(one) == len(four) > 5
    for a, b in zip(one, four):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.02)
        assert abs(a["score"] - b["score"]) < 2e-5


def compare_devices(directory, head):
    """Prints losses and detections on one device and on four."""
    # Small steps: training enlarges differences of rounding, those of large steps beyond the bar.
    changes = {"data__canvases": ((64, 64),), "train__learning_rate": 0.0003}
    if head == "mask_rcnn":
        # Rounding decides the order of proposals that are equally good, and so which of them are drawn:
        # here all of them are, and steps are so small that the same ones are proposed.
        changes |= {"train__learning_rate": 0.00003, "roi__samples": 128}
    own = parts(Path(directory), head, **changes)
    result = {"devices": [], "losses": [], "detections": []}
    for count in (1, 4):
        feed = feed_of(own, count)
        running = feed.start(own.start())
        program = feed.compile(running)
        losses = []
        for step in range(20):
            before = running.state.step % own.plan.epoch
            total = float(running.totals["loss"]) if before else 0.0
            running, _ = program.advance(running, step)
            losses.append(float(running.totals["loss"]) - total)
        feed.close()
        if count == 1:  # the same detector for both
            variables = jax.device_get(running.state.variables)
        devices = jax.devices()[:count]
        sharding.jax.devices = lambda devices=devices: devices
        tested = evaluate.evaluate_stream(own.detector, variables, own.test, own.pixels, _FLOAT32)
        sharding.jax.devices = jax.local_devices
        result["devices"].append(len(running.state.step.sharding.device_set))
        result["losses"].append(losses)
        result["detections"].append(tested.results)
    print(json.dumps(result))


_REASON = gpu_program.unavailable()


@pytest.mark.skipif(bool(_REASON), reason=_REASON)
@pytest.mark.parametrize(
    "what, head",
    [
        *[("training", head) for head in _HEADS],
        ("detection", "retinanet"),
        # In test_gpu but for the masks.
        pytest.param("detection", "mask_rcnn", marks=pytest.mark.slow),
    ],
)
def test_the_programs_compile_for_two_gpus(tmp_path, what, head):
    """The whole step from bytes to new weights, and from bytes to what is found, in bfloat16."""
    own = parts(tmp_path, head)
    mesh = gpu_program.mesh(4, 2)
    feed = training.Feed(own.stream, own.step, own.plan, own.pixels, "bfloat16", mesh, 0)
    images, truth = feed._shapes((64, 64, 3))
    whole = functools.partial(gpu_program.described, placement=sharding.replicated(mesh))
    if what == "training":
        local = training.Feed(
            *(own.stream, own.step, own.plan, own.pixels, "bfloat16"),
            sharding.data_mesh(4, jax.devices()[:1]),
            0,
        )
        running = whole(local.start(own.start()))
        program = gpu_program.Program(feed._one_step, (running, images, truth, np.uint32(0)))
    else:
        moments = np.zeros(3, np.float32), np.ones(3, np.float32)
        program = gpu_program.Program(
            evaluate._detect,
            (whole(own.variables), images, truth.sizes, *whole(moments)),
            {"detector": own.detector, "dtype": "bfloat16", "mesh": mesh},
        )
    text = program.compile().as_text()
    found = gpu_program.describe(text)
    assert found["kernels"] > 0 and "f64[" not in text
    # Only suppression has rounds of any number; the training of RetinaNet has none.
    suppresses = what == "detection" or head == "mask_rcnn"
    assert ("bf16[" in text) and bool(found["unknown_loops"]) == suppresses
    kinds = {kind for _, kind in gpu_program.collectives(text)}
    assert "bf16" not in kinds, kinds

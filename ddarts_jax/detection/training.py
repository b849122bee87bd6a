"""The training of a detector: its step, and the feed of batches on canvases."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ddarts_jax.data.stream import prefetch
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection.canvas_stream import CanvasStream
from ddarts_jax.detection.datasets import Pixels
from ddarts_jax.detection.detector import Detector
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.detection.outlines import CROP
from ddarts_jax.distributed import sharding
from ddarts_jax.models.layers import Variables
from ddarts_jax.training import feeds, optim
from ddarts_jax.training.compilation import lower
from ddarts_jax.training.schedule import Schedule


class DetectorState(NamedTuple):
    """The whole state of a training.

    Attributes:
        step: int32 scalar, steps done.
        variables: weights and statistics.
        optimizer: SGD's state.
    """

    step: jax.Array
    variables: Variables
    optimizer: optax.OptState


def make_step(detector: Detector, settings, plan: Schedule, weights):
    """Builds the training step.

    Args:
        detector: structure.
        settings: section `train` of the config.
        plan: steps of an epoch.
        weights: of the detector, for their structure.

    Returns:
        `init(variables) -> DetectorState` and `step(state, key, images, truth) -> (state, metrics)`,
        where the key is for what the head draws, images are [B, H, W, C] from `detector.prepared`, truth
        is a `GroundTruth`, and metrics scalars.
    """
    schedule = optim.in_tenths(
        settings.learning_rate,
        [epoch * plan.epoch for epoch in settings.decay_epochs],
        settings.warmup_steps,
    )
    learning = detectors.learning(detector, weights)
    optimizer = optim.sgd(schedule, settings, mask=learning)

    def init(variables):
        return DetectorState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables.weights))

    def loss_of(weights, statistics, images, truth, key):
        variables = Variables(weights, statistics)
        parts, statistics = detectors.losses(detector, variables, images, truth, key)
        return sum(parts.values()), (parts, statistics)

    def step(state: DetectorState, key, images, truth):
        weights, statistics = state.variables
        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (parts, statistics)), gradient = differentiate(
            *(weights, statistics, images, truth, key)
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, weights)
        variables = Variables(optax.apply_updates(weights, updates), statistics)
        measured = {
            "loss": loss,
            **{f"loss_{name}": part for name, part in parts.items()},
            "gradient_norm": optax.global_norm(gradient),
            "update_norm": optax.global_norm(updates),
        }
        return DetectorState(state.step + 1, variables, optimizer_state), measured

    return init, jax.jit(step)


class Feed:
    """Batches on canvases from a stream, with a compiled program for each canvas."""

    def __init__(
        self,
        stream: CanvasStream,
        step: Callable,
        plan: Schedule,
        pixels: Pixels,
        dtype,
        mesh: Mesh,
        seed: int,
    ):
        """Prepares; worker processes start with the first batch.

        Args:
            stream: of training.
            step: from `make_step`.
            plan: the schedule.
            pixels: how images reach the detector.
            dtype: compute dtype.
            mesh: devices over which batches are split.
            seed: of all that the head draws. It is an argument of the program, which other seeds share.
        """
        self._stream, self._step, self._plan = stream, step, plan
        self._dtype, self._mesh = dtype, mesh
        self._seed = np.uint32(seed)
        self._open = None

        def one_step(running: feeds.Running, images, truth: GroundTruth, seed):
            images, truth = sharding.split_batch((images, truth), mesh)
            images = detectors.prepared(images, truth.sizes, pixels.mean, pixels.std, dtype)
            state, totals = running
            position = state.step % plan.epoch
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            with sharding.over(mesh):
                state, measured = step(state, key, images, truth)
            return feeds.account(state, totals, measured, position)

        self._one_step = jax.jit(
            one_step, donate_argnums=0, out_shardings=sharding.replicated(mesh)
        )

    def start(self, state: DetectorState) -> feeds.Running:
        """Puts a fresh state on the mesh, with empty totals of the step's metrics."""
        images, truth = self._shapes(self._stream.shapes[0])
        # All on the mesh, as in the program, so that JAX reuses the trace of the jitted step there.
        images = images.update(dtype=self._dtype)
        state, key = sharding.replicate((state, jax.random.key(0)), self._mesh)
        with sharding.over(self._mesh):
            _, measured = jax.eval_shape(self._step, state, key, images, truth)
        return feeds.begun(state, measured, self._mesh)

    def compile(self, running: feeds.Running) -> feeds.Program:
        """Compiles the step for every canvas; the program that is told about is that of the largest."""
        programs = {
            shape: lower(self._one_step, running, *self._shapes(shape), self._seed).compile()
            for shape in self._stream.shapes
        }

        def advance(running, step):
            if self._open is None:  # the step at which to begin is only known now
                split = sharding.batch_sharding(self._mesh)
                self._open = prefetch(self._stream.batches(step), split)
            return feeds.repeated(one_more, running, self._plan.chunk)

        def one_more(running):
            batch = next(self._open)
            truth = GroundTruth(batch.boxes, batch.labels, batch.sizes, batch.masks)
            return programs[batch.images.shape[1:]](running, batch.images, truth, self._seed)

        return feeds.Program(advance, programs[self._stream.shapes[-1]])

    def _shapes(self, canvas: tuple[int, int, int]):
        """The shapes of a batch on a canvas [H, W, C]: images, and a `GroundTruth`."""
        split = sharding.batch_sharding(self._mesh)
        count, objects = self._plan.batch_size, self._stream.num_objects

        def shaped(dtype, *shape):
            return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=split)

        truth = GroundTruth(
            shaped(jnp.float32, objects, 4),
            shaped(jnp.int32, objects),
            shaped(jnp.int32, 2),
            shaped(jnp.uint8, objects, CROP, CROP) if self._stream.masks else None,
        )
        return shaped(jnp.uint8, *canvas), truth

    def close(self) -> None:
        """Ends the processes that decode."""
        if self._open is not None:
            self._open.close()

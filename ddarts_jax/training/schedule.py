"""The schedule of a phase: its number of steps, and their division into epochs and chunks."""

import math
from typing import NamedTuple

from ddarts_jax.errors import UserError


class Schedule(NamedTuple):
    """The numbers of epochs, chunks and steps.

    Attributes:
        epochs: passes over the data.
        chunks: chunks in an epoch.
        chunk: steps in a chunk.
        batch_size: images in each batch of a step.
    """

    epochs: int
    chunks: int
    chunk: int
    batch_size: int

    @property
    def epoch(self) -> int:
        """Steps in an epoch."""
        return self.chunks * self.chunk

    @property
    def total(self) -> int:
        """Total number of steps."""
        return self.epochs * self.epoch


def schedule(num_images: int, batch_size: int, epochs: int, chunk_steps: int) -> Schedule:
    """Divides an epoch into chunks of equal length, so that one compiled program serves them all.

    Images that do not fill a batch, and steps that do not fill a chunk (fewer than there are chunks),
    are dropped; a different set in each epoch.

    Args:
        num_images: number of images of the smallest split.
        batch_size: images per step.
        epochs: passes over the data.
        chunk_steps: maximum number of steps in a chunk.

    Raises:
        UserError: the images do not fill one batch.
    """
    steps = num_images // batch_size
    if not steps:
        raise UserError(
            f"data.batch_size={batch_size} is larger than the {num_images} images that a step "
            f"draws from: use at most {num_images}."
        )
    chunks = math.ceil(steps / chunk_steps)
    return Schedule(epochs, chunks, steps // chunks, batch_size)

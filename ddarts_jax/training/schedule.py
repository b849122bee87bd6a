"""How many steps a phase has, and how they are divided into epochs and chunks."""

import math
from typing import NamedTuple

from ddarts_jax.errors import UserError


class Schedule(NamedTuple):
    """How many steps there are.

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
        """Steps in all."""
        return self.epochs * self.epoch


def schedule(num_images: int, batch_size: int, epochs: int, chunk_steps: int) -> Schedule:
    """Divides an epoch into chunks of one length, so that one compiled program serves them all.

    Images that fill no batch, and steps that fill no chunk (fewer than there are chunks), are left
    out; they are others in every epoch.

    Args:
        num_images: of the smallest split.
        batch_size: images a step.
        epochs: passes over the data.
        chunk_steps: most steps in a chunk.

    Raises:
        UserError: the images do not fill one batch.
    """
    steps = num_images // batch_size
    if not steps:
        raise UserError(
            f"data.batch_size={batch_size} is larger than the {num_images} images that a step "
            f"draws from: use at most {num_images}"
        )
    chunks = math.ceil(steps / chunk_steps)
    return Schedule(epochs, chunks, steps // chunks, batch_size)

"""Task 'import': converts the authors' genotype text and PyTorch weights.

The text is parsed, never evaluated, and checkpoints are read without running pickled code.
"""

from ddarts_jax.tasks.importing.checkpoints import read_tensors
from ddarts_jax.tasks.importing.conversion import Imported, load_torch
from ddarts_jax.tasks.importing.task import run

__all__ = ["Imported", "load_torch", "read_tensors", "run"]

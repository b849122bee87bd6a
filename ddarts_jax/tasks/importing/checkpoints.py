"""Files of tensors: PyTorch checkpoints and `.npz`, read without running pickled code."""

import os
import pickle
from pathlib import Path

import numpy as np

from ddarts_jax.errors import UserError


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict, by name.

    Args:
        path: an `.npz`, in which, if any name has the prefix `state/`, only those names count; or a
            PyTorch checkpoint, for which torch must be installed: a state dict, or a dict that
            contains one under `state_dict`. The prefix `module.` of DataParallel is removed.

    Raises:
        UserError: the file is missing, corrupt or of another kind, or torch is missing.
    """
    path = Path(path)
    # A device or a pipe would block the read for ever.
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path} does not exist or is not a regular file")
    try:
        tensors = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    except ImportError as error:
        raise UserError(
            f"checkpoint {path} needs PyTorch to be read: pip install 'ddarts_jax[torch]', or save its "
            f"state dict elsewhere as an .npz of the same names"
        ) from error
    except Exception as error:  # corrupt files raise one of many
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"checkpoint {path} cannot be read as a state dict, saved by torch.save or as an .npz of "
            f"its arrays: {reason:.200}"
        ) from error
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        state = [name for name in file.files if name.startswith("state/")]
        return {name.removeprefix("state/"): file[name] for name in state or file.files}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:  # without weights_only a checkpoint could run any code
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own message says how to run such code
        raise ValueError(
            "it is corrupt, or contains more than tensors and plain values (save its state_dict alone)"
        ) from error
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise ValueError("it contains neither a dict of tensors nor one under 'state_dict'")
    # NumPy has no bfloat16.
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
        for name, tensor in loaded.items()
    }

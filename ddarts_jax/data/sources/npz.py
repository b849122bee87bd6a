"""`npz:PATH`: a file of the arrays that `Dataset.from_arrays` takes.

These are `images` and `labels`, and optionally `test_images`, `test_labels` and `class_names`. Files of
MedMNIST (`train_images`, ...) and of Keras (`x_train`, ...) are read too.
"""

import logging
import os
import zipfile
from typing import Any

import numpy as np

from ddarts_jax.data import arrays, decoding
from ddarts_jax.data.sources.source import Loaded, Split, check_memory
from ddarts_jax.errors import UserError

_logger = logging.getLogger(__name__)

# What images and labels of a split are called; of the pairs that are whole the first one counts, so that
# of a validation and a test split with labels the latter is the test split.
_PAIRS = {
    "": (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")),
    "test_": (
        *(("test_images", "test_labels"), ("x_test", "y_test")),
        *(("val_images", "val_labels"), ("x_val", "y_val")),
    ),
}


def load(data: Any) -> Loaded:
    """Reads and checks the arrays.

    Raises:
        UserError: for a file that cannot be read, has no images and labels, or needs more memory than
            there is; as `arrays.check`.
    """
    path = data.name.partition(":")[2]
    try:
        with open(os.path.expanduser(path), "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not named arrays")
            chosen = _chosen(archive.files, data.name)
            _check_size(archive.zip, chosen, data.name)
            given = {key: archive[name] for key, name in chosen.items()}
    except UserError:
        raise
    except Exception as error:  # A corrupt archive makes zipfile and NumPy raise nearly anything.
        raise UserError(
            f"Cannot read {path!r} as an npz file: {decoding.reason(error)}."
        ) from error
    train, test, class_names, _ = arrays.check(given, data.name)

    def resized(split: Split) -> Split:
        return Split(decoding.resize(split.images, data.image_size), split.labels)

    return Loaded(resized(train), resized(test) if test else None, class_names)


def _chosen(there: list[str], name: str) -> dict[str, str]:
    """Returns {our name of an array: its name in the file}.

    Images and labels of a split are always those of one pair: those of two would belong to different
    images. Of a test split that is nowhere whole there is the half, which is then refused.
    """
    found = {"class_names": "class_names"}
    for prefix, pairs in _PAIRS.items():
        pair = max(pairs, key=lambda names: sum(name in there for name in names))
        found |= {f"{prefix}images": pair[0], f"{prefix}labels": pair[1]}
    found = {key: known for key, known in found.items() if known in there}
    if not {"images", "labels"} <= set(found):
        raise UserError(
            f"There are no images and labels in {name!r}: its arrays are "
            f"{', '.join(there[:10]) or 'none'}, but they must be named 'images' and 'labels' (or "
            "train_images and train_labels, or x_train and y_train)."
        )
    unused = sorted(set(there) - set(found.values()))
    if unused:
        _logger.info("Arrays of %s that are not used: %s.", name, ", ".join(unused))
    return found


def _check_size(archive: zipfile.ZipFile, chosen: dict[str, str], name: str) -> None:
    """Refuses arrays that are larger than the memory."""
    needed = sum(archive.getinfo(f"{known}.npy").file_size for known in chosen.values())
    check_memory(needed, name, "store fewer or smaller images, or a folder to read by data.stream")

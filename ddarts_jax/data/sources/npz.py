"""`npz:PATH`: a file of the arrays that `Dataset.from_arrays` takes.

These are `images` and `labels`, and optionally `test_images`, `test_labels` and `class_names`.
"""

import os
from typing import Any

import numpy as np

from ddarts_jax.data import arrays, decoding
from ddarts_jax.data.sources.source import Loaded, Split
from ddarts_jax.errors import UserError


def load(data: Any) -> Loaded:
    """Reads and checks the arrays.

    Raises:
        UserError: for a file that cannot be read; as `arrays.check`.
    """
    path = data.name.partition(":")[2]
    try:
        with open(os.path.expanduser(path), "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not named arrays")
            given = {key: archive[key] for key in arrays.KEYS if key in archive.files}
    except Exception as error:  # A corrupt archive makes zipfile and NumPy raise nearly anything.
        raise UserError(
            f"Cannot read {path!r} as an npz file: {decoding.reason(error)}."
        ) from error
    train, test, class_names = arrays.check(given, data.name)

    def resized(split: Split) -> Split:
        return Split(decoding.resize(split.images, data.image_size), split.labels)

    return Loaded(resized(train), resized(test) if test else None, class_names)

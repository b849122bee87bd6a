"""Hashes of single images, by which a run recognises the images that it was trained on."""

import hashlib
from collections.abc import Iterable

import numpy as np


def of_pixels(images: np.ndarray) -> np.ndarray:
    """Returns a hash of each image's pixels.

    Args:
        images: uint8 [n, H, W, C].

    Returns:
        uint64 [n]; of two different images the same only by a chance of 1 in 2^64.
    """
    return _of(np.ascontiguousarray(image).data for image in images)


def of_names(names: Iterable[bytes]) -> np.ndarray:
    """Returns a hash of each name, uint64 [n]: for images that are too many to be read at once."""
    return _of(names)


def _of(contents: Iterable) -> np.ndarray:
    digests = [hashlib.blake2b(content, digest_size=8).digest() for content in contents]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)

"""`digits`: scikit-learn's 1,797 handwritten digits, 8x8, grey; they come with the package."""

from typing import Any

from ddarts_jax.data import decoding
from ddarts_jax.data.sources.source import Loaded, Split


def load(data: Any) -> Loaded:
    """Loads the digits, all as training images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = decoding.to_uint8(digits.images, 16)[..., None]
    return Loaded(
        Split(decoding.resize(images, data.image_size), digits.target),
        None,
        tuple(str(name) for name in digits.target_names),
    )

"""AutoAugment (Cubuk et al., 2019) of image batches on the device, inside jit.

Every image draws a sub-policy: two operations, each with its probability and magnitude. All
operations have one form, so that images with different ones share a program:

1. a nearest-neighbour affine resampling (shear, translate, rotate),
2. a table of 256 grey values per channel (invert, solarize, posterize, autocontrast, equalize),
3. a blend with a degenerate image (brightness, contrast, colour, sharpness),

two of which are the identity. Everything but the statistics of the image (its histogram, its mean)
is known before the program runs, and computed in NumPy.

Each operation is Pillow's. Steps 1 and 2 and the degenerate images are integer arithmetic and
equal on all devices; the blend is a float32, truncated, so that rounding can change it by 1 where
it is nearly whole.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddarts_jax.errors import UserError

# Sub-policies of the article's appendix: two operations (name, probability, magnitude index).
POLICIES = {
    "cifar10": (
        (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
        (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
        (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
        (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
    ),
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
        (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
        (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
        (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
        (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
        (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
        (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    ),
}

# What a magnitude index 0..9 means: the article's ranges in ten equal steps. Slope, share of the
# side (150 of its 331 pixels), degrees, bits kept, threshold, share of the image in the blend.
# Operations that are missing here have no magnitude.
MAGNITUDES = {
    "ShearX": np.linspace(0, 0.3, 10),
    "ShearY": np.linspace(0, 0.3, 10),
    "TranslateX": np.linspace(0, 150 / 331, 10),
    "TranslateY": np.linspace(0, 150 / 331, 10),
    "Rotate": np.linspace(0, 30, 10),
    "Posterize": np.linspace(8, 4, 10).round(),
    "Solarize": np.linspace(256, 0, 10),
    "Brightness": np.linspace(0.1, 1.9, 10),
    "Contrast": np.linspace(0.1, 1.9, 10),
    "Color": np.linspace(0.1, 1.9, 10),
    "Sharpness": np.linspace(0.1, 1.9, 10),
}
SIGNED = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})

_FILL = 128  # of pixels that come from outside the image
_TABLES = ("fixed", "AutoContrast", "Equalize")
_BLENDS = ("Brightness", "Contrast", "Color", "Sharpness")


class _Operation(NamedTuple):
    """What an operation does in each of the three steps.

    Attributes:
        affine: int32 [6], (a, b, c, d, e, f) in units of 2**-16: pixel (x, y) of the result is
            pixel (ax + by + c, dx + ey + f) of the image, rounded down.
        table: uint8 [256], the fixed table.
        table_kind: int32, index into `_TABLES`.
        blend_kind: int32, index into `_BLENDS`.
        factor: float32, weight of the image in the blend.
    """

    affine: np.ndarray
    table: np.ndarray
    table_kind: np.ndarray
    blend_kind: np.ndarray
    factor: np.ndarray


def autoaugment(key: jax.Array, images: jax.Array, policy: str) -> jax.Array:
    """Applies to each image a sub-policy of its own (Cubuk et al., 2019, section 3).

    Args:
        key: The only source of randomness.
        images: uint8 [B, H, W, 3], of at most 2**23 pixels each.
        policy: One of `POLICIES`.

    Returns:
        uint8 [B, H, W, 3].

    Raises:
        UserError: For another policy, or images that are not uint8 RGB.
    """
    size, height, width, _ = images.shape
    sub_policies, applied, negative = draw_sub_policies(key, size, policy)
    operations = [_operation("Identity", 0.0, height, width)]
    for sub_policy in POLICIES[policy]:
        for name, _, index in sub_policy:
            magnitude = MAGNITUDES[name][index] if name in MAGNITUDES else 0.0
            operations.append(_operation(name, magnitude, height, width))
            sign = -1 if name in SIGNED else 1
            operations.append(_operation(name, sign * magnitude, height, width))
    operations = [jnp.asarray(np.stack(field)) for field in zip(*operations)]
    for slot in range(2):
        drawn = 1 + (2 * sub_policies + slot) * 2 + negative[:, slot]
        drawn = jnp.where(applied[:, slot], drawn, 0)
        images = jax.vmap(_apply)(_Operation(*(field[drawn] for field in operations)), images)
    return images


def draw_sub_policies(
    key: jax.Array, size: int, policy: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws what `autoaugment` does to each image of a batch.

    Args:
        key: The only source of randomness.
        size: B, the number of images.
        policy: One of `POLICIES`.

    Returns:
        Index of the sub-policy, int32 [B], uniform; whether each of its two operations is applied,
        bool [B, 2]; whether the magnitude of each, where `SIGNED`, is negative, bool [B, 2].

    Raises:
        UserError: For another policy.
    """
    if policy not in POLICIES:
        raise UserError(f"unknown AutoAugment policy {policy!r}: use one of {sorted(POLICIES)}")
    sub_policies = POLICIES[policy]
    probabilities = np.array([[p for _, p, _ in one] for one in sub_policies], np.float32)
    keys = jax.random.split(key, 3)
    drawn = jax.random.randint(keys[0], (size,), 0, len(sub_policies), jnp.int32)
    applied = jax.random.bernoulli(keys[1], jnp.asarray(probabilities)[drawn])
    negative = jax.random.bernoulli(keys[2], jnp.float32(0.5), (size, 2))
    return drawn, applied, negative


def apply_operation(name: str, image: jax.Array, magnitude: float) -> jax.Array:
    """Applies one operation to one image, as Pillow does.

    Args:
        name: Name of the operation, as in `POLICIES`.
        image: uint8 [H, W, 3], of at most 2**23 pixels.
        magnitude: In the units of `MAGNITUDES`; may be negative if `SIGNED`; without effect for
            AutoContrast, Equalize and Invert.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: For an unknown name, or an image that is not uint8 RGB.
    """
    return _apply(_operation(name, magnitude, *image.shape[:2]), image)


def _operation(name: str, magnitude: float, height: int, width: int) -> _Operation:
    """The parameters of an operation on images of one size; "Identity" changes nothing."""
    matrix = (1, 0, 0, 0, 1, 0)
    grey = np.arange(256)
    table, table_kind, blend_kind, factor = grey, 0, 0, 1.0
    match name:
        case "Identity":
            pass
        case "ShearX":
            matrix = (1, magnitude, 0, 0, 1, 0)
        case "ShearY":
            matrix = (1, 0, 0, magnitude, 1, 0)
        case "TranslateX":
            matrix = (1, 0, magnitude * width, 0, 1, 0)
        case "TranslateY":
            matrix = (1, 0, 0, 0, 1, magnitude * height)
        case "Rotate":  # counter-clockwise about the centre
            cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
            x, y = width / 2, height / 2
            matrix = (cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos)
        case "Invert":
            table = 255 - grey
        case "Solarize":
            table = np.where(grey < magnitude, grey, 255 - grey)
        case "Posterize":
            table = grey & ~(2 ** (8 - int(magnitude)) - 1)
        case "AutoContrast" | "Equalize":
            table_kind = _TABLES.index(name)
        case "Brightness" | "Contrast" | "Color" | "Sharpness":
            blend_kind, factor = _BLENDS.index(name), magnitude
        case _:
            raise UserError(f"unknown AutoAugment operation {name!r}")
    a, b, c, d, e, f = matrix
    # From the centres of pixels to their corners; then 16.16 fixed point, rounded, as in Pillow.
    affine = np.array([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    return _Operation(
        np.floor(affine * 2**16 + 0.5).astype(np.int32),
        table.astype(np.uint8),
        np.int32(table_kind),
        np.int32(blend_kind),
        np.float32(factor),
    )


@jax.jit
def _apply(operation: _Operation, image: jax.Array) -> jax.Array:
    """Resamples, maps and blends uint8 [H, W, 3]."""
    if image.dtype != jnp.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"AutoAugment takes RGB images, uint8 [H, W, 3], not {image.dtype} {image.shape}: "
            "convert them, or switch it off"
        )
    image = _resample(operation.affine, image)
    image = _map_grey_values(operation.table_kind, operation.table, image)
    return _blend(operation.blend_kind, operation.factor, image)


def _resample(affine: jax.Array, image: jax.Array) -> jax.Array:
    """Takes the pixels of [H, W, 3] that the affine map points to, grey outside the image."""
    height, width, _ = image.shape
    a, b, c, d, e, f = affine
    x, y = jnp.arange(width, dtype=jnp.int32), jnp.arange(height, dtype=jnp.int32)[:, None]
    source_x = (a * x + b * y + c) >> 16
    source_y = (d * x + e * y + f) >> 16
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    taken = image.at[source_y, source_x].get(mode="clip")
    return jnp.where(inside[..., None], taken, jnp.uint8(_FILL))


def _map_grey_values(kind: jax.Array, fixed: jax.Array, image: jax.Array) -> jax.Array:
    """Replaces the grey values of each channel of uint8 [H, W, 3] by those of a table."""
    pixels = image.reshape(-1, 3).astype(jnp.int32)
    grey = jnp.arange(256, dtype=jnp.int32)[:, None]
    lowest, highest = pixels.min(0), pixels.max(0)

    # Truncated from the exact value; Pillow's float64 falls 1 short of some that are whole.
    spread = highest - lowest
    stretched = jnp.clip((grey - lowest) * 255 // jnp.maximum(spread, 1), 0, 255)
    stretched = jnp.where(spread > 0, stretched, grey)

    channels = jnp.arange(3, dtype=jnp.int32)
    histogram = jnp.zeros((256, 3), jnp.int32).at[pixels, channels].add(1)
    below = jnp.cumsum(histogram, axis=0, dtype=jnp.int32) - histogram
    # A step is the number of pixels per grey value; those of the highest value do not count.
    step = below[highest, channels] // 255
    equalized = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    equalized = jnp.where(step > 0, equalized, grey)

    fixed = jnp.broadcast_to(fixed[:, None].astype(jnp.int32), (256, 3))
    table = lax.select_n(kind, fixed, stretched, equalized).astype(jnp.uint8)
    return table[pixels, channels].reshape(image.shape)


def _blend(kind: jax.Array, factor: jax.Array, image: jax.Array) -> jax.Array:
    """Computes degenerate + factor (image - degenerate), truncated, of uint8 [H, W, 3]."""
    wide = image.astype(jnp.int32)
    red, green, blue = wide[..., 0], wide[..., 1], wide[..., 2]
    # ITU-R 601 luma and all means in integers, rounded: a float's last bit would show as a level.
    luma = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    total, count = luma.sum(dtype=jnp.int32), luma.size
    mean = total // count + (2 * (total % count) >= count)
    # A 3 x 3 mean whose centre has weight 5 of 13; border pixels stay.
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    inner = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = wide.at[1:-1, 1:-1].set((2 * inner + 13) // 26)
    degenerate = lax.select_n(
        kind,
        jnp.zeros_like(wide),
        jnp.broadcast_to(mean.astype(jnp.int32), wide.shape),
        jnp.broadcast_to(luma[..., None], wide.shape),
        smooth,
    )
    blended = degenerate.astype(jnp.float32) + factor * (wide - degenerate).astype(jnp.float32)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)

"""Augmentation of image batches on the device, inside jit: random crop, flip, cutout.

The order is that of DARTS: crop and flip act on the raw image (so a crop's border is black), then
it is normalised, then cutout erases to 0, the mean colour. Every image draws its own; a part that
is switched off draws nothing, and does not change the draws of the others.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def normalize(images: jax.Array, mean: ArrayLike, std: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Computes (images / 255 - mean) / std in float32.

    Args:
        images: uint8 [B, H, W, C].
        mean: [C], in units of [0, 1].
        std: [C], likewise, not 0.
        dtype: Of the result.

    Returns:
        dtype [B, H, W, C].
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return ((images.astype(jnp.float32) / 255 - mean) / std).astype(dtype)


def augment(
    key: jax.Array,
    images: jax.Array,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    crop_padding: int,
    flip: bool,
    cutout: int,
    dtype: DTypeLike,
) -> jax.Array:
    """Crops, flips, normalises and cuts out, as DARTS trains on CIFAR.

    Args:
        key: The only source of randomness.
        images: uint8 [B, H, W, C].
        mean: [C], in units of [0, 1].
        std: [C], likewise, not 0.
        crop_padding: Pixels of zeros around an image before its crop to H x W; 0: no crop.
        flip: Whether to mirror half of the images left to right.
        cutout: Pixels a side of the erased square; 0: none.
        dtype: Of the result.

    Returns:
        dtype [B, H, W, C].
    """
    if crop_padding:
        images = random_crop(jax.random.fold_in(key, 0), images, crop_padding)
    if flip:
        images = random_flip(jax.random.fold_in(key, 1), images)
    images = normalize(images, mean, std, dtype)
    if cutout:
        images = random_cutout(jax.random.fold_in(key, 2), images, cutout)
    return images


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads [B, H, W, C] with zeros on all sides and crops H x W at a uniformly random place."""
    size, shape = images.shape[0], images.shape[1:]
    # int32 here and below: the same draws whether or not 64 bits are enabled.
    offsets = jax.random.randint(key, (size, 2), 0, 2 * padding + 1, jnp.int32)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def window(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), shape)

    return jax.vmap(window)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image of [B, H, W, C] left to right with probability one half."""
    flipped = jax.random.bernoulli(key, jnp.float32(0.5), images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def random_cutout(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Sets a square of each image of [B, H, W, C] to 0 (DeVries and Taylor, 2017).

    Its centre is uniform over the image, so it may stick out over the border, where it is clipped.
    """
    size, height, width, _ = images.shape
    centres = jax.random.randint(key, (size, 2), 0, jnp.array([height, width]), jnp.int32)
    starts = centres - side // 2

    def erased(start: jax.Array, length: int) -> jax.Array:
        position = jnp.arange(length, dtype=jnp.int32)
        return (position >= start[:, None]) & (position < start[:, None] + side)

    mask = erased(starts[:, 0], height)[:, :, None] & erased(starts[:, 1], width)[:, None, :]
    return jnp.where(mask[..., None], 0, images)

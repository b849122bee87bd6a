"""Augmentation of image batches on the device, inside jit.

Random crop, flip and cutout, as `augment` composes them, are those of CIFAR; random resized crop
and colour jitter are ImageNet's.

The order of `augment` is that of DARTS and AutoAugment: crop and flip act on the raw image (so a
crop's border is black), then it is normalised, then cutout erases to 0, the mean colour. Every image
has its own draws; a part that is switched off draws nothing, and does not change the other draws.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ddarts_jax.data.autoaugment import autoaugment
from ddarts_jax.errors import UserError

_TRIES = 10  # boxes drawn for a random resized crop until one fits, as in torchvision


def normalize(images: jax.Array, mean: ArrayLike, std: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Computes (images / 255 - mean) / std in float32 or better.

    Args:
        images: [B, H, W, C], from 0 to 255, uint8 or floating.
        mean: [C], in units of [0, 1].
        std: [C], likewise, not 0.
        dtype: Dtype of the result.

    Returns:
        dtype [B, H, W, C].
    """
    wide = jnp.promote_types(jnp.float32, dtype)
    mean, std = jnp.asarray(mean, wide), jnp.asarray(std, wide)
    return ((images.astype(wide) / 255 - mean) / std).astype(dtype)


def augment(
    key: jax.Array,
    images: jax.Array,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    crop_padding: int,
    flip: bool,
    cutout: int,
    resized_crop: float = 0.0,
    auto_augment: str = "",
    color_jitter: float = 0.0,
    hue: float = 0.0,
    dtype: DTypeLike,
) -> jax.Array:
    """Crops, flips, normalises and cuts out, as DARTS trains on CIFAR; any part can be switched off.

    Args:
        key: The only source of randomness.
        images: uint8 [B, H, W, C].
        mean: [C], in units of [0, 1].
        std: [C], likewise, not 0.
        crop_padding: Pixels of zeros around an image before its crop to H x W; 0: no crop.
        flip: Whether to mirror half of the images left to right.
        cutout: Pixels per side of the erased square; 0: none.
        resized_crop: Smallest share of the area that `random_resized_crop` takes; 0: none.
        auto_augment: Policy of `autoaugment`, "cifar10" or "imagenet"; empty: none. Needs RGB.
        color_jitter: Brightness, contrast and saturation of `jitter_colors`; 0: none. Needs RGB or grey.
        hue: Hue of `jitter_colors`; 0: unchanged. Likewise.
        dtype: Dtype of the result.

    Returns:
        dtype [B, H, W, C].

    Raises:
        UserError: See `check_channels`.
    """
    parts = {"auto_augment": auto_augment, "color_jitter": color_jitter, "hue": hue}
    check_channels(images.shape[-1], parts)
    if resized_crop:
        side = images.shape[1]
        scale = (resized_crop, 1.0)
        images = random_resized_crop(jax.random.fold_in(key, 3), images, side, scale)
    if auto_augment:  # before the crop, whose black border would move with the image
        images = autoaugment(jax.random.fold_in(key, 4), images, auto_augment)
    if crop_padding:
        images = random_crop(jax.random.fold_in(key, 0), images, crop_padding)
    if flip:
        images = random_flip(jax.random.fold_in(key, 1), images)
    if color_jitter or hue:
        strengths = (color_jitter, color_jitter, color_jitter, hue)
        jittered = jitter_colors(jax.random.fold_in(key, 5), images / jnp.float32(255), *strengths)
        images = 255 * jittered
    images = normalize(images, mean, std, dtype)
    if cutout:
        images = random_cutout(jax.random.fold_in(key, 2), images, cutout)
    return images


def check_channels(channels: int, parts: Mapping[str, Any]) -> None:
    """Refuses an augmentation by colours of images that have none.

    Args:
        channels: Of the images.
        parts: Section `augment` of a config, or arguments of `augment` by name.

    Raises:
        UserError: AutoAugment is on and the images are not RGB, or jitter of colours and they are
            neither RGB nor grey.
    """
    if parts["auto_augment"] and channels != 3:
        raise UserError(
            f"augment.auto_augment={parts['auto_augment']} takes RGB images, not images of {channels} "
            f"channels: switch it off."
        )
    if (parts["color_jitter"] or parts["hue"]) and channels not in (1, 3):
        raise UserError(
            f"augment.color_jitter and augment.hue take RGB or grey images, not images of {channels} "
            f"channels: set them to 0."
        )


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

    Its centre is uniform over the image, so it may cross the border, where it is clipped.
    """
    size, height, width, _ = images.shape
    centres = jax.random.randint(key, (size, 2), 0, jnp.array([height, width]), jnp.int32)
    starts = centres - side // 2

    def erased(start: jax.Array, length: int) -> jax.Array:
        position = jnp.arange(length, dtype=jnp.int32)
        return (position >= start[:, None]) & (position < start[:, None] + side)

    mask = erased(starts[:, 0], height)[:, :, None] & erased(starts[:, 1], width)[:, None, :]
    return jnp.where(mask[..., None], 0, images)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Crops a box of random area and aspect from each image and resizes it (Szegedy et al., 2015).

    Args:
        key: The only source of randomness.
        images: [B, H, W, C].
        size: Pixels per side of the result.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height.

    Returns:
        [B, size, size, C] of the dtype of `images`.
    """
    return resize_boxes(images, draw_boxes(key, *images.shape[:3], scale, ratio), size)


def draw_boxes(
    key: jax.Array,
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws boxes inside an image of height x width, as torchvision's RandomResizedCrop does.

    The share of the area is uniform, the aspect log-uniform, the place uniform. A box that does
    not fit is drawn again; after ten tries it is the largest central one that the aspect allows.

    Returns:
        int32 [count, 4]: top, left, height, width.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    shape = (count, _TRIES)
    # One dtype whether or not 64 bits are enabled, so the same draws.
    area = height * width * jax.random.uniform(area_key, shape, jnp.float32, *scale)
    root = jnp.exp(jax.random.uniform(ratio_key, shape, jnp.float32, *map(math.log, ratio)) / 2)
    sides = jnp.sqrt(area)[..., None] * jnp.stack([1 / root, root], axis=-1)
    sides = jnp.round(sides).astype(jnp.int32)
    fits = ((sides > 0) & (sides <= jnp.array([height, width], jnp.int32))).all(-1)
    first = jnp.argmax(fits, axis=1)
    sides = jnp.take_along_axis(sides, first[:, None, None], axis=1)[:, 0]

    central = np.array([height, width])
    if width / height < ratio[0]:
        central[0] = round(width / ratio[0])
    elif width / height > ratio[1]:
        central[1] = round(height * ratio[1])
    fits = fits.any(axis=1, keepdims=True)
    sides = jnp.where(fits, sides, jnp.asarray(central, jnp.int32))
    room = jnp.array([height, width], jnp.int32) - sides
    places = [
        jax.random.randint(place_key, (count,), 0, room[:, axis] + 1, jnp.int32)
        for axis, place_key in enumerate((top_key, left_key))
    ]
    places = jnp.where(fits, jnp.stack(places, axis=1), room // 2)
    return jnp.concatenate([places, sides], axis=1)


def resize_boxes(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Resizes a box of each image to size x size, bilinearly, without antialiasing.

    Pixels are squares with their value at the centre; beyond the outermost centres of the box the
    value is theirs, so pixels outside the box have no influence.

    Args:
        images: [B, H, W, C].
        boxes: int32 [B, 4], inside the images: top, left, height, width.
        size: Pixels per side of the result.

    Returns:
        [B, size, size, C] of the dtype of `images`; integers are rounded.
    """

    def interpolated(image: jax.Array, start: jax.Array, length: jax.Array, axis: int) -> jax.Array:
        step = length.astype(jnp.float32) / size
        centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) * step - 0.5
        centre = jnp.clip(centre, 0, length - 1)
        low = jnp.floor(centre).astype(jnp.int32)
        high = jnp.minimum(low + 1, length - 1)
        before = jnp.take(image, start + low, axis).astype(jnp.float32)
        after = jnp.take(image, start + high, axis).astype(jnp.float32)
        weight = jnp.expand_dims(centre - low, [other for other in range(3) if other != axis])
        return before + weight * (after - before)

    def resized(image: jax.Array, box: jax.Array) -> jax.Array:
        rows = interpolated(image, box[0], box[2], 0)
        return interpolated(rows, box[1], box[3], 1)

    result = jax.vmap(resized)(images, boxes)
    if jnp.issubdtype(images.dtype, jnp.integer):
        result = jnp.round(result)
    return result.astype(images.dtype)


def jitter_colors(
    key: jax.Array,
    images: jax.Array,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float = 0.0,
) -> jax.Array:
    """Changes brightness, then contrast, then saturation, then hue, each by a random factor.

    Each factor f of the first three is uniform in [max(0, 1 - x), 1 + x] for the strength x, and gives
    f image + (1 - f) degenerate, clipped to [0, 1], where the degenerate image is black, the mean
    of the image's luma, the luma of its pixels. The hue is turned by a share of the colour circle
    that is uniform in [-x, x]. This is torchvision's ColorJitter, but torchvision shuffles the order.
    Of grey images saturation and hue stay, as there.

    Args:
        key: The only source of randomness.
        images: float in [0, 1], [B, H, W, 3], red, green, blue, or [B, H, W, 1], grey.
        brightness: Strength, not negative; 0: unchanged.
        contrast: Likewise.
        saturation: Likewise.
        hue: Likewise, at most one half.

    Returns:
        In [0, 1], of the shape and dtype of `images`.
    """

    def uniform(index: int, low: float, high: float) -> jax.Array:
        index_key, shape = jax.random.fold_in(key, index), (len(images), 1, 1, 1)
        return jax.random.uniform(index_key, shape, jnp.float32, low, high).astype(images.dtype)

    def blended(index: int, strength: float, images: jax.Array, degenerate: ArrayLike) -> jax.Array:
        factors = uniform(index, max(0.0, 1 - strength), 1 + strength)
        return jnp.clip(factors * images + (1 - factors) * degenerate, 0, 1)

    if images.shape[-1] == 1:
        saturation = hue = 0
    if brightness:
        images = blended(0, brightness, images, 0)
    if contrast:
        images = blended(1, contrast, images, _luma(images).mean((1, 2, 3), keepdims=True))
    if saturation:
        images = blended(2, saturation, images, _luma(images))
    if hue:
        images = turn_hue(images, uniform(3, -hue, hue))
    return images


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Adds to the hue of every pixel in HSV; saturation and value stay.

    Args:
        images: float [B, H, W, 3], red, green, blue.
        turns: [B, 1, 1, 1], 1 is once around the colour circle.

    Returns:
        [B, H, W, 3] of the dtype of `images`.
    """
    value, least = images.max(-1, keepdims=True), images.min(-1, keepdims=True)
    chroma = value - least
    red, green, blue = jnp.split(images, 3, axis=-1)
    # In sixths of the circle. A grey pixel has none, and nothing is subtracted from it below.
    unit = jnp.where(chroma > 0, chroma, 1)
    from_green, from_blue = 2 + (blue - red) / unit, 4 + (red - green) / unit
    sixths = jnp.where(green == value, from_green, from_blue)
    sixths = jnp.where(red == value, (green - blue) / unit, sixths)
    # Each channel is a trapezoid of the hue, the same but for its place on the circle.
    place = (jnp.asarray([5, 3, 1], images.dtype) + sixths + 6 * turns) % 6
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def _luma(images: jax.Array) -> jax.Array:
    """The weighted mean [B, H, W, 1] of red, green and blue that torchvision takes for grey."""
    if images.shape[-1] == 1:
        return images
    # Not a matrix product: those are less exact on accelerators.
    weights = jnp.asarray([0.2989, 0.587, 0.114], images.dtype)
    return (images * weights).sum(-1, keepdims=True)

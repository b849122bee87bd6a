"""A trained network, ready to use: weights, preprocessing and class names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddarts_jax.data.augment import normalize
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network as networks
from ddarts_jax.models import weights
from ddarts_jax.runs import facts, layout

_SIZES = ("channels", "stem", "stem_multiplier")
_BATCH_SIZE = 256  # images per batch


class Network:
    """A trained network.

    Attributes:
        genotype: its architecture.
        structure: static and hashable; see `models.network.forward`.
        variables: weights and statistics.
        data: facts of the training data: class_names, image_shape, mean, std.
        sizes: channels, stem and stem_multiplier, as in `config.train`.
        dtype: compute dtype.
    """

    def __init__(self, genotype, structure, variables, data, sizes, dtype="float32"):
        self.genotype, self.structure, self.variables = genotype, structure, variables
        self.data, self.sizes, self.dtype = dict(data), dict(sizes), dtype
        self._logits = jax.jit(
            lambda variables, x: networks.forward(structure, variables, x, train=False)[0]
        )
        self._features = jax.jit(
            lambda variables, x: nnx.merge(structure.graph, *variables).features(x)
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(self.data["class_names"])

    @property
    def mean(self) -> np.ndarray | None:
        """Mean [C] of the training pixels in units of [0, 1]; None if it is not known."""
        return np.asarray(self.data["mean"], np.float32) if self.data.get("mean") else None

    @property
    def std(self) -> np.ndarray | None:
        """Standard deviation [C], likewise."""
        return np.asarray(self.data["std"], np.float32) if self.data.get("std") else None

    def __call__(self, images) -> np.ndarray:
        """Computes logits.

        Args:
            images: uint8 [n, H, W, C], or floating-point if they are already normalised.

        Returns:
            float32 [n, classes].

        Raises:
            UserError: the images differ in shape from those of the training, or are of another dtype.
        """
        parts = [self._logits(self.variables, part) for part in self._batches(images)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])

    def features(self, images) -> list[np.ndarray]:
        """Computes the last feature map of every resolution, the finest first.

        Args:
            images: see `__call__`.

        Returns:
            Arrays [n, H', W', C']; the classifier reads the last one.
        """
        parts = [self._features(self.variables, part) for part in self._batches(images)]
        return [np.concatenate(arrays) for arrays in zip(*parts)]

    def module(self) -> nnx.Module:
        """Returns the network as a Flax module with these weights, to train on in a loop of one's own.

        It is what `dd.build` returns, and takes normalised images as `dd.preprocess` makes them. This
        object keeps its own weights, whatever is done to the module's.
        """
        variables = jax.tree.map(jnp.asarray, self.variables)
        return nnx.merge(self.structure.graph, *variables)

    def _batches(self, images) -> Iterator[jax.Array]:
        images = np.asarray(images)
        shape = self.data.get("image_shape") or (None, None, None)  # None: it is not known
        fits = images.ndim == 4 and all(a in (None, b) for a, b in zip(shape, images.shape[1:]))
        if not fits or not len(images):
            sizes = [name if size is None else size for name, size in zip("HWC", shape)]
            raise UserError(
                f"The network takes images [n, {', '.join(map(str, sizes))}], not {images.shape}."
            )
        raw = images.dtype == np.uint8
        if not raw and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"The network takes images as uint8, or as floating-point numbers that are already "
                f"normalised, not as {images.dtype}: convert them, images.astype('uint8')."
            )
        if raw and self.mean is None:
            raise UserError(
                "The mean and deviation of the network's training data are not known: pass images "
                "that are already normalised, as floating-point numbers."
            )
        for first in range(0, len(images), _BATCH_SIZE):
            part = jnp.asarray(images[first : first + _BATCH_SIZE])
            dtype = jnp.dtype(self.dtype)
            yield normalize(part, self.mean, self.std, dtype) if raw else part.astype(dtype)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the network to a folder, from which `load_network` reads it.

        The folder gets `network.npz`, `network_genotype.json`, `network.json` and `dataset.json`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.genotype.save(folder / layout.NETWORK_GENOTYPE)
        weights.save_network(folder / layout.NETWORK, self.variables)
        write_json(folder / layout.NETWORK_SIZES, self.sizes)
        write_json(folder / layout.DATASET, self.data)


def load_network(folder: str | os.PathLike) -> Network:
    """Loads a trained network from a run's workdir, a folder of `Network.save`, or an export.

    Raises:
        UserError: there is no trained network, or its files do not match.
    """
    folder = Path(folder)
    exported = (folder / layout.EXPORT_META).is_file()
    genotype = Genotype.load(folder / (layout.GENOTYPE if exported else layout.NETWORK_GENOTYPE))
    path = folder / (layout.EXPORT_WEIGHTS if exported else layout.NETWORK)
    data = facts.of_weights(path)
    if data is None:
        raise UserError(
            f"There is no {layout.DATASET} in {folder}: name the workdir of a training."
        )
    sizes = sizes_in(folder)
    try:
        size, _, channels = data["image_shape"]
        if data["class_names"] is None:  # an imported network that was never evaluated
            data["class_names"] = [str(number) for number in range(data["num_classes"])]
        structure, empty = networks.build(
            genotype,
            channels=sizes["channels"],
            num_classes=len(data["class_names"]),
            image_size=size or networks.smallest_image(genotype),
            image_channels=channels,
            stem=sizes["stem"],
            stem_multiplier=sizes["stem_multiplier"],
            key=None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} does not describe a network: {error!r} is missing.") from error
    return Network(genotype, structure, weights.load_network(path, empty), data, sizes)


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings besides genotype and data that define the trained network's shape."""
    return {key: config["train"][key] for key in _SIZES}


def sizes_in(folder: Path) -> dict[str, Any]:
    """Returns `sizes_of` of the network in a workdir, a folder of `Network.save` or an export.

    Returns:
        The sizes that the folder tells; an older export tells none.

    Raises:
        UserError: the file that tells them is corrupt.
    """
    files = (
        (layout.NETWORK_SIZES, "Sizes of the network", lambda found: found),
        (layout.EXPORT_META, "Description of an export", lambda found: found.get("network", {})),
        (layout.CONFIG, "Config", lambda found: found["train"]),
    )
    for name, kind, part in files:
        if (folder / name).is_file():
            try:
                found = part(read_json(folder / name, kind))
                return {key: found[key] for key in _SIZES if key in found}
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{folder / name} does not describe a network.") from error
    return {}

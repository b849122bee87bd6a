"""The public functions of `import ddarts_jax as dd`; the command line does the same.

A script that searches, trains and uses the network found:

    import ddarts_jax as dd

    config = dd.config("digits", **{"search.epochs": 3, "train.epochs": 3})
    data = dd.load_data(config.data)
    result = dd.search(config, data, "runs/mine")        # continues by itself if it was interrupted
    network = dd.train(config, result.genotype, data, "runs/mine")
    print(dd.evaluate(network, data)["accuracy"])
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddarts_jax import configuration
from ddarts_jax.data import dataset as datasets
from ddarts_jax.data import stream
from ddarts_jax.data.augment import normalize
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models import network as networks
from ddarts_jax.models import primitives
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.ops import backend
from ddarts_jax.reports import report
from ddarts_jax.runs import facts, layout
from ddarts_jax.runs.callbacks import Callback, checked, tell
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.runs.workdir import PHASES, Clock, check_apart, check_kind, create, locked
from ddarts_jax.searching import methods
from ddarts_jax.searching import search as searches
from ddarts_jax.tasks import importing, pipeline
from ddarts_jax.training import compilation
from ddarts_jax.training import evaluate as evaluation
from ddarts_jax.training import train as trainings
from ddarts_jax.training.trained import Network, sizes_of

Images = Dataset | stream.Streamed


def config(name: str | os.PathLike, **overrides: Any) -> ConfigDict:
    """Loads a config that comes with the package, or a file.

    Args:
        name: of a file in configs/ without its ending ("digits"), or a path.
        **overrides: {dotted key: value}, as `**{"search.epochs": 3}`. `search.space` may be a tuple
            of names of primitives.

    Returns:
        The config, locked and checked.

    Raises:
        UserError: the file cannot be used, a key does not exist, or a value is not allowed.

    Example:
        >>> dd.config("digits", **{"search.epochs": 3}).search.epochs
        3
    """
    return configuration.load(name, overrides)


def load_data(data: ConfigDict) -> Images:
    """Loads the images that `config.data` names.

    Args:
        data: the config's `data` section.

    Returns:
        A `Dataset` in memory, or with `data.stream` a streamed one.

    Raises:
        UserError: the data are missing, or are not what they should be.

    Example:
        >>> dd.load_data(dd.config("digits").data).image_shape
        (8, 8, 1)
    """
    return (stream if data.get("stream") else datasets).load(data)


def preprocess(images: np.ndarray | jax.Array, data: Images) -> jax.Array:
    """Normalises images as those of `data` are normalised in training.

    Args:
        images: uint8 [n, H, W, C].
        data: whose mean and deviation are used.

    Returns:
        float32 [n, H, W, C].

    Raises:
        UserError: the images are not uint8.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise UserError(
            f"Images to preprocess are uint8, from 0 to 255, not {images.dtype}: convert them as those "
            f"of the data were."
        )
    return normalize(images, data.mean, data.std, jnp.float32)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        genotype: the architecture.
        alphas: float32 [distinct cells, E, columns].
        supernet: structure of the supernet; None after a random search.
        variables: the supernet's weights and statistics; None likewise.
        workdir: where the search wrote its files.
    """

    genotype: Genotype
    alphas: np.ndarray
    supernet: Supernet | None
    variables: Variables | None
    workdir: Path


def search(
    config: ConfigDict,
    dataset: Images,
    workdir: str | os.PathLike,
    *,
    alpha_loss: Callable | None = None,
    callbacks: Iterable[Callback] = (),
) -> SearchResult:
    """Searches an architecture; an interrupted search in the same workdir continues.

    Args:
        config: from `config`; `config.search.method` names the method.
        dataset: images, of which only the training split is used.
        workdir: where everything is written; created if needed.
        alpha_loss: a further term of every cell's loss, `(gates [cells, E, G], supernet) -> [cells]`,
            differentiable by JAX. It is not part of the run's identity: an interrupted search must be
            continued with the same one.
        callbacks: told of steps, of epochs and of the end, see `Callback`.

    Raises:
        UserError: the config does not fit the data or is of another task, the workdir is another run's
            or in use, or a loss is not finite.
        Stopped: a signal ended the search; its state is saved.
    """
    with _opened("search", config, workdir, callbacks) as (path, writer, dtype):
        start = pipeline.find_start(config)
        found = searches.run(config, dataset, path, writer, dtype, start, alpha_loss=alpha_loss)
    return SearchResult(*found, workdir=path)


def train(
    config: ConfigDict,
    genotype: Genotype,
    dataset: Images,
    workdir: str | os.PathLike,
    *,
    callbacks: Iterable[Callback] = (),
) -> Network:
    """Trains the network of a genotype; an interrupted training in the same workdir continues.

    Args:
        config: from `config`; a `train.num_cells` that is larger deepens the genotype (Algorithm 1).
        genotype: of the network.
        dataset: images.
        workdir: where everything is written; created if needed. It may be that of the search.
        callbacks: see `search`.

    Raises:
        UserError: see `search`; or the genotype does not form a valid network.
        Stopped: a signal ended the training; its state is saved.
    """
    with _opened("train", config, workdir, callbacks) as (path, writer, dtype):
        genotype = pipeline.deepened(config, genotype)
        net, variables = trainings.run(config, genotype, dataset, path, writer, dtype)
        genotype.save(path / layout.NETWORK_GENOTYPE)
    data = facts.of_data(dataset) | facts.of_images(dataset)
    return Network(genotype, net, variables, data, sizes_of(config), dtype)


def evaluate(network: Network, dataset: Images, batch_size: int = 256) -> dict[str, Any]:
    """Measures a network on the test images of a data set.

    Args:
        network: trained on images of this size and these classes.
        dataset: images; the network normalises them by the mean and deviation that it was trained with.
        batch_size: images that run at once.

    Returns:
        accuracy and top5_accuracy (fractions), loss (mean cross-entropy), count (images) and confusion,
        int32 [classes, classes]: images of each class (row) by answer (column).

    Raises:
        UserError: the data have other classes, or images of another kind, than the network; or they are
            those of its training, split otherwise.
    """
    dataset = facts.matched(network.data, dataset, "memory")
    return evaluation.evaluate_dataset(
        network.structure, network.variables, dataset, batch_size, network.dtype
    )


def import_weights(
    path: str | os.PathLike,
    genotype: Genotype,
    class_names: Iterable[str] | None = None,
    stem: str = "",
) -> Network:
    """Loads the authors' PyTorch weights of a derived network.

    Args:
        path: of their state dict: `.pth.tar` (needs torch), or an `.npz` of its tensors.
        genotype: of the network, see `Genotype.load`.
        class_names: of the classes; None: "0", "1", ...
        stem: of a network for large images, "half" or "strided", which its file does not tell; empty:
            the likelier one.

    Returns:
        The network, which takes normalised images: the file does not tell their mean and deviation.

    Raises:
        UserError: the file cannot be read, or is of another genotype or of a supernet.
    """
    found = importing.load_torch(path, genotype, stem=stem)
    if isinstance(found.net, Supernet):
        raise UserError(f"{path} holds the weights of a supernet, not of a derived network.")
    names = [str(k) for k in range(found.num_classes)] if class_names is None else [*class_names]
    if len(names) != found.num_classes:
        raise UserError(f"{path} is of {found.num_classes} classes, not of {len(names)}.")
    sizes = {"channels": found.channels, "stem": found.stem, "stem_multiplier": 3}
    data = {"class_names": names, "image_shape": [None, None, found.image_channels]}
    return Network(genotype, found.net, found.variables, data, sizes)


build = networks.build_module
register_primitive = primitives.register
register_method = methods.register


@contextlib.contextmanager
def _opened(
    phase: str, config: ConfigDict, workdir: str | os.PathLike, callbacks: Iterable[Callback]
) -> Iterator[tuple[Path, MetricsWriter, str]]:
    """Opens a workdir for a search or a training: yields it, the metrics' writer and the dtype."""
    told = checked(callbacks)
    configuration.validate(config)
    if config.task not in PHASES:
        raise UserError(
            f"The config is of task {config.task!r}, not of a search or a training: use one of these, as "
            f'dd.config("digits").'
        )
    check_apart(workdir, config.data.name)
    compilation.keep_programs()
    processes.devices()
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    dtype = backend.compute_dtype(config.dtype)
    path = create(workdir)
    with locked(path), contextlib.ExitStack() as ends:
        check_kind(config.task, path)
        for callback in reversed(told):  # the stack calls the last one first
            ends.push(
                lambda _, error, __, callback=callback: tell(callback, "on_end", phase, error)
            )
        clock, live = Clock(path, compiled=compilation.spent()), report.Live(path)
        writer = MetricsWriter(path, pipeline.after_epoch(clock, live), told)
        try:
            yield path, writer, dtype
            clock.keep(compilation.spent())
            live.close()
        finally:
            writer.close()

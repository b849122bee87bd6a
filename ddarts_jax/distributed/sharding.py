"""Data parallelism: one mesh axis `data`, state replicated, batch sharded (DESIGN: GSPMD by `jit`).

Under `jit` a sum over a sharded batch is a sum over all devices, so BatchNorm and losses are global and
the result is that of one device. With `on_each_device` every device normalises its own images and only
the gradients are averaged, as in PyTorch's DistributedDataParallel. Each of several processes has its
share of the devices; all run the same program on the same state.
"""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddarts_jax.errors import UserError


def data_mesh(batch_size: int, devices=None, key: str = "data.batch_size") -> Mesh:
    """A mesh of all devices over which a batch is split evenly.

    Args:
        batch_size: images per step, over all devices.
        devices: the devices; None: all.
        key: of the config that says so, for the message.

    Raises:
        UserError: when the batch does not divide evenly; the message names the nearest sizes that do.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if batch_size % count:
        below, above = batch_size // count * count, -(-batch_size // count) * count
        nearest = " or ".join(str(size) for size in (below, above) if size)
        raise UserError(
            f"{key}={batch_size} cannot be split evenly over {count} devices: use {nearest}."
        )
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def divisible(batch_size: int) -> int:
    """The smallest size of at least `batch_size` that all devices can share evenly."""
    count = jax.device_count()
    return -(-batch_size // count) * count


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree, mesh: Mesh):
    """Replicates every leaf, equal in all processes, on every device."""
    return put(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def put(tree, shardings):
    """`jax.device_put`, also onto devices of other processes.

    Args:
        tree: arrays, equal in all processes.
        shardings: one sharding for each leaf.
    """

    def place(leaf, wanted):
        if wanted is None or wanted.is_fully_addressable:
            return jax.device_put(leaf, wanted)
        # device_put would first compare every leaf over all processes, 0.1 s each.
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf), wanted))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, wanted, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_batch(batch, mesh: Mesh):
    """Inside jit: splits the leading axis of every leaf over the devices."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def over(mesh: Mesh) -> contextlib.AbstractContextManager[None]:
    """Sets the devices that `sum_over_batch` sums over, while a step is traced."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def sum_over_batch(function: Callable, *batches) -> jax.Array:
    """Adds up the results of `function` for the images of each device, in float32 or better.

    XLA by itself would add the devices' parts in the dtype that `function` computes in, such as
    bfloat16. Outside `over`, and on one device, this is just `function(*batches)`.

    Args:
        function: maps arrays with leading axis B to one array, a sum over B.
        batches: arrays [B, ...], with equally many images per device.

    Returns:
        The sum over all images.
    """

    def part(*batches):
        result = function(*batches)
        return result.astype(jnp.promote_types(result.dtype, jnp.float32))

    mesh = _shared_mesh()
    if mesh is None:
        return part(*batches)
    # Unchecked, because JAX would otherwise add its own sums where `function` is transposed.
    return jax.shard_map(
        lambda *own: jax.lax.psum(part(*own), "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(*batches)


def on_own_images(function: Callable, batches: tuple, others: tuple = ()):
    """Applies a function on each device to its own images, which XLA by itself might gather first.

    It does so where a further axis, such as that of `vmap`, becomes one with the axis of images, as in a
    convolution. What is applied must treat every image by itself. With several devices it has a gradient
    by the batches only, not by the others or what the function refers to otherwise.

    Args:
        function: maps the images of some arrays, and the others, to an array or a tree of them.
        batches: trees of arrays [B, ...], with equally many images per device.
        others: arrays that all devices have.

    Returns:
        What `function(*batches, *others)` returns, [B, ...].
    """
    mesh = _shared_mesh()
    if mesh is None:
        return function(*batches, *others)
    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(split,) * len(batches) + (whole,) * len(others),
        out_specs=split,
        check_vma=False,
    )(*batches, *others)


def map_images(function: Callable, *batches):
    """Applies a function to one image after another, on each device to its own images.

    For what needs much memory for each image. With several devices it has a gradient by the batches only,
    not by what the function refers to otherwise.

    Args:
        function: maps one image's part of each batch to a tree of arrays.
        batches: trees of arrays [B, ...], with equally many images per device.

    Returns:
        The trees of all images, stacked: arrays [B, ...].
    """

    def own(*batches):
        if jax.tree.leaves(batches)[0].shape[0] == 1:  # the converter to ONNX fails at loops
            only = jax.tree.map(lambda batch: batch[0], batches)
            return jax.tree.map(lambda found: found[None], function(*only))
        return jax.lax.map(lambda image: function(*image), batches)

    return on_own_images(own, batches)


def _shared_mesh():
    """The devices over which a batch is split where this is traced; None: it is in one place."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def on_each_device(step: Callable) -> Callable:
    """Makes every device run a step on its own share of the batches, as if it were alone.

    The step itself averages over the devices what they must agree on, with `mean`. Its result is not
    that of one device: BatchNorm uses the statistics of each device's own images.

    Args:
        step: `(state, key, *batches) -> (state, metrics)`.

    Returns:
        The same function, to be called inside `over`.
    """

    def run(state, key, *batches):
        replicated, split = PartitionSpec(), PartitionSpec("data")
        return jax.shard_map(
            step,
            mesh=jax.sharding.get_abstract_mesh(),
            in_specs=(replicated, replicated, *[split] * len(batches)),
            out_specs=replicated,
            check_vma=False,
        )(state, key, *batches)

    return run


def _alone() -> bool:
    """Whether this is traced inside `on_each_device`."""
    return "data" in jax.sharding.get_abstract_mesh().manual_axes


def mean(tree):
    """Averages over the devices what each computed from its images; else returns it as it is."""
    return jax.lax.pmean(tree, "data") if _alone() else tree


def own_key(key):
    """A random key of each device's own, for what is drawn for every image; else returns `key`."""
    return jax.random.fold_in(key, jax.lax.axis_index("data")) if _alone() else key

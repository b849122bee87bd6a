"""Data parallelism: one mesh axis `data`, state replicated, batch sharded (DESIGN: GSPMD by `jit`).

Under `jit` a sum over a sharded batch is a sum over all devices, so BatchNorm and losses are global and
the result is that of one device.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddarts_jax.errors import UserError


def data_mesh(batch_size: int, devices=None) -> Mesh:
    """A mesh of all devices over which a batch is split evenly.

    Args:
        batch_size: images of a step, over all devices.
        devices: default: all.

    Raises:
        UserError: when the batch does not divide; names the nearest sizes that do.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if batch_size % count:
        below, above = batch_size // count * count, -(-batch_size // count) * count
        nearest = " or ".join(str(size) for size in (below, above) if size)
        raise UserError(
            f"data.batch_size={batch_size} cannot be split evenly over {count} devices: "
            f"use {nearest}"
        )
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """Puts every leaf whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_batch(batch, mesh: Mesh):
    """Inside jit: splits the leading axis of every leaf over the devices."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))

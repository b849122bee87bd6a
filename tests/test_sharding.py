"""Tests of data parallelism; several devices are simulated by a process of its own."""

import json
import os
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax import sharding
from ddarts_jax.errors import UserError


@given(batch_size=st.integers(1, 1000), count=st.integers(1, 64))
def test_batch_that_does_not_divide(batch_size, count):
    """Where a batch does not divide, the error names the nearest sizes that do."""
    if batch_size % count == 0:
        return
    with pytest.raises(UserError, match=f"batch_size={batch_size} .* {count} devices") as error:
        sharding.data_mesh(batch_size, devices=range(count))
    sizes = [int(size) for size in str(error.value).rpartition("use ")[2].split(" or ")]
    assert sizes[-1] - batch_size < count and batch_size - sizes[0] < count
    assert all(size > 0 and size % count == 0 for size in sizes)


def test_four_devices_give_the_result_of_one(tmp_path):
    """Two steps of search (with ablation) and of training differ by rounding only, in float64."""
    data = tiny.write_data(tmp_path / "digits.npz")
    process = tiny.start(
        ["-c", f"import test_sharding; test_sharding.compare({str(data)!r})"],
        tmp_path / "cache",
        PYTHONPATH=os.pathsep.join([str(tiny.ROOT), str(Path(__file__).parent)]),
        JAX_ENABLE_X64="1",
        XLA_FLAGS="--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
    )
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    result = json.loads(output.splitlines()[-1])
    assert result["devices"] == [1, 4]
    for phase in ("search", "train"):
        assert result[phase]["difference"] < 1e-9, result
        assert result[phase]["moved"] > 1e-3, result


def compare(path):
    """Prints how much one chunk of steps on four devices differs from one on a single device."""
    import jax
    import numpy as np

    from ddarts_jax import data, loop, search, train

    config = tiny.config(path)
    dataset = data.load(config.data)
    batch_size, dtype = config.data.batch_size, "float64"
    plan = loop.schedule(32, batch_size, epochs=1, chunk_steps=config.chunk_steps)
    meshes = [sharding.data_mesh(batch_size, jax.devices()[:count]) for count in (1, 4)]
    result = {"devices": [mesh.size for mesh in meshes]}

    def run(state, step, splits, settings, mesh):
        images = loop.on_device(dataset, splits, mesh)
        running = loop.start(state, step, len(splits), dataset.image_shape, plan, dtype, mesh)
        chunk = loop.make_chunk(step, plan, config.seed, settings.augment, dtype, mesh)
        return jax.tree.leaves(jax.device_get(chunk(running, images)[0]))

    def measure(phase, state, step, splits):
        before = jax.tree.leaves(jax.device_get(state))
        one, four = (run(state, step, splits, config[phase], mesh) for mesh in meshes)
        scale = [np.abs(leaf).max() + 1e-3 for leaf in one]
        differences = [np.abs(a - b).max() / s for a, b, s in zip(one, four, scale)]
        moved = [np.abs(a - b).max() for a, b in zip(one, before) if a.dtype == dtype]
        result[phase] = {"difference": float(max(differences)), "moved": float(max(moved))}

    net, variables, alphas = search.build(config, dataset, dtype)
    init, step = search.search_step(net, config.search, plan.total)
    halves = data.stratified_halves(dataset.train_labels, config.seed)
    measure("search", init(variables, alphas), step, halves)

    net, variables = train.build(config, tiny.GENOTYPE, dataset, dtype)
    init, step = train.train_step(net, config.train, plan)
    measure("train", init(variables), step, (np.arange(len(dataset.train_labels)),))
    print(json.dumps(result))

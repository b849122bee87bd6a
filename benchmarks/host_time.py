"""Times what the host does for a step of the search: the call of a chunk, divided by its steps.

    python benchmarks/host_time.py

The digits' search at its full chunk. The call returns while the device still works, so this is what
the device could have to wait for; one JSON line, medians of 20 calls.
"""

import argparse
import json
import platform
import statistics
import time

import jax
import numpy as np

from ddarts_jax import data, loop, search, sharding
from ddarts_jax.config import default_config, without_augmentation


def main():
    """Measures and prints."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    config = default_config()
    config.data.name = "digits"
    config.data.batch_size = 8  # more steps, and a step that is quick
    config.search.num_cells = 2
    config.search.num_nodes = 1
    config.search.channels = 2
    without_augmentation(config.search.augment)
    dataset = data.load(config.data)
    splits = dataset.halves(config.seed)
    plan = loop.schedule(min(map(len, splits)), config.data.batch_size, 1, config.chunk_steps)
    net, variables, alphas = search.build(config, dataset, "float32")
    init, step = search.search_step(net, config.search, plan.total)
    mesh = sharding.data_mesh(config.data.batch_size)
    state = init(variables, alphas)
    running = loop.start(state, step, 2, dataset.image_shape, plan, "float32", mesh)
    chunk = loop.make_chunk(step, plan, config.search.augment, "float32", mesh)
    images = loop.on_device(dataset, splits, mesh)
    program = loop.resident(chunk, images, np.uint32(0), running)
    calls, whole = [], []
    for _ in range(21):
        begun = time.perf_counter()
        running, finite = program.advance(running, 0)
        calls.append(time.perf_counter() - begun)
        jax.device_get(finite)
        whole.append(time.perf_counter() - begun)
    result = {
        "benchmark": "host_time",
        "steps_in_a_call": plan.chunk,
        "host_ms_a_step": round(1e3 * statistics.median(calls[1:]) / plan.chunk, 4),
        "whole_ms_a_step": round(1e3 * statistics.median(whole[1:]) / plan.chunk, 4),
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

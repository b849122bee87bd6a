"""Times the host's work per step of the search, and how long the device waits; one JSON line.

    python benchmarks/host_time.py

The search on the digits runs at its full chunk, with a step so small that waiting would show. The call
of a chunk returns while the device still works: its time, divided by the chunk's steps, is the host's.
How long the device waits is read from a profiler trace: the longest time within a chunk, and between two,
in which no instruction of the program ran, and the share of all such times. Medians of 20 calls; 10
traced chunks.
"""

import statistics
import tempfile
import time
from pathlib import Path

import harness
import jax
import numpy as np

from ddarts_jax.configuration import default_config, without_augmentation
from ddarts_jax.data import dataset as data
from ddarts_jax.distributed import sharding
from ddarts_jax.searching import search
from ddarts_jax.training import feeds, profiling, schedule

_TRACED = 10


def waiting(directory, hlo):
    """Reads from a trace of `_TRACED` chunks when the device did not work on the program."""
    spans = sorted(
        (event.start_ns, event.start_ns + event.duration_ns)
        for _, event in profiling.events(directory, hlo)
    )
    gaps, first = [], spans[0][0]
    end = first
    for start, stop in spans:
        gaps.append(max(0, start - end))
        end = max(end, stop)
    # Between chunks the host fetches the flags of the last one, which makes the longest gaps.
    gaps.sort(reverse=True)
    between, within = gaps[: _TRACED - 1], gaps[_TRACED - 1 :]
    return {
        "longest_wait_between_chunks_ms": round(between[0] / 1e6, 3),
        "longest_wait_within_a_chunk_ms": round(within[0] / 1e6, 3),
        "share_waited": round(sum(gaps) / (end - first), 5),
        "share_waited_between_chunks": round(sum(between) / (end - first), 5),
    }


def main():
    """Measures and prints."""
    harness.parser(__doc__).parse_args()
    config = default_config()
    config.data.name = "digits"
    config.data.batch_size = 8  # more and quicker steps
    config.search.num_cells = 2
    config.search.num_nodes = 1
    config.search.channels = 2
    without_augmentation(config.search.augment)
    dataset = data.load(config.data)
    splits = dataset.halves(config.seed)
    plan = schedule.schedule(min(map(len, splits)), config.data.batch_size, 1, config.chunk_steps)
    net, variables, alphas = search.build(config, dataset, "float32")
    init, step = search.search_step(net, config.search, plan.total)
    mesh = sharding.data_mesh(config.data.batch_size)
    state = init(variables, alphas)
    running = feeds.start(state, step, 2, dataset.image_shape, plan, "float32", mesh)
    chunk = feeds.make_chunk(step, plan, config.search.augment, "float32", mesh)
    images = feeds.on_device(dataset, splits, mesh)
    program = feeds.resident(chunk, images, np.uint32(0), running)
    calls, whole = [], []
    for _ in range(21):
        begun = time.perf_counter()
        running, finite = program.advance(running, 0)
        calls.append(time.perf_counter() - begun)
        jax.device_get(finite)
        whole.append(time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as directory:
        with profiling.trace(directory):
            for _ in range(_TRACED):
                running, finite = program.advance(running, 0)
                jax.device_get(finite)
        waits = waiting(Path(directory), program.compiled.as_text())
    results = {
        "steps_per_call": plan.chunk,
        "host_ms_per_step": round(1e3 * statistics.median(calls[1:]) / plan.chunk, 4),
        "whole_ms_per_step": round(1e3 * statistics.median(whole[1:]) / plan.chunk, 4),
        **waits,
    }
    harness.report("host_time", {}, results)


if __name__ == "__main__":
    main()

"""Counts what a search step sends between devices, and estimates its efficiency; one JSON line.

    python benchmarks/scaling.py                      # the structure of 8 cells, 16 channels
    python benchmarks/scaling.py --step-seconds 0.05  # on one device, for its share of the batch

Nothing is timed. The step is compiled for two (simulated) devices and its all-reduces are counted, those
in loops as often as the loop runs: the gradient of the weights once, and the sums of every BatchNorm,
which is global. Neither their number nor their sizes depend on the images, so small images suffice.
All-reduces that do not wait for each other can be sent together, as XLA does on GPUs: the number of
rounds is the longest chain of all-reduces that do wait.
The efficiency is `step / (step + rounds * latency + bytes * 2 (n - 1) / n / bandwidth)`. That is a ring
and assumes that no communication is hidden behind computation, which is pessimistic. Latencies and
bandwidths are the assumptions below.
"""

import os
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
from program_text import called, computations, trip_count
from search_step import random_supernet

from ddarts_jax.distributed import sharding
from ddarts_jax.searching.search import search_step
from ddarts_jax.training import optim

_FLAGS = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
_ASSUMED = {  # least seconds per all-reduce, bytes per second and device
    "8 GPUs of a host (NVLink)": {"devices": 8, "latency_s": 15e-6, "bandwidth": 300e9},
    "8 hosts of 8 GPUs (InfiniBand)": {"devices": 64, "latency_s": 40e-6, "bandwidth": 40e9},
}


class Reduced(NamedTuple):
    """The all-reduces of a computation: their number, bytes, and the longest chain of them."""

    count: int
    bytes: int
    rounds: int


def all_reduces(found, name="ENTRY") -> Reduced:
    """Counts the all-reduces that a computation runs (see `program_text.computations`)."""
    count = size = 0
    rounds = {}  # up to and including each instruction
    for i in found[name]:
        inner, times = Reduced(0, 0, 0), 1
        if i.opcode == "while":
            times = trip_count(i)
            inner = all_reduces(found, called(i, "body"))
        elif i.opcode == "call":
            inner = all_reduces(found, called(i, "to_apply"))
        elif i.opcode in ("all-reduce", "all-reduce-start"):
            inner = Reduced(1, i.size, 1)
        count, size = count + times * inner.count, size + times * inner.bytes
        before = max((rounds.get(operand, 0) for operand in i.operands), default=0)
        rounds[i.name] = before + times * inner.rounds
    return Reduced(count, size, max(rounds.values(), default=0))


def compiled_text(arguments) -> str:
    """Compiles a step for two devices; returns the program's text."""
    config = harness.search_config(vars(arguments))
    net, variables, alphas = random_supernet(config)
    init, step = search_step(net, config.search, total_steps=100)
    mesh = sharding.data_mesh(2)
    state = init(*optim.at_least_float32((variables, alphas), "float32"))
    state, key = sharding.replicate((state, jax.random.key(1)), mesh)
    batch = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, jnp.int32)
    batches = [jax.device_put(batch, sharding.batch_sharding(mesh)) for _ in range(2)]
    return step.lower(state, key, *batches).compile().as_text()


def main():
    """Counts and prints."""
    parser = harness.parser(__doc__, "cells", "nodes", "channels")
    parser.add_argument("--ablation-weight", type=float, default=0.5, help="w_AB")
    parser.add_argument("--step-seconds", type=float, default=0.05, help="on one device")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = _FLAGS + os.environ.get("XLA_FLAGS", "")  # read at the first use
    found = all_reduces(computations(compiled_text(arguments)))
    expected = {}
    for name, values in _ASSUMED.items():
        devices = values["devices"]
        ring = 2 * (devices - 1) / devices * found.bytes / values["bandwidth"]
        seconds = found.rounds * values["latency_s"] + ring
        efficiency = arguments.step_seconds / (arguments.step_seconds + seconds)
        expected[name] = values | {
            "communication_s": round(seconds, 4),
            "efficiency": round(efficiency, 3),
        }
    results = {"all_reduces": found._asdict(), "expected": expected}
    harness.report("scaling", vars(arguments), results)


if __name__ == "__main__":
    main()

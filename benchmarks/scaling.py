"""Counts what a search step sends between devices, and estimates its efficiency; one JSON line.

    python benchmarks/scaling.py                      # the structure of 8 cells, 16 channels
    python benchmarks/scaling.py --step-seconds 0.05  # on one device, for its share of the batch

Nothing is timed. The step is compiled for two described GPUs (see `gpu_program`) and its all-reduces are
counted, those in loops as often as the loop runs: the gradients, and the sums of every BatchNorm, which
is global unless `--batch-norm local`. Neither their number nor their sizes depend on the images, so
small ones suffice. The number of rounds is the longest chain of all-reduces that wait for each other.
The efficiency is `step / (step + rounds * latency + bytes * 2 (n - 1) / n / bandwidth)`. That is a ring
and assumes that no communication is hidden behind computation, which is pessimistic. Latencies and
bandwidths are the assumptions below.
"""

from typing import NamedTuple

import gpu_program
import harness
from program_text import called, computations, trip_count

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
    """Compiles a step for two GPUs; returns the program's text."""
    config = harness.search_config(vars(arguments))
    config.data.batch_size, config.batch_norm = 4, arguments.batch_norm
    program = gpu_program.search_program(config, (8, 8, 3), devices=2, alone=True)
    return program.compile().as_text()


def main():
    """Counts and prints."""
    parser = harness.parser(__doc__, "cells", "nodes", "channels")
    parser.add_argument("--ablation-weight", type=float, default=0.5, help="w_AB")
    parser.add_argument("--batch-norm", default="global", choices=["global", "local"])
    parser.add_argument("--step-seconds", type=float, default=0.05, help="on one device")
    arguments = parser.parse_args()
    if reason := gpu_program.unavailable():
        parser.error(reason)
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

"""Makes all results that are missing, one after the other, until the hours are over.

    python benchmarks/mini_cifar/run_all.py [--factors] [--full] [--seeds 6] [--hours 8] [--jobs 1]

All methods with seed 0, then all with seed 1 and so on, so that the table fills evenly; at last the
random networks of ranking.py. With --factors, the factor study and what it is compared with, 4 seeds;
with --full at the article's size, for a GPU.
Each is a process of run.py, whose output goes to `runs/mini_cifar/METHOD_SEED.log`. When the hours are
over, or after a signal, what is in progress is saved; the same command continues.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import protocol

from ddarts_jax.training.signals import Signals

_POLL_SECONDS = 1.0


class Pair(NamedTuple):
    """A method and a seed."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """In messages, and of the log."""
        return f"{self.method}_{self.seed}"


def planned(seeds: int, factors: bool = False) -> Iterator[Pair]:
    """Yields what there is to run, in this order, whether it has a result or not."""
    methods = (*protocol.COMPARED, *protocol.FACTORS) if factors else protocol.METHODS
    yield from (Pair(method, seed) for seed in range(seeds) for method in methods)
    if not factors:
        yield from (Pair(protocol.CHANCE, seed) for seed in range(seeds, protocol.NETWORKS))


def missing(pairs: Iterable[Pair]) -> list[Pair]:
    """Returns those that have no result."""
    return [pair for pair in pairs if not protocol.result_file(*pair).is_file()]


def start(pair: Pair) -> subprocess.Popen:
    """Starts a run."""
    protocol.SIZE.runs.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), pair.method, str(pair.seed)]
    command += ["--full"] if protocol.SIZE is protocol.FULL else []
    # Alone, a process takes three quarters of a GPU's memory before it needs any.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    with open(protocol.SIZE.runs / f"{pair.name}.log", "a") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def run(pairs: list[Pair], jobs: int, over: Callable[[], bool]) -> list[Pair]:
    """Runs pairs in this order, so many at a time.

    Args:
        pairs: each is tried once.
        jobs: number of runs at a time.
        over: whether to begin nothing more and to stop what runs, with its state saved.

    Returns:
        Those that failed; not those that were stopped.
    """
    waiting, running, failed = list(pairs), {}, []
    stopping = False
    while running or (waiting and not over()):
        while waiting and len(running) < jobs and not over():
            pair = waiting.pop(0)
            running[pair] = start(pair)
            print(f"{pair.name} runs, {len(waiting)} wait", flush=True)
        time.sleep(_POLL_SECONDS)
        if over() and not stopping:
            stopping = True
            for process in running.values():
                process.terminate()
        for pair in [pair for pair, process in running.items() if process.poll() is not None]:
            if running.pop(pair).returncode and not stopping:
                failed.append(pair)
                print(f"{pair.name} failed, see its log", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 1 if a run failed, 2 without images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--factors", action="store_true", help="the factor study")
    parser.add_argument("--full", action="store_true", help="at the article's size, on a GPU")
    parser.add_argument("--seeds", type=int, help="of each (default: 6; 4 of each factor)")
    parser.add_argument("--hours", type=float, default=8, help="to run (default: 8)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    arguments = parser.parse_args(argv)
    protocol.select(arguments.full)
    if (images := protocol.SIZE.images) and not images.is_file():
        print(f"error: there is no {images}: images.py makes it.", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 3600 * arguments.hours
    seeds = arguments.seeds or (4 if arguments.factors else 6)
    pairs = missing(planned(seeds, arguments.factors))
    with Signals() as signals:
        failed = run(pairs, arguments.jobs, lambda: signals.received or time.monotonic() > deadline)
    print(f"{len(missing(pairs))} of {len(pairs)} results are still missing")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

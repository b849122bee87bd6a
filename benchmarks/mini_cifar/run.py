"""Finds a network by one method with one seed, trains it, and writes `results/METHOD_SEED.json`.

    python benchmarks/mini_cifar/run.py METHOD SEED [--full]

From the repository's root, below which images.py has put the images. A result that is there is not made
again; a run that was interrupted continues.
"""

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import protocol

import ddarts_jax as dd
from ddarts_jax import main as program
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.runs import layout
from ddarts_jax.runs.run import Run, read_run
from ddarts_jax.searching.methods import random_search
from ddarts_jax.training import compilation, train
from ddarts_jax.training.signals import Stopped

sys.path.append(str(Path(__file__).parents[1]))
import harness


def timed(task: Callable[[], object], workdir: Path) -> tuple[Run, dict]:
    """Runs a task of the program, unless it has ended.

    Args:
        task: runs it.
        workdir: in which it runs.

    Returns:
        What it left, and what it took: `seconds` of all epochs, `compile_seconds`, and `cpu_seconds`
        of everything; the last two are None after an interruption.
    """
    interrupted = workdir.exists()
    before = compilation.spent(), time.process_time()
    if not (workdir / layout.SUMMARY).is_file():
        task()
    after = compilation.spent(), time.process_time()
    compiling, cpu = (None if interrupted else round(b - a, 1) for a, b in zip(before, after))
    run = read_run(workdir)
    rows = [row for phase in ("search", "random", "train") for row in run.rows_of_all_stages(phase)]
    return run, {
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "compile_seconds": compiling,
        "cpu_seconds": cpu,
    }


def found(method: str, seed: int, dataset, place: Path) -> tuple[Genotype, dict]:
    """Returns the network that a method finds, and the numbers of its search."""
    if method in (protocol.CHANCE, protocol.POOLED):
        config = protocol.config_of(method, seed)
        _, genotype = random_search.draw(config, dataset, np.random.default_rng(seed))
        return (genotype if method == protocol.CHANCE else pooled(genotype)), {}
    workdir = place / "search"
    config = protocol.config_of(method, seed, {"task": "search"})
    run, numbers = timed(lambda: program.run(config, workdir), workdir)
    if run.candidates:
        numbers["candidates"] = [row["accuracy"] for row in run.candidates]
    else:
        last = run.search[-1]
        numbers |= {key: last[key] for key in ("supernet_accuracy", "discrete_accuracy", "decided")}
        numbers["accuracy_by_epoch"] = [round(row["accuracy"], 4) for row in run.search]
    return Genotype.load(workdir / layout.GENOTYPE), numbers


def pooled(genotype: Genotype) -> Genotype:
    """Returns the network with max pooling in place of its skip connections and average poolings."""
    replaced = ("skip_connect", "avg_pool_3x3")
    cells = (
        dict.fromkeys(("max_pool_3x3" if name in replaced else name, *edge) for name, *edge in cell)
        for cell in genotype.genes
    )
    return dataclasses.replace(genotype, genes=tuple(map(tuple, cells)))


def measured(method: str, seed: int) -> dict:
    """Searches, trains, and returns the content of the result."""
    place = protocol.SIZE.runs / f"{method}_{seed}"
    config = protocol.config_of(method, seed, {"task": "train"})
    dataset = dd.load_data(config.data)
    genotype, search = found(method, seed, dataset, place)

    def params_of(channels: int) -> int:
        config.train.channels = channels
        return train.cost(config, genotype, dataset).params

    config.train.channels = protocol.nearest_channels(params_of)
    config.genotype = repr(genotype)
    workdir = place / "train"
    run, training = timed(lambda: program.run(config, workdir), workdir)
    numbers = ("params", "macs", "test_accuracy", "test_accuracy_best_epoch")
    return {
        "method": method,
        "seed": seed,
        "protocol": protocol.fingerprint(),
        "changes": protocol.changes_of(method),
        "images": run.data["images_checksum"],
        "genotype": repr(genotype),
        "channels": config.train.channels,
        **{key: run.summary[key] for key in numbers},
        "params_off": run.summary["params"] / protocol.SIZE.params - 1,
        "search": search,
        "training": training,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("method", choices=protocol.ALL)
    parser.add_argument("seed", type=int)
    parser.add_argument("--full", action="store_true", help="at the article's size, on a GPU")
    arguments = parser.parse_args(argv)
    protocol.select(arguments.full)
    path = protocol.result_file(arguments.method, arguments.seed)
    if path.is_file():
        if not protocol.is_current(read_json(path, "Result")):
            print(f"error: {path} is of another protocol: delete it first.", file=sys.stderr)
            return 2
        print(f"{path} is there")
        return 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddarts_jax").setLevel(logging.INFO)
    try:
        # On a GPU the default is TensorFloat-32, whose products have 10 bits of mantissa, not 23.
        with jax.default_matmul_precision("highest"):
            result = measured(arguments.method, arguments.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    path.parent.mkdir(exist_ok=True, parents=True)
    write_json(path, result | harness.record() | {"load_after": round(os.getloadavg()[0], 1)})
    print(f"{path}: test accuracy {100 * result['test_accuracy']:.2f}%")
    return 0


if __name__ == "__main__":
    sys.exit(main())

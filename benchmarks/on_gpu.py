"""Measures what needs a GPU, in numbered steps of at most nine minutes each.

    python benchmarks/on_gpu.py OUTPUT                    # all steps without a result
    python benchmarks/on_gpu.py OUTPUT --steps 2,3        # some of them
    python benchmarks/on_gpu.py --list                    # the steps

Step K writes OUTPUT/K_name.json (machine, date, command, the last line that the command printed) and
K_name.log. A step that has a result is skipped, so the same command continues after an interruption, also
on another machine that sees the same OUTPUT. Searches, trainings and studies stop by themselves after
`--seconds` and continue the next time, until they have ended. XLA tunes every convolution of a program on
the GPU, which takes minutes; what it has found is kept in OUTPUT/programs/name for the next call, in case
a step is stopped while it compiles. CIFAR-10 is read from --data, a directory of tensorflow-datasets;
step 2 needs PyTorch; the steps of mini-CIFAR need its images (see images.py there) and write their
results beside it.
"""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import harness

_HERE = Path(__file__).parent
# Runs in a separate process, since one that has started JAX keeps the GPU's memory.
_ASK = """
import json, jax
from ddarts_jax.runs import facts
print(json.dumps({"backend": jax.default_backend()} | facts.versions()))
"""
_LAUNCH = """
import json, statistics, time, jax, jax.numpy as jnp
from jax import lax

def seconds(kernels):
    @jax.jit
    def run(x):
        # Each iteration is one kernel: XLA fuses nothing across iterations of a loop.
        return lax.fori_loop(0, kernels, lambda i, x: x * 1.0001 + 1.0, x)
    x = jnp.ones(1024)
    run(x).block_until_ready()
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        run(x).block_until_ready()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)

few, many = seconds(1000), seconds(11000)
print(json.dumps({"benchmark": "launch", "seconds_per_kernel": (many - few) / 10000}))
"""


class Step(NamedTuple):
    """One measurement.

    Attributes:
        name: of its files.
        what: description for the list.
        command: arguments of Python; "{output}" and "{data}" are replaced.
        workdir: of a run that may take several calls to end; empty: it is not a run of the program.
        study: whether it is many runs, which take several calls, in a folder of their own.
        devices: how many it needs at least.
    """

    name: str
    what: str
    command: tuple[str, ...]
    workdir: str = ""
    study: bool = False
    devices: int = 1


def _benchmark(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(_HERE / f"{name}.py"), *arguments)


def _run(config: str, workdir: str, *arguments: str) -> tuple[str, ...]:
    return (
        *("-m", "ddarts_jax.main", "--config", f"configs/{config}.py"),
        *("--workdir", f"{{output}}/{workdir}", *arguments),
    )


def _study(name: str, what: str, *arguments: str) -> Step:
    return Step(name, what, _benchmark("mini_cifar/run_all", *arguments), study=True)


_DATA = "--config.data.data_dir={data}"
STEPS = (
    Step("launch", "seconds from one small kernel to the next", ("-c", _LAUNCH)),
    Step(
        "pytorch",
        "the search step against PyTorch in turns, batch 128, bfloat16",
        _benchmark("pytorch_step", "--batch=128", "--dtype=bfloat16", "--repeats=10"),
    ),
    Step(
        "precision",
        "gradients in bfloat16 against float64, on the device",
        _benchmark("precision", "--batches=2"),
    ),
    Step(
        "batch_128",
        "compile and step time, memory, with and without ablation",
        _benchmark("search_step", "--batch=128", "--dtype=bfloat16", "--repeats=10", "--without"),
    ),
    Step(
        "batch_256",
        "the same at batch 256",
        _benchmark("search_step", "--batch=256", "--dtype=bfloat16", "--repeats=10"),
    ),
    Step(
        "depthwise",
        "ways to run separable convolutions",
        _benchmark("depthwise", "--repeats=3"),
    ),
    Step(
        "classifier",
        "the training step of DD-1, batch 128",
        _benchmark("training_step", "--repeats=20"),
    ),
    Step(
        "detector",
        "the training step of RetinaNet above DO-2-ResNet18, 800 x 1344, batch 8",
        _benchmark("training_step", "--program=detector", "--batch=8", "--repeats=10"),
    ),
    Step(
        "profile",
        "the most expensive scopes of a full-size search",
        _run(
            *("cifar10_search", "profile", _DATA, "--config.task=search", "--config.profile=True"),
            *(
                "--config.search.epochs=1",
                "--config.chunk_steps=20",
                "--config.search.gap_images=0",
            ),
        ),
        workdir="profile",
    ),
    Step(
        "devices",
        "an epoch of the search on all GPUs, one process",
        _run(
            *("cifar10_search", "devices", _DATA, "--config.task=search"),
            *("--config.search.epochs=2", "--config.data.batch_size=512"),
        ),
        workdir="devices",
        devices=2,
    ),
    Step(
        "search",
        "cifar10_search to its end",
        _run("cifar10_search", "search", _DATA, "--config.task=search"),
        workdir="search",
    ),
    Step(
        "train",
        "cifar10_train of what was found",
        _run("cifar10_train", "train", _DATA, "--config.genotype={output}/search/genotype.json"),
        workdir="train",
    ),
    Step("gap", "what makes the gap of that search", _benchmark("gap", "{output}/search")),
    _study("mini_cifar", "the methods of mini_cifar, 6 seeds", "--jobs=8"),
    _study("mini_factors", "its factor study, 4 seeds", "--jobs=8", "--factors"),
    *(
        Step(
            f"train_{name.lower()}",
            f"{name} of the article by its recipe, 600 epochs",
            _run("cifar10_train", f"train_{name.lower()}", _DATA, f"--config.genotype={name}"),
            workdir=f"train_{name.lower()}",
        )
        for name in ("DD-1", "DD-4")
    ),
    _study("evidence", "the methods at the article's size, 6 seeds (weeks)", "--full"),
    _study(
        *("factors", "the factor study at the article's size, 4 seeds (weeks)"),
        *("--full", "--factors"),
    ),
)


def take(number: int, step: Step, arguments, machine: dict) -> str:
    """Takes one step; returns how it ended."""
    stem = arguments.output / f"{number}_{step.name}"
    result = stem.with_suffix(".json")
    if result.exists():
        return "has a result"
    if machine["devices"] < step.devices:
        return f"needs {step.devices} devices"
    places = {"{output}": str(arguments.output), "{data}": str(arguments.data)}
    command = [sys.executable]
    for argument in step.command:
        for place, value in places.items():
            argument = argument.replace(place, value) if step.command[0] != "-c" else argument
        command.append(argument)
    programs = arguments.output / "programs" / step.name
    kept = programs.exists()
    begun = time.monotonic()
    with stem.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=_HERE.parent,
            env=os.environ
            | {"TFDS_DATA_DIR": str(arguments.data), "JAX_COMPILATION_CACHE_DIR": str(programs)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            printed, _ = process.communicate(timeout=arguments.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # a run saves its state and ends
            try:
                printed, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                printed, _ = process.communicate()
            log.write(printed)
            return f"stopped after {arguments.seconds} s" + (
                "; the same command continues" if step.workdir or step.study else ""
            )
        log.write(printed)
    if process.returncode:
        return f"failed with status {process.returncode}: see {stem.with_suffix('.log')}"
    record = {
        "step": step.name,
        "command": "python " + " ".join(command[1:] if step.command[0] != "-c" else ["-c", "..."]),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - begun, 1),
        "programs_kept": kept,  # then it compiled less than a first call does
        "machine": machine,
    }
    if step.workdir:
        record |= epochs(arguments.output / step.workdir)
    if step.workdir or step.study:
        record["printed"] = printed.splitlines()[-20:]
    else:
        # The record's description of the machine replaces the shorter one of the benchmark.
        record = json.loads(printed.splitlines()[-1]) | record
    temporary = result.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1))
    os.replace(temporary, result)
    return "done"


def epochs(workdir: Path) -> dict:
    """Reads the times of a run's epochs, without compiling, from its metrics."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "epochs": len(rows),
        "epoch_s": [round(row["seconds"], 2) for row in rows if "seconds" in row],
        "accuracy": [round(row["accuracy"], 4) for row in rows if "accuracy" in row],
    }


def main() -> int:
    """Takes the steps; returns 1 if one failed or was stopped, else 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("output", nargs="?", type=Path, help="directory of the results")
    parser.add_argument("--steps", default="", help="numbers such as 1,3 (default: all)")
    parser.add_argument("--list", action="store_true", help="print the steps")
    parser.add_argument("--data", type=Path, default=Path.home() / "tensorflow_datasets")
    parser.add_argument(
        "--seconds", type=int, default=540, help="limit per step and call (default: 540)"
    )
    parser.add_argument("--anywhere", action="store_true", help="run without a GPU too")
    arguments = parser.parse_args()
    if arguments.list or not arguments.output:
        for number, step in enumerate(STEPS, 1):
            print(f"{number} {step.name:<10} {step.what}")
        return 0
    try:
        chosen = {int(number) for number in arguments.steps.split(",") if number}
    except ValueError:
        parser.error(f"--steps is {arguments.steps!r}: give numbers such as 1,3")
    if not chosen <= set(range(1, len(STEPS) + 1)):
        parser.error(f"--steps is {arguments.steps!r}: the steps are 1 to {len(STEPS)}")
    asked = subprocess.run(
        [sys.executable, "-c", _ASK], cwd=_HERE.parent, capture_output=True, text=True
    )
    if asked.returncode:
        parser.error(f"JAX does not start: {asked.stderr.strip().splitlines()[-1]}")
    machine = json.loads(asked.stdout.splitlines()[-1])
    if machine["backend"] != "gpu" and not arguments.anywhere:
        parser.error(f"JAX runs on {machine['backend']!r} here, not on a GPU")
    arguments.output = arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    missing = False
    for number, step in enumerate(STEPS, 1):
        if chosen and number not in chosen:
            continue
        ending = take(number, step, arguments, machine)
        missing |= ending.startswith(("failed", "stopped"))
        print(f"{number} {step.name}: {ending}", flush=True)
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())

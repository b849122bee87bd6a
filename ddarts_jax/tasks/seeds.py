"""One run for several seeds, each in a process of its own, and what they found together.

A process for a seed, not a batch of seeds in one program: a run that fails or is stopped takes no
other with it, each is resumed as any run is, and those that differ in the seed alone share their
compiled programs through the persistent cache.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.runs import identity, layout, metrics
from ddarts_jax.training.signals import Stopped

_logger = logging.getLogger(__name__)

# Of a run's record: title, factor and format of a column of the table.
_COLUMNS = {
    "test_accuracy": ("test accuracy, %", 100, ".2f"),
    "params": ("parameters", 1, ",.0f"),
    "macs": ("MACs", 1, ",.0f"),
    "seconds": ("seconds of all epochs", 1, ".1f"),
}
_ASK_DEVICES = """
import jax
from ddarts_jax.ops import backend
print(backend.name(), jax.local_device_count())
"""


class _Run(NamedTuple):
    """A seed that is being run.

    Attributes:
        seed: its seed.
        process: of it.
        log: the file that has what it prints.
        device: its place among the devices.
    """

    seed: int
    process: subprocess.Popen
    log: Path
    device: int


def run(config, workdir: Path) -> dict:
    """Runs all seeds; those that are finished are skipped, those that were interrupted continue.

    Writes `seed_K/`, the workdir of each run with its output in `log.txt`, `seeds.json` and `seeds.md`.

    Args:
        config: see `config.seeds_config`.
        workdir: exists.

    Returns:
        What `seeds.json` holds: the record of each seed, and mean, sample standard deviation (null of a
        single run) and number of each measure.

    Raises:
        UserError: the config file or an override cannot be used, or some seeds failed; the others
            have finished then.
        Stopped: by a signal, which the runs got too.
    """
    commands = {seed: _command(config, workdir, seed) for seed in config.seeds}
    waiting = [seed for seed in config.seeds if not _finished(commands[seed], workdir, seed)]
    _logger.info(
        "seeds: %s for %d seeds, %d of them finished",
        *(config.run, len(commands), len(commands) - len(waiting)),
    )
    failed = _run_all(waiting, commands, workdir, config.parallel) if waiting else {}
    records = {
        seed: _record(workdir / f"seed_{seed}") for seed in config.seeds if seed not in failed
    }
    result = {
        "run": config.run,
        "overrides": list(config.overrides),
        "seeds": {str(seed): record for seed, record in records.items()},
        "table": _summarize(records),
        "failed": sorted(failed),
    }
    write_json(workdir / "seeds.json", result)
    text = _markdown(result)
    (workdir / "seeds.md").write_text(text)
    print(text)
    if failed:
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {len(commands)} runs failed ({reasons}): once this is mended the same "
            f"command with the same --workdir runs them alone."
        )
    return result


def _command(config, workdir: Path, seed: int) -> list[str]:
    """The arguments of `main` for a seed, checked."""
    arguments = [f"--config={config.run}", f"--workdir={workdir / f'seed_{seed}'}"]
    arguments += [f"--config.{override}" for override in config.overrides]
    return [*arguments, f"--config.seed={seed}"]


def _finished(command: list[str], workdir: Path, seed: int) -> bool:
    """Whether a seed has its summary, and that of this config."""
    wanted, _ = configuration.parse_flags(["main", *command])
    directory = workdir / f"seed_{seed}"
    if not (directory / layout.SUMMARY).is_file():
        return False
    found = read_json(directory / layout.CONFIG, "Configuration")
    wanted = json.loads(configuration.to_json(wanted))
    if differences := identity.differing(found, wanted):
        raise UserError(
            f"{directory} holds a run of another config (there, here): {'; '.join(differences)}. "
            "Use another --workdir."
        )
    return True


def _run_all(waiting, commands, workdir: Path, parallel: int) -> dict[int, str]:
    """Runs the seeds that wait, as many at a time as there are places; returns why which failed."""
    devices = _devices()
    places = parallel or len(devices)
    environments = [dict(devices[k % len(devices)]) for k in range(places)]
    if places > len(devices) > 0:
        for environment in environments:  # or the first on a device would take all of its memory
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    waiting, free, running, failed = list(waiting), list(range(places)), [], {}
    total, begun = len(waiting), time.monotonic()
    received, passed_on = [], 0
    with _handling(lambda number, frame: received.append(number)):
        while running or (waiting and not received):
            while waiting and free and not received:
                running.append(_start(waiting.pop(0), commands, workdir, free.pop(), environments))
            time.sleep(0.2)
            for number in received[passed_on:]:  # not in the handler: a run may be starting then
                passed_on += 1
                for run in running:
                    run.process.send_signal(number)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                free.append(run.device)
                if not (run.log.parent / layout.SUMMARY).is_file() and not received:
                    failed[run.seed] = _last_line(run.log)
                    _logger.warning("seed %d: failed: %s", run.seed, failed[run.seed])
                    continue
                done = total - len(waiting) - len(running)
                left = (time.monotonic() - begun) / done * (total - done)
                _logger.info(
                    "seed %d: ended (%d/%d, about %.0f min left)",
                    *(run.seed, done, total, left / 60),
                )
    if received:
        raise Stopped("with the state of the runs saved", received[0])
    return failed


def _start(seed: int, commands, workdir: Path, device: int, environments) -> _Run:
    log = workdir / f"seed_{seed}" / "log.txt"
    log.parent.mkdir(exist_ok=True)
    _logger.info("seed %d: runs, its output goes to %s", seed, log)
    with open(log, "a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ddarts_jax.main", *commands[seed]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environments[device],
            start_new_session=True,  # a terminal's Ctrl-C would reach it a second time
            preexec_fn=_end_with_parent,
        )
    return _Run(seed, process, log, device)


def _end_with_parent() -> None:
    """Before the program starts: a parent that is killed takes it along, where Linux can do that."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _handling(handler):
    """Answers SIGINT and SIGTERM by `handler`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _devices() -> list[dict[str, str]]:
    """For each device the variables by which a process sees it alone; on a CPU none, twice.

    Another process looks: one that has seen a GPU takes its memory. A run keeps two cores busy for
    part of its time only, least while it compiles: two runs at a time end 1.4 times as soon as one after
    the other (benchmarks/RESULTS.md).
    """
    asked = subprocess.run([sys.executable, "-c", _ASK_DEVICES], capture_output=True, text=True)
    backend, _, count = asked.stdout.strip().partition(" ")
    if backend != "gpu":
        return [{}] * min(2, os.cpu_count() or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(k) for k in range(int(count))]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


def _record(directory: Path) -> dict:
    """The measures of a finished run. Its epochs may be from several starts, so these are added up."""
    summary = read_json(directory / layout.SUMMARY, "Summary")
    record = {name: summary[name] for name in _COLUMNS if name in summary}
    rows = metrics.read(directory / layout.METRICS)
    return record | {"seconds": sum(row.get("seconds") or 0 for row in rows)}


def _summarize(records: dict[int, dict]) -> dict[str, dict]:
    table = {}
    for name in _COLUMNS:
        values = [record[name] for record in records.values() if name in record]
        if values:
            mean, spread = metrics.mean_and_spread(values)
            table[name] = {"mean": mean, "spread": spread, "n": len(values)}
    return table


def _markdown(result: dict) -> str:
    """The table: a row for each seed, then mean, spread and n."""

    def row(title, values):
        cells = []
        for name in result["table"]:
            _, factor, form = _COLUMNS[name]
            value = values.get(name)
            cells.append("-" if value is None else format(factor * value, form))
        return f"| {title} | {' | '.join(cells)} |"

    table = result["table"]
    lines = [f"| seed | {' | '.join(_COLUMNS[name][0] for name in table)} |"]
    lines += ["|---" * (1 + len(table)) + "|"]
    lines += [row(seed, record) for seed, record in result["seeds"].items()]
    lines += [row("mean", {name: entry["mean"] for name, entry in table.items()})]
    lines += [row("spread", {name: entry["spread"] for name, entry in table.items()})]
    lines += [f"| n | {' | '.join(str(entry['n']) for entry in table.values())} |"]
    title = " ".join([result["run"], *result["overrides"]])
    note = "Spread: sample standard deviation."
    return f"{title}\n\n" + "\n".join(lines) + f"\n\n{note}\n"

"""Task 'seeds': one config run for several seeds, each in its own process, and a summary of the results.

Each seed has its own process instead of being part of a batch in one program: a run that fails or is
stopped does not affect the others, each is resumed like any run, and runs that differ only in the seed
share their compiled programs through the persistent cache.
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
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json, write_text
from ddarts_jax.runs import facts, identity, layout, metrics
from ddarts_jax.runs.workdir import check_apart
from ddarts_jax.training.signals import Stopped

_logger = logging.getLogger(__name__)

# For each entry of a run's record: title, factor and format of its column in the table.
_COLUMNS = {
    "test_accuracy": ("test accuracy, %", 100, ".2f"),
    "box_ap": ("box AP, %", 100, ".2f"),
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
    """A run in progress.

    Attributes:
        seed: its seed.
        process: its process.
        log: the file with its output.
        device: its index among the devices.
    """

    seed: int
    process: subprocess.Popen
    log: Path
    device: int


def run(config, workdir: Path) -> dict:
    """Runs all seeds; those that are finished are skipped, those that were interrupted continue.

    Writes `seed_K/`, the workdir of each run with its output in `log.txt`, `seeds.json` and `seeds.md`.

    Args:
        config: see `configuration.seeds_config`.
        workdir: an existing folder.

    Returns:
        The content of `seeds.json`: the record of each seed, and mean, sample standard deviation (null
        for a single run) and number of values of each measure.

    Raises:
        UserError: the config file or an override cannot be used, the runs had different data, or some
            seeds failed; in the latter case the others have finished.
        Stopped: a signal ended the task; the runs received it too.
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
    _check_data(workdir, records)
    result = {
        "run": config.run,
        "overrides": list(config.overrides),
        "seeds": {str(seed): record for seed, record in records.items()},
        "table": _summarize(records),
        "failed": sorted(failed),
    }
    write_json(workdir / "seeds.json", result)
    text = _markdown(result)
    write_text(workdir / "seeds.md", text)
    print(text)
    if failed:
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {len(commands)} runs failed ({reasons}): once this is fixed, the same "
            f"command with the same --workdir runs only those."
        )
    return result


def _check_data(workdir: Path, seeds: Iterable[int]) -> None:
    """Refuses a mean over runs on different data, which were changed between two starts."""
    found: dict[str, list[int]] = {}
    for seed in seeds:
        own = facts.of_run(workdir / f"seed_{seed}") or {}
        keys = ("train_checksum", "test_checksum", "class_names", "train", "test")
        data = [own.get(key) for key in keys]
        found.setdefault(json.dumps(data), []).append(seed)
    if len(found) > 1:
        apart = "; ".join(f"seed {', '.join(map(str, some))}" for some in found.values())
        raise UserError(
            f"The runs in {workdir} had different data ({apart}), so they have no common mean: delete "
            "the folders of the outdated ones, or use another --workdir."
        )


def _command(config, workdir: Path, seed: int) -> list[str]:
    """The validated arguments of `main` for a seed."""
    arguments = [f"--config={config.run}", f"--workdir={workdir / f'seed_{seed}'}"]
    arguments += [f"--config.{override}" for override in config.overrides]
    return [*arguments, f"--config.seed={seed}"]


def _finished(command: list[str], workdir: Path, seed: int) -> bool:
    """Whether a seed has finished; refuses a run of another config."""
    wanted, _ = configuration.parse_flags(["main", *command])
    directory = workdir / f"seed_{seed}"
    if "data" in wanted:
        check_apart(directory, wanted.data.name)
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
    """Runs the waiting seeds, as many at a time as there are places; returns {failed seed: reason}."""
    devices = _devices()
    places = parallel or len(devices)
    environments = [dict(devices[k % len(devices)]) for k in range(places)]
    if places > len(devices) > 0:
        for environment in environments:  # else the first on a device would take all its memory
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
            start_new_session=True,  # otherwise a terminal's Ctrl-C would reach it twice
            preexec_fn=_end_with_parent,
        )
    return _Run(seed, process, log, device)


def _end_with_parent() -> None:
    """Makes this process end with its parent (on Linux); called before the program starts."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _handling(handler):
    """Handles SIGINT and SIGTERM with `handler`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _devices() -> list[dict[str, str]]:
    """For each place, the environment variables that restrict a process to its device.

    A CPU has two places without variables: a run keeps two cores busy for only part of its time, least
    of all while it compiles, and two runs at a time take 1 / 1.4 of the time of one after the other
    (benchmarks/RESULTS.md). Another process counts the GPUs, because counting them takes their memory.
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
    """The measures of a finished run; seconds are summed over epochs, which may be of several starts."""
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

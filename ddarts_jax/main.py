"""The command line: `ddarts-jax`, or `python -m ddarts_jax.main`.

It is followed by `--config NAME [--workdir DIR]` and changed values, by `configs` or by `doctor`.
"""

import logging
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from ddarts_jax import configuration
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.runs import layout
from ddarts_jax.runs.workdir import (
    DETECTION,
    PHASES,
    Clock,
    check_apart,
    check_kind,
    create,
    locked,
)

_logger = logging.getLogger("ddarts_jax")


def main(argv: list[str] | None = None) -> int:
    """Runs the task of the command line.

    Args:
        argv: the program's name and its arguments; None: those of the process.

    Returns:
        The exit status: 0 if the task is done; 2 for a mistake that the user can fix; 128 plus the
        signal's number if a signal ended the run, whose state is saved: 130 after SIGINT, 143 after
        SIGTERM. In a multi-process run, a failing process exits here and does not return.
    """
    argv = sys.argv if argv is None else argv
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    if len(argv) > 1 and not argv[1].startswith("-"):
        return _command(argv[1:])
    _logger.setLevel(logging.INFO)
    # Flags are checked before the first import of jax, which takes seconds.
    try:
        group, argv = processes.parse_flags(argv)
        config, workdir = configuration.parse_flags(argv)
        processes.start(group)
    except UserError as error:
        return _fail(error)
    from ddarts_jax.training.signals import Stopped

    failure = ""
    try:
        if processes.is_main():
            run(config, workdir)
        else:
            _logger.setLevel(logging.WARNING)
            with processes.scratch() as scratch:
                run(config, scratch)
        status = 0
    except UserError as error:
        status, failure = _fail(error), str(error)
    except OSError as error:
        # An error of reading or writing, unlike one of opening, does not say where.
        told = f"{error.filename or workdir}: {error.strerror or error}"
        status, failure = _fail(told), str(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        status = 128 + stopped.signal  # as in a shell; not 0, because the work is not done
    except KeyboardInterrupt:
        print("Interrupted: the same command with the same --workdir continues.", file=sys.stderr)
        status, failure = 128 + signal.SIGINT, "interrupted"
    except Exception as error:
        if processes.count() == 1:
            raise
        processes.wait_for_verdict()
        traceback.print_exc()
        status, failure = 1, repr(error)
    processes.leave(status, bool(failure))
    return status


def _command(words: list[str]) -> int:
    """Runs a command that needs no config; returns the exit status."""
    match words:
        case ["configs"]:
            headlines = configuration.headlines()
            width = max(map(len, headlines))
            print("\n".join(f"{name:{width}}  {line}" for name, line in headlines.items()))
            return 0
        case ["doctor"]:
            from ddarts_jax import doctor

            return doctor.run()
    return _fail(
        f"There is no command {' '.join(words)!r}: the commands are 'configs' and 'doctor', each alone; "
        "a run begins with --config=NAME."
    )


def run(config, workdir: str | Path) -> dict:
    """Runs `config.task` in `workdir`.

    Args:
        config: validated, from `configuration.parse_flags`.
        workdir: created if needed; an interrupted run in it continues. In a multi-process run, all
            processes but the first use a scratch directory instead.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the user can fix the problem; also if another process uses the workdir.
    """
    if processes.count() > 1 and config.task not in PHASES:
        raise UserError(f"Task {config.task!r} runs in one process; start it alone.")
    if config.task == "export":  # it writes elsewhere
        return _run_task(config, Path(workdir))
    if "data" in config:
        check_apart(workdir, config.data.name)
    workdir = create(workdir)
    with locked(workdir):
        if config.task not in PHASES + DETECTION and (workdir / layout.METRICS).is_file():
            raise UserError(
                f"{workdir} holds a run, whose files task {config.task!r} would replace: name another "
                "--workdir."
            )
        check_kind(config.task, workdir)
        return _run_task(config, workdir)


def _run_task(config, workdir: Path) -> dict:
    """Runs the task; see `run`, which keeps other processes out of the workdir."""
    clock = Clock(workdir, counts=config.task not in ("evaluate", "detect_evaluate"))
    if config.task in ("seeds", "sweep"):
        from ddarts_jax.tasks import seeds, sweep

        task = seeds if config.task == "seeds" else sweep
        return task.run(config, workdir)  # before any device is used, because its runs need them
    import jax

    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    from ddarts_jax.api import load_data
    from ddarts_jax.ops import backend
    from ddarts_jax.reports import comparison
    from ddarts_jax.runs import facts
    from ddarts_jax.tasks import (
        detection,
        evaluation,
        export,
        importing,
        latency,
        pipeline,
        scoring,
    )
    from ddarts_jax.tasks import distances as compare
    from ddarts_jax.training import compilation

    compilation.keep_programs()
    if config.task == "distance":
        return compare.run(config, workdir)
    if config.task == "compare":
        return comparison.run(config, workdir)
    devices = processes.devices()
    if config.task == "export":
        with tempfile.TemporaryDirectory() as scratch:
            return export.run(config, Path(scratch))
    if config.task == "import":
        return importing.run(config, workdir)

    dtype = backend.compute_dtype(config.dtype)
    _logger.info(
        "%s on %d x %s, %s, in %s",
        *(config.task, len(devices), devices[0].device_kind, dtype, workdir),
    )
    if config.task == "latency":
        return latency.run(config, workdir, dtype)
    if config.task == "detect":
        return detection.run(config, workdir, dtype, clock)
    if config.task == "detect_evaluate":
        return detection.evaluate(config, workdir, dtype)
    data = config.data
    if config.task == "evaluate":
        own = processes.from_main(lambda: evaluation.own_facts(config, workdir))
        data = facts.settle(data, own)
    dataset = load_data(data)
    _logger.info(
        "%s: %d training and %d test images of %dx%dx%d, %d classes",
        *(dataset.name, dataset.num_train, dataset.num_test),
        *(*dataset.image_shape, dataset.num_classes),
    )
    if config.task == "score_operations":
        return scoring.run(config, dataset, workdir, dtype)
    task = evaluation if config.task == "evaluate" else pipeline
    return task.run(config, dataset, workdir, dtype, clock)


def _fail(error: Exception | str) -> int:
    # A name may hold any character, a new line too.
    print("error:", " ".join(str(error).split("\n")), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

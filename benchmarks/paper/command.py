"""The command line of the paper's experiments."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import common
from common import Findings, Groups, Setting

from ddarts_jax.errors import UserError
from ddarts_jax.training.signals import Stopped


def parser(title: str) -> argparse.ArgumentParser:
    """Makes an experiment's parser with the option that all have."""
    made = argparse.ArgumentParser(description=title, allow_abbrev=False)
    made.add_argument("--full", action="store_true", help="the paper's size, for a GPU")
    return made


def repeating(script: str, arguments: argparse.Namespace) -> str:
    """Returns the command that repeats an experiment."""
    seeds = f" --seeds {arguments.seeds}" if "seeds" in arguments else ""
    return f"python benchmarks/paper/{Path(script).stem}.py{' --full' * arguments.full}{seeds}"


def experiment(
    script: str,
    doc: str,
    settings: Callable[[bool], dict[str, Setting]],
    conclude: Callable[[Groups], Findings],
    argv: list[str] | None = None,
) -> int:
    """Runs an experiment as the command line says, and writes its results.

    Args:
        script: path of the experiment's file, after which the results are called.
        doc: its docstring, whose first line is the title.
        settings: `(full) -> {label: setting}`.
        conclude: makes the findings of {label: runs, one per seed}.
        argv: arguments; None: those of the process.

    Returns:
        The exit status: 0; 2 for errors that the user can fix; 130 after an interrupt, when the same
        command continues.
    """
    title = doc.splitlines()[0]
    options = parser(title)
    options.add_argument("--seeds", type=int, default=3, help="runs of each setting (default: 3)")
    options.add_argument(
        "--runs", type=Path, default="runs/paper", help="folder of the runs (default: runs/paper)"
    )
    arguments = options.parse_args(argv)
    if arguments.seeds < 1:
        options.error("--seeds must be 1 or more")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddarts_jax").setLevel(logging.INFO)
    try:
        groups = {
            label: common.run_seeds(setting, arguments.runs, arguments.seeds)
            for label, setting in settings(arguments.full).items()
        }
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    name = Path(script).stem + "_full" * arguments.full
    common.write(name, title, repeating(script, arguments), common.RULE, conclude(groups))
    return 0

"""Config files, and the flags that change their values."""

import argparse
import ast
import difflib
import logging
import os
import re
import runpy
import secrets
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddarts_jax.configuration.checks import validate
from ddarts_jax.configuration.former import up_to_date
from ddarts_jax.configuration.keys import FORMER_NAMES, TASKS
from ddarts_jax.configuration.values import flatten
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json


class _MappingParser(flags.ArgumentParser):
    """Reads a mapping as Python writes it, which `config_flags` leaves to its users."""

    def parse(self, argument):
        try:
            value = ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError("it must be a mapping such as {'train.channels': (8, 16)}")
        return value


config_flags.register_flag_parser_for_type(dict, _MappingParser())


def based_on(file: str, name: str) -> ConfigDict:
    """Returns the configuration of the file `name` in the folder of the config file `file`."""
    return runpy.run_path(str(Path(file).with_name(name)))["get_config"]()


def parse_flags(argv: Sequence[str]) -> tuple[ConfigDict, str]:
    """Reads the command line.

    Args:
      argv: the program's name and its arguments: `--config FILE`, `--workdir DIR`, and any number
        of overrides `--config.key=value` (a tuple as `'(1, 2)'`).

    Returns:
      The validated, locked configuration and the workdir.

    Raises:
      UserError: the config file cannot be used, a key does not exist (the message names the nearest
        one), or a value has the wrong type or range.
    """
    parser = argparse.ArgumentParser(
        prog="ddarts-jax" if Path(argv[0]).name == "ddarts-jax" else "python -m ddarts_jax.main",
        description="D-DARTS: searches, trains and evaluates a network.",
        epilog="To change any value of the config, use --config.key=value. Instead of flags: 'configs' "
        "lists the configs that come with the package, 'doctor' checks the installation.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config that comes with the package, by its name; a file like these; or the config.json "
        "of a run",
    )
    parser.add_argument(
        "--workdir",
        default="",
        metavar="DIR",
        help="folder for all results; an interrupted run in it is continued "
        "(default: runs/<config name>-<time>)",
    )
    arguments, overrides = parser.parse_known_args(list(argv[1:]))
    config = _load(arguments.config)
    overrides = [_renamed(argument) for argument in overrides]
    _check_keys(config, overrides)
    flag_values = flags.FlagValues()
    argv = [argv[0], *overrides]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=flag_values, sys_argv=argv, lock_config=True
        )
        surplus = flag_values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(f"{error}") from error
    if surplus:
        raise UserError(f"Unknown argument {surplus[0]!r}; overrides are --config.key=value.")
    _expand(config)
    validate(config)
    # The random end tells apart two that start in the same second.
    name = f"{Path(arguments.config).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    workdir = os.path.expanduser(arguments.workdir or f"runs/{name}")
    if not _is_unicode(os.path.abspath(workdir)):
        raise UserError(
            f"The name of the workdir {workdir!r} is not Unicode, so the run's files could not mention "
            "it: use another --workdir."
        )
    return config, workdir


def load(name: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Loads a config and changes some of its values.

    Args:
      name: the name of a config that comes with the package, or a path.
      overrides: {dotted key: value}; `search.space` may be a tuple of names of primitives.

    Returns:
      The validated, locked configuration.

    Raises:
      UserError: the config file cannot be used, a key does not exist (the message names the nearest
        one), or a value has the wrong type or range.
    """
    config = _load(name)
    for key, value in (overrides or {}).items():
        key = FORMER_NAMES.get(key, key)
        _check_keys(config, [f"--config.{key}"])
        if key == "search.space" and not isinstance(value, str):
            value = ",".join(value)
        _assign(config, key, value, "config.")
    _expand(config)
    validate(config)
    return config.lock()


def _assign(config: ConfigDict, key: str, value: Any, where: str) -> None:
    """Sets a key that exists; UserError, which begins with `where`, if the value is of another type."""
    try:
        config.update_from_flattened_dict({key: value})
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}{key} is {value!r}; it must be of the type of its default, "
            f"{flatten(config)[key]!r}."
        ) from error


def _expand(config: ConfigDict) -> None:
    """Replaces ~ and ~user by the home folder, wherever a path may begin in a value.

    Raises:
      UserError: a value is not Unicode.
    """

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(expanded, value))
        if isinstance(value, dict):
            return {key: expanded(own) for key, own in value.items()}
        if not isinstance(value, str):
            return value
        # A path alone, after a kind (folder:~/x), in a list (a,~/b), in an override (weights=~/x).
        return re.sub(r"(^|[:,=])(~[^/,]*)", lambda m: m[1] + os.path.expanduser(m[2]), value)

    for key, value in flatten(config).items():
        if isinstance(value, str) and not _is_unicode(value):
            raise UserError(
                f"config.{key} is {value!r}, which is not Unicode: rename the file or folder."
            )
        if (new := expanded(value)) != value:
            config.update_from_flattened_dict({key: new})


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file; names of files may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shipped() -> dict[str, Path]:
    """Returns the configs that come with the package, by name."""
    package = Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")  # installed, or in the repository
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def headlines() -> dict[str, str]:
    """Returns the first line of each of the configs that come with the package, by its name."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in shipped().items()}
    return {name: ast.get_docstring(ast.parse(text)).split("\n")[0] for name, text in texts.items()}


def nearest_key(config: ConfigDict, key: str) -> str:
    """Returns the dotted key of `config` (value or group) that is most similar to `key`."""

    def likeness(candidate: str) -> float:
        # The last part counts twice: 'serach.epochs' is about epochs, and so is a bare 'epochs'.
        last, wanted = candidate.rpartition(".")[2], key.rpartition(".")[2]
        return _ratio(candidate, key) + _ratio(last, wanted)

    return max(_all_keys(config), key=likeness)


def _load(name: str | os.PathLike) -> ConfigDict:
    """Runs a config file, given by its path or a name in `shipped`, and returns its config."""
    path = os.path.expanduser(name)
    if not Path(path).is_file():
        if path not in shipped():
            raise UserError(
                f"No config file {path!r}; the configs that come with the package are "
                f"{', '.join(shipped())}."
            )
        path = str(shipped()[path])
    if Path(path).suffix == ".json":
        return _of_run(Path(path))
    try:
        config = runpy.run_path(path).get("get_config", lambda: None)()
    except Exception as error:
        raise UserError(_config_file_error(path, error)) from error
    task = config.get("task") if isinstance(config, ConfigDict) else None
    if task not in TASKS or not set(flatten(TASKS[task]())) <= set(flatten(config)):
        raise UserError(
            f"Config file {path!r} must define get_config() that returns default_config(), or "
            "the config of another task as in configs/, with some values changed."
        )
    return config


def _of_run(path: Path) -> ConfigDict:
    """Reads the `config.json` of a run, perhaps of an older version: for a new run like it."""
    values = read_json(path, "Config file")
    task = values.get("task") if isinstance(values, dict) else None
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(
            f"Config file {path} is not the config.json of a run: its task is {task!r}."
        )
    config = TASKS[task]().unlock()
    known = flatten(config)
    for key, value in up_to_date(values).items():
        if key not in known:
            raise UserError(
                f"Config file {path} has a key {key!r}, which this version does not know (did you mean "
                f"{nearest_key(config, key)!r}?): remove it."
            )
        value = tuple(value) if isinstance(value, list) else value
        _assign(config, key, value, f"Config file {path}: ")
    return config.lock()


def _config_file_error(path: str, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), "?")
    if isinstance(error, AttributeError | KeyError) and error.args:
        # ml_collections appends advice on further lines.
        error = type(error)(str(error.args[0]).splitlines()[0])
    if isinstance(error, ModuleNotFoundError) and error.name == "ddarts_jax.config":
        return (
            f"Config file {path!r} fails on line {line}: ddarts_jax.config is now the package itself: "
            f"import ddarts_jax as dd, dd.default_config()."
        )
    message = f"Config file {path!r} fails on line {line}: {type(error).__name__}: {error}"
    for former, name in FORMER_NAMES.items():
        if isinstance(error, AttributeError | KeyError) and former.split(".")[1] in str(error):
            return f"{message} (config.{former} is now config.{name})"
    return message


def _renamed(argument: str) -> str:
    """Returns an override with the present name of its key."""
    flag, equals, value = argument.partition("=")
    key = flag.removeprefix("--config.")
    if key == flag or key not in FORMER_NAMES:
        return argument
    logging.warning("config.%s is now config.%s", key, FORMER_NAMES[key])
    return f"--config.{FORMER_NAMES[key]}{equals}{value}"


def _check_keys(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Raises UserError unless every flag among `overrides` names a value of the config."""
    for argument in overrides:
        if not argument.startswith("-") or _is_number(argument):
            continue  # the value of the preceding flag
        key = argument.partition("=")[0].lstrip("-")
        if not key.startswith("config."):
            raise UserError(f"Unknown flag --{key}; overrides are --config.key=value.")
        key = key.removeprefix("config.")
        if key not in _all_keys(config):
            nearest = nearest_key(config, key)
            raise UserError(f"No key {key!r} in the config; did you mean {nearest!r}?")
        if key not in flatten(config):
            names = ", ".join(k for k in flatten(config) if k.startswith(f"{key}."))
            raise UserError(f"config.{key} is a group of keys; name one of {names}.")


def _all_keys(config: ConfigDict) -> list[str]:
    """Returns the dotted keys of all values and of all groups."""
    keys = list(flatten(config))
    groups = {key[:i] for key in keys for i in range(len(key)) if key[i] == "."}
    return [*keys, *sorted(groups)]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

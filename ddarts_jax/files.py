"""Files: JSON read with a one-sentence error, and atomic writing of any kind."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddarts_jax.errors import UserError


def read_json(path: Path, kind: str) -> Any:
    """Reads a JSON file that a user names.

    Args:
        path: the file.
        kind: kind of file, which begins the messages, such as "Score file".

    Raises:
        UserError: when it is missing, unreadable or not JSON.
    """
    # Reading a device or a pipe could block for ever.
    if not os.path.isfile(path):
        raise UserError(f"{kind} {path} does not exist or is not a regular file.")
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{kind} {path} is not valid JSON: {error}.") from error


def digest(text: str) -> str:
    """Returns a short hash of a text, which tells names of files apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_entry(path: Path, key: str, kind: str) -> Any:
    """Returns an entry of a JSON object in a file; None where there is no file, object or entry.

    Raises:
        UserError: see `read_json`.
    """
    found = read_json(path, kind) if path.is_file() else None
    return found.get(key) if isinstance(found, dict) else None


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once the block has ended.

    So the file is never seen half-written; if the block fails, nothing of it is left.

    Raises:
        UserError: the file cannot be written; the message names it and the reason.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise _unwritable(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def append_line(path: Path, line: str) -> None:
    """Appends a line of UTF-8 to a file.

    A process that is killed, or a disk that is full, may leave half of it: whoever reads the file drops a
    last line without an end.

    Raises:
        UserError: the file cannot be written; the message names it and the reason.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}): make room or mend the cause, then "
        "start the same command again."
    )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes text as UTF-8; see `writing`."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; see `writing`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`; see `writing`."""
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)

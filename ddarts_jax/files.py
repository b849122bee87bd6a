"""JSON files: reading with a one-sentence error, and atomic writing."""

import json
import os
from pathlib import Path
from typing import Any

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


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; the file is never seen half-written."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)

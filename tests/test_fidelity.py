"""docs/fidelity.md: what it names is there."""

import ast
import re

import tiny

TEXT = (tiny.ROOT / "docs" / "fidelity.md").read_text()


def test_every_test_that_is_named_exists():
    """A renamed test leaves no claim without the test that holds it."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 50
    for file, test in named:
        tree = ast.parse((tiny.ROOT / "tests" / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_file_that_is_named_exists():
    """Code of the package, configs and folders of the repository."""
    named = re.findall(r"`([\w]+/[\w/]+(?:\.py)?)`", TEXT)
    assert len(named) > 30
    for path in named:
        places = (tiny.ROOT / "ddarts_jax" / path, tiny.ROOT / path)
        assert any(place.exists() for place in places) or path.startswith("authors/"), path


def test_every_row_is_whole():
    """Four columns, the last of which names a test, or says that there is none."""
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    for row in rows:
        cells = re.split(r"(?<!\\)\|", row)[1:-1]
        assert len(cells) == 4, row
        assert "::" in cells[3] or cells[3].strip() in ("test", "---", "none"), row

"""The rules of the house: which folder may import which, and what stands in one place alone."""

import ast
import re
from pathlib import Path

import pytest

import ddarts_jax
from ddarts_jax.runs import layout

PACKAGE = Path(ddarts_jax.__file__).parent

# From the ground up: a module imports from its own floor's folder and from floors below.
FLOORS = (
    {"errors", "__version__"},
    {"files"},
    {"genotypes", "distributed", "ops"},
    {"configuration"},
    {"models", "data", "runs"},
    {"training"},
    {"searching", "detection"},
    {"reports", "predict"},
    {"tasks"},
    {"api"},
    {"doctor"},
    {"main"},
)
BESIDE = {("ops", "distributed")}  # folders of one floor that may see each other
# What only one module may import or call.
ALONE = {"orbax": "training/checkpoint.py", "grain": "data/stream.py"}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports(path: Path):
    """(line, dotted module) of everything that a module imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names] if node.module == "ddarts_jax" else [""]
            yield from ((node.lineno, f"{node.module}.{name}".rstrip(".")) for name in names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    """A newcomer reads the folders from the bottom up; a circle would make that impossible."""
    floor = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    here = room(path)
    for line, module in imports(path):
        package, _, rest = module.partition(".")
        if package != "ddarts_jax":
            continue
        there = rest.partition(".")[0]
        allowed = there == here or floor[there] < floor[here] or (here, there) in BESIDE
        assert allowed, f"{path}:{line} imports {module}, which is not below {here}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_one_module_does_alone(path):
    """Checkpoints know Orbax, streams grain, tables Markdown; genotypes are read without JAX."""
    where = str(path.relative_to(PACKAGE))
    assert where == "reports/markdown.py" or not re.search(r'["|] *---', path.read_text())
    for line, module in imports(path):
        package = module.partition(".")[0]
        assert ALONE.get(package, where) == where, f"{path}:{line} imports {module}"
        if where.startswith(("genotypes/", "configuration/")) or where == "errors.py":
            assert package not in ("jax", "flax", "optax"), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_readable(path):
    """A module has at most 450 lines, a function 80 with its docstring; a table may be longer."""
    text = path.read_text()
    assert len(text.splitlines()) <= 450 or path.name == "table.py"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, (
                f"{path}:{node.lineno} {node.name} is too long"
            )


def test_files_of_a_workdir_have_one_name():
    """runs/layout.py names them; an exported folder has a layout of its own."""
    names = {value for key, value in vars(layout).items() if key.isupper()}
    for path in modules():
        where = path.relative_to(PACKAGE)
        if str(where) == "runs/layout.py" or where.parts[:2] == ("tasks", "export"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in names), (path, node.lineno)


def test_modules_of_tests_have_different_names():
    """Imported by their bare name: of two alike pytest can collect only one."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert {name for name in names if names.count(name) > 1} <= {"conftest.py"}

"""The pages of the reference that are made from the code, as Markdown; conf.py puts them into the site.

What a key or a file means is said once, by the comment on the line that defines it. A comment above the
line belongs to it too. Only the tables are made here, so that a test can do so without Sphinx.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import ddarts_jax
from ddarts_jax import configuration
from ddarts_jax.configuration import keys
from ddarts_jax.reports import markdown
from ddarts_jax.runs import layout

_CONFIGURATION = Path(configuration.__file__).parent

# The configs by their keys, each with a task that has them.
CONFIGS = {
    "Search, training, evaluation": "pipeline",
    "Detection": "detect",
    "Distances between networks": "distance",
    "Comparison of runs": "compare",
    "Several seeds": "seeds",
    "Sweeps": "sweep",
    "Export": "export",
    "Import": "import",
    "Operation scores": "score_operations",
    "Latency of primitives": "latency",
}


# The public names by the folder of the package, or the module, that defines them.
API = {
    "api": "Search, training, evaluation",
    "configuration": "Configs",
    "data": "Images",
    "errors": "Errors",
    "genotypes": "Architectures",
    "models": "Networks",
    "reports": "Pictures",
    "runs": "Callbacks",
    "searching": "Search methods",
    "training": "Trained networks",
}


class Commented:
    """A module's syntax tree, and what its comments say of its lines."""

    def __init__(self, path: Path):
        source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(source)
        self._beside, self._above = {}, {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                alone = token.line.lstrip().startswith("#")
                place = self._above if alone else self._beside
                place[token.start[0]] = token.string.lstrip("#: ")

    def of(self, line: int) -> str:
        """Returns the comment above a line and beside it, as one text; empty if there is none."""
        first = line
        while first - 1 in self._above:
            first -= 1
        above = [self._above[number] for number in range(first, line)]
        return " ".join([*above, *filter(None, [self._beside.get(line)])])


def meanings(task: str) -> dict[str, str]:
    """Returns {dotted key: what it means} of every key of a task's config that has a comment."""
    name = "detection" if task == "detect" else "keys"
    module = Commented(_CONFIGURATION / f"{name}.py")
    return dict(_assigned(module, keys.TASKS[task].__name__))


def _assigned(module: Commented, function: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted key, comment) of what a function assigns, and the functions that it calls."""
    functions = {f.name: f for f in module.tree.body if isinstance(f, ast.FunctionDef)}
    for node in functions[function].body:
        if isinstance(node, ast.For) and ast.unparse(node.iter) == "METHODS.items()":
            yield from _of_methods(module)
        if not isinstance(node, ast.Assign):
            continue
        key = prefix + ast.unparse(node.targets[0]).partition(".")[2]
        calls = [call.func for call in ast.walk(node.value) if isinstance(call, ast.Call)]
        for called in (call.id for call in calls if isinstance(call, ast.Name)):
            if called in functions:
                yield from _assigned(module, called, f"{key}." if key else "")
        if comment := module.of(node.lineno):
            yield key, comment


def _of_methods(module: Commented) -> Iterator[tuple[str, str]]:
    """Yields (dotted key, comment) of the search methods' options."""
    literals = {}
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            literals[target.id] = node.value

    def walk(literal: ast.Dict, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in zip(literal.keys, literal.values):
            if key is None:  # **_STAGES
                yield from walk(literals[value.id], prefix)
            elif isinstance(value, ast.Dict):
                yield from walk(value, f"{prefix}{key.value}.")
            else:
                yield f"{prefix}{key.value}", module.of(key.lineno)

    first = {}  # explains the option of this name in other methods too, but for those with a comment
    for dotted, comment in walk(literals["METHODS"], ""):
        explained = first.setdefault(dotted.partition(".")[2], comment)
        yield f"search.{dotted}", comment or explained


def config_keys() -> str:
    """Returns all keys of all configs, a table for each group."""
    parts = []
    for title, task in CONFIGS.items():
        said, defaults = meanings(task), configuration.flatten(keys.TASKS[task]())
        groups = {}
        for key in sorted(defaults, key=list(said).index):  # as they stand in the code
            groups.setdefault(key.rpartition(".")[0], []).append(key)
        parts.append(f"## {title}\n")
        for group, members in groups.items():
            if group:
                parts.append(f"### `{group}`\n\n{_sentence(said.get(group, ''))}\n")
            rows = [(f"`{key}`", f"`{defaults[key]!r}`", _cell(said[key])) for key in members]
            parts.append(_table(("key", "default", "meaning"), rows))
    return "\n".join(parts)


def configs() -> str:
    """Returns the configs that come with the package, with their first lines."""
    rows = [(f"`{name}`", _cell(line)) for name, line in configuration.headlines().items()]
    return _table(("config", "what it is"), rows)


def workdir_files() -> str:
    """Returns the files of runs/layout.py."""
    module = Commented(Path(layout.__file__))
    rows = [
        (f"`{node.value.value.replace('{}', 'NAME')}`", _cell(module.of(node.lineno)))
        for node in module.tree.body
        if isinstance(node, ast.Assign)
    ]
    return _table(("file", "content"), rows)


def public_names() -> dict[str, str]:
    """Returns {name of the public API: module that defines it}, in the order of `__init__.pyi`."""
    stub = ast.parse(Path(ddarts_jax.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {node.names[0].name: f"ddarts_jax.{node.module}" for node in imports}


def public_api() -> str:
    """Returns directives that document the public names from their docstrings."""
    parts, last = [], ""
    for name, module in public_names().items():
        if (title := API[module.split(".")[1]]) != last:
            parts.append(f"## {title}\n")
            last = title
        value = getattr(ddarts_jax, name)
        path = f"ddarts_jax.{name}"
        if isinstance(value, type):
            fields = ", ".join(getattr(value, "_fields", ()))  # described with the class
            hidden = f"\n   :exclude-members: {fields}" if fields else ""
            directive = f".. autoclass:: {path}\n   :members:{hidden}"
        elif callable(value):
            directive = f".. autofunction:: {path}"
        else:
            directive = f".. py:data:: {path}\n\n   {_comment_on(name, module)}"
        parts.append(f"```{{eval-rst}}\n{directive}\n```\n")
    return "\n".join(parts)


def _comment_on(name: str, module: str) -> str:
    """Returns the comment on the line that defines a constant."""
    commented = Commented(Path(ddarts_jax.__file__).parents[1] / f"{module.replace('.', '/')}.py")
    (line,) = (
        node.lineno
        for node in commented.tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == name
    )
    return commented.of(line)


def _sentence(text: str) -> str:
    """Returns a comment as a sentence; names such as w_01 stay as they are."""
    if text.partition(" ")[0].strip(",:;").isalpha():
        text = text[0].upper() + text[1:]
    return text if not text or text.endswith(".") else f"{text}."


def _cell(text: str) -> str:
    """Returns a comment as it can stand in a table of Markdown."""
    return re.sub(r"([*<])", r"\\\1", _sentence(text))


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return f"{markdown.table(header, rows)}\n"

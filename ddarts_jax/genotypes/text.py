"""Genotypes as text, which is parsed and never evaluated.

Read are the text of D-DARTS's authors, `Genotype_nested(genes=..., concat=..., reductions=...)`; that of
the DARTS family, `Genotype(normal=..., normal_concat=..., reduce=..., reduce_concat=...)`; and ours as
Python prints it, `Genotype(genes=..., reductions=..., concat=..., seq=...)`.
"""

import ast
import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import two_cells
from ddarts_jax.genotypes.genotype import Genotype

MAX_TEXT = 1_000_000  # characters, some times the log of a whole search

# What hostile text raises: it exhausts the parser's stack, or has numbers too long to be printed.
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

_BEGIN = re.compile(r"\bGenotype\w*\s*\(")
_BRACKET = re.compile(_BEGIN.pattern + r"|[()\[\]{}]")
# What precedes a genotype that has a name: `NAME = `, `"NAME": "`.
_NAME = re.compile(r"([\w.-]+)['\"]?\s*[=:]\s*['\"]?$")


def parse_genotype(text: str, name: str = "") -> Genotype:
    """Reads a genotype from text: one by itself, or in a Python module, a log, or any text around it.

    Values are literals or `range(...)`. The network of D-DARTS's authors concatenates all existing
    nodes whatever `concat` says, so their text gives a genotype that does. Entries of a node keep
    their order, because the authors' weights are named by it. Two cells of the DARTS family become a
    network of 8 (`two_cells.combine`).

    Args:
        text: what to read.
        name: which genotype of several: the variable or key to which the text assigns it, the last one
            of that name; empty: the only one there is.

    Raises:
        UserError: when the text contains no genotype, several and no name, or one that is not valid.
    """
    if len(text) > MAX_TEXT:
        raise UserError(
            f"Text with a genotype has at most {MAX_TEXT} characters, this has more: give the part of it "
            f"that is the genotype."
        )
    try:
        return _genotype(_choose(_in_module(text) or _in_any_text(text), name))
    except _Choice as error:
        raise UserError(f"{error}") from error
    except UserError as error:
        raise UserError(f"The genotype in this text is not valid: {error}") from error
    except _UNREADABLE as error:
        raise UserError(
            f"Not a genotype text, such as Genotype(normal=[(primitive, source), ...], "
            f"normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6)) or "
            f"Genotype_nested(genes=[[(primitive, node, source), ...], ...], concat=range(2, 6), "
            f"reductions=[2, 5]): {str(error)[:200] or 'nested too deeply.'}"
        ) from error


def is_text(name: str) -> bool:
    """Whether `name` contains a genotype, rather than being the name or the path of one."""
    return bool(_BEGIN.search(name))


class _Choice(UserError):
    """It is not clear which genotype of a text is meant."""


def _choose(found: list[tuple[str, ast.Call]], name: str) -> ast.Call:
    if not found:
        raise ValueError("there is no complete Genotype(...) in it")
    named = {key: call for key, call in found if key}
    if name:
        if name not in named:
            raise _Choice(f"There is no genotype {name:.60} in this text, but {_listed(named)}.")
        return named[name]
    different = len({ast.dump(call) for _, call in found})
    if different > 1:
        raise _Choice(
            f"This text contains {different} different genotypes, {_listed(named)}: give the name of "
            f"one after its file, as in genotypes.py#NAME, or the text of one alone."
        )
    return found[0][1]


def _listed(named: dict) -> str:
    names = [f"{name:.40}" for name in named]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "none of which has a name"


def _in_module(text: str) -> list[tuple[str, ast.Call]]:
    """The genotypes of a Python module, each with its name; none if the text is not Python."""
    found, named = [], {}
    with contextlib.suppress(*_UNREADABLE):
        for name, value in _assigned(_parsed(text.lstrip("\ufeff"), "exec")):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                with contextlib.suppress(*_UNREADABLE):  # a genotype in quotes, or any other string
                    value = _parsed(value.value, "eval").body
            if isinstance(value, ast.Name):  # another name of a genotype above
                value = named.get(value.id)
            if _is_genotype(value):
                found.append((name, value))
                named[name] = value
    return found


def _parsed(text: str, mode: str) -> ast.Module | ast.Expression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubtful Python, which is not run
        return ast.parse(text.strip(), mode=mode)


def _assigned(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Every value of the module's top level with the variable or key that has it, or ""."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets, value):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(ast.Name(name), value=ast.expr() as value):
                names = [name]
            case ast.Expr(value):
                names = [""]
            case _:
                continue
        if isinstance(value, ast.Dict):
            for key, item in zip(value.keys, value.values):
                if isinstance(key, ast.Constant):
                    yield str(key.value), item
        else:
            yield from ((name, value) for name in names)


def _is_genotype(value: ast.expr | None) -> bool:
    match value:
        case ast.Call(ast.Name(name)) | ast.Call(ast.Attribute(attr=name)):
            return name.startswith("Genotype")
    return False


def _in_any_text(text: str) -> list[tuple[str, ast.Call]]:
    """The genotypes between the lines of a log or the like, found by their brackets."""
    opened, spans = [], []
    for bracket in _BRACKET.finditer(text):
        if bracket.group() not in (")", "]", "}"):
            opened.append(bracket)
        elif opened and (begin := opened.pop()).group().startswith("Genotype"):
            while spans and spans[-1][0] > begin.start():  # it is an argument of this one
                spans.pop()
            spans.append((begin.start(), bracket.end()))
    found = []
    for start, end in spans:
        with contextlib.suppress(*_UNREADABLE):
            call = _parsed(text[start:end], "eval").body
            name = _NAME.search(text[max(0, start - 80) : start])
            if _is_genotype(call):
                found.append((name.group(1) if name else "", call))
    return found


_TWO_CELLS = {"normal", "normal_concat", "reduce", "reduce_concat"}


def _genotype(call: ast.Call) -> Genotype:
    """What the call `Genotype...(...)` says."""
    fields = {keyword.arg: _value(keyword.value) for keyword in call.keywords}
    if call.args or None in fields:
        raise ValueError("its arguments must be named")
    if set(fields) >= _TWO_CELLS:
        # Later programs have more fields, which are empty where they mean nothing.
        more = [name for name, value in fields.items() if value and name not in _TWO_CELLS]
        if more:
            raise ValueError(f"its argument {more[0]:.40} is unknown")
        return two_cells.combine(**{name: fields[name] for name in _TWO_CELLS})
    if set(fields) - {"seq"} != {"genes", "concat", "reductions"}:
        raise ValueError(
            "its arguments must be normal, normal_concat, reduce and reduce_concat, or genes, concat, "
            "reductions and, if need be, seq"
        )
    genotype = Genotype(**fields)
    if isinstance(call.func, ast.Name) and call.func.id == "Genotype":  # ours
        return genotype
    return dataclasses.replace(genotype, concat=range(2, genotype.num_nodes + 2))


def _value(node: ast.expr):
    match node:
        case ast.Call(ast.Name("list" | "tuple"), [inner], []):
            return _value(inner)
        case ast.Call(ast.Name("range"), [ast.Constant(int(stop))], []):
            return range(stop)
        case ast.Call(ast.Name("range"), [ast.Constant(int(start)), ast.Constant(int(stop))], []):
            return range(start, stop)
    return ast.literal_eval(node)

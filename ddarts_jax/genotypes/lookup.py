"""Look-up of genotypes by name, by file, or from the authors' text (parsed, never evaluated)."""

import ast
import dataclasses
import os
from pathlib import Path

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED

_MAX_TEXT = 200_000  # characters, twenty times the longest of the authors' genotypes


def parse_genotype(text: str) -> Genotype:
    """Reads the authors' text, `Genotype_nested(genes=[...], concat=..., reductions=...)`.

    Values are literals or `range(...)`; `Genotype_opt`, which also has a `seq`, is accepted too. The
    authors' network concatenates all existing nodes whatever `concat` says, so the result does as well.
    Entries of a node keep their order, because the authors' weights are named by it.

    Raises:
        UserError: when the text is anything else.
    """
    if len(text) > _MAX_TEXT:
        raise UserError(
            f"A genotype has at most {_MAX_TEXT} characters, this text has {len(text)}."
        )
    try:
        genotype = Genotype(**_fields(ast.parse(text.strip(), mode="eval").body))
    # Hostile text exhausts the parser's stack, or contains numbers too long to be printed.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"Not the authors' genotype text, Genotype_nested(genes=[[(primitive, node, source), ...], "
            f"...], concat=range(2, 6), reductions=[2, 5]): {str(error) or 'nested too deeply.'}"
        ) from error
    return dataclasses.replace(genotype, concat=range(2, genotype.num_nodes + 2))


def _fields(call: ast.expr) -> dict:
    """The keyword arguments of the expression `Genotype_nested(...)`."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("it must be one call with keyword arguments")
    if call.func.id not in ("Genotype_nested", "Genotype_opt"):
        raise ValueError(f"unknown name {call.func.id:.40}")
    names = {keyword.arg for keyword in call.keywords}
    if names - {"seq"} != {"genes", "concat", "reductions"}:
        raise ValueError("its arguments must be genes, concat, reductions and, if need be, seq")
    return {keyword.arg: _value(keyword.value) for keyword in call.keywords}


def _value(node: ast.expr):
    match node:
        case ast.Call(ast.Name("range"), [ast.Constant(int(stop))], []):
            return range(stop)
        case ast.Call(ast.Name("range"), [ast.Constant(int(start)), ast.Constant(int(stop))], []):
            return range(start, stop)
    return ast.literal_eval(node)


def find_genotype(name: str | os.PathLike) -> Genotype:
    """Returns the genotype that `name` means.

    Args:
        name: the name of a handcrafted network ("ResNet18") or of the authors' encoding of it
            ("authors/ResNet18"), or the path of a `.json` (`Genotype.load`) or of the authors' text.

    Raises:
        UserError: when there is no such network or file, or the file does not contain a genotype.
    """
    known = HANDCRAFTED | {f"authors/{key}": genotype for key, genotype in AUTHORS.items()}
    if name in known:
        return known[name]
    if not os.path.isfile(name):
        raise UserError(
            f"Genotype {str(name)!r} is not a handcrafted network ({', '.join(known)}), and there is "
            f"no such file."
        )
    if Path(name).suffix == ".json":
        return Genotype.load(name)
    try:
        with open(name, encoding="utf-8") as file:
            return parse_genotype(file.read(_MAX_TEXT + 1))
    except OSError as error:
        raise UserError(f"Genotype file {name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"Genotype file {name}: {error}") from error

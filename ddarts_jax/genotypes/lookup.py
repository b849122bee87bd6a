"""Look-up of genotypes: by name, in a file, or in the text itself."""

import difflib
import os
from pathlib import Path

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import zoo
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED
from ddarts_jax.genotypes.text import MAX_TEXT, is_text, parse_genotype


def find_genotype(name: str | os.PathLike) -> Genotype:
    """Returns the genotype that `name` means.

    Args:
        name: one of
            - the name of a handcrafted network ("ResNet18"), or of the authors' encoding of it
              ("authors/ResNet18");
            - the name of a published network ("DARTS_V2", "DD-1"; docs/zoo.md lists them);
            - the path of a `.json` (`Genotype.load`), or of a file of text (`text.parse_genotype`);
              "genotypes.py#NAME" means one genotype of several;
            - the text itself, `Genotype(...)`.

    Raises:
        UserError: when there is no such network or file, or the file does not contain a genotype.
    """
    handcrafted = HANDCRAFTED | {f"authors/{key}": network for key, network in AUTHORS.items()}
    if name in handcrafted:
        return handcrafted[name]
    if name in zoo.names():
        return zoo.load(name)
    if os.path.isfile(name):
        return Genotype.load(name) if Path(name).suffix == ".json" else _read(name, "")
    path, mark, which = os.fspath(name).rpartition("#")
    if mark and os.path.isfile(path):
        return _read(path, which)
    if is_text(os.fspath(name)):
        return parse_genotype(os.fspath(name))
    near = difflib.get_close_matches(os.fspath(name), zoo.names(), n=3, cutoff=0.5)
    raise UserError(
        f"Genotype {os.fspath(name)!r} is not a handcrafted network ({', '.join(handcrafted)}) or "
        f"a published one of docs/zoo.md ({', '.join(near) or 'such as DARTS_V2 or DD-1'}), and there "
        f"is no such file."
    )


def _read(path: str | os.PathLike, name: str) -> Genotype:
    """Reads the genotype `name` of a file of text; "" if it has one only."""
    try:
        with open(path, "rb") as file:
            content = file.read(4 * MAX_TEXT + 4)  # the longest text, in the longest encoding
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # the mark of a Windows shell's files
        return parse_genotype(content.decode("utf-16" if wide else "utf-8"), name)
    except OSError as error:
        raise UserError(f"Genotype file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"Genotype file {path}: {error}") from error

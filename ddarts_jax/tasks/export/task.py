"""The task itself: writes a temporary folder, checks it, and moves it to its place."""

import glob
import os
import shutil
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from ddarts_jax.errors import UserError
from ddarts_jax.tasks.export import classifier, detector

FILES = (
    "README.md",
    "genotype.json",
    "meta.json",
    "model.onnx",
    "model.stablehlo",
    "weights.safetensors",
)


def run(config: ConfigDict, workdir: Path) -> dict:
    """Writes the folder `config.output` of the trained network or detector in `config.run`.

    An earlier export there is replaced; if anything fails, it stays as it was.

    Args:
        config: see `configuration.export_config`.
        workdir: an existing folder for the files exchanged with the fresh processes, which are
            deleted at the end.

    Returns:
        The content of `meta.json`.

    Raises:
        UserError: there is no trained network, or its data cannot be loaded; the output cannot be
            written, or is something else already; a file does not give the network's answers.
    """
    if not config.run:
        raise UserError(
            "Name the workdir of the training whose network to export: --config.run=DIR."
        )
    if not config.output:
        raise UserError("Name the folder to write the export to: --config.output=DIR.")
    source = Path(os.path.expanduser(config.run))
    output = Path(os.path.expanduser(config.output)).resolve()
    _check_output(output)
    kind = detector if detector.is_run(source) else classifier
    trained = kind.load(source, config, output)
    _tidy(output)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=workdir) as scratch:
            meta = kind.write(trained, temporary, Path(scratch))
        files = sorted(os.listdir(temporary))
        _replace(output, temporary)
    except OSError as error:
        raise UserError(
            f"The export cannot be written to {output}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(kind.headline(meta))
    print(f"written to {output}: {', '.join(files)}")
    return meta


def _tidy(output: Path) -> None:
    """Removes what an export to `output` that was killed has left beside it.

    If it was killed while the earlier export stood aside, that takes its place again.
    """
    for path in output.parent.glob(f".{glob.escape(output.name)}.*"):
        *_, pid, kind = path.name.split(".")
        if not pid.isdecimal() or kind not in ("tmp", "old") or _runs(int(pid)):
            continue
        if kind == "old" and not output.exists():
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Whether a process of this number runs, whoever's it is."""
    try:
        os.kill(pid, 0)  # not by /proc, which macOS lacks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _check_output(output: Path) -> None:
    """Checks that `output` is absent, an empty folder or an earlier export.

    Raises:
        UserError: it is anything else.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"config.output is {output}, which is a file: name a folder.")
    found = set(os.listdir(output))
    strange = sorted(found - set(FILES))
    if strange or (found and "meta.json" not in found):
        raise UserError(
            f"config.output is {output}, which is not an earlier export: it holds "
            f"{(strange or sorted(found))[0]!r}. Name another folder, or empty this one."
        )


def _replace(output: Path, new: Path) -> None:
    """Moves the folder `new` to `output`, which it replaces."""
    if not output.exists():
        os.rename(new, output)
        return
    old = new.with_suffix(".old")
    os.rename(output, old)
    try:
        os.rename(new, output)
    except BaseException:
        os.rename(old, output)
        raise
    shutil.rmtree(old)

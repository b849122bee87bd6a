"""The package as it is installed: sdist, wheel, metadata, and the command outside the repository."""

import email.parser
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tiny

import ddarts_jax
from ddarts_jax import doctor

_SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
_BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)


def _run(*command, cwd, **variables):
    """Runs a command without the repository on Python's path; returns what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which the wheel is installed that is built from the sdist; needs no network."""
    place = tmp_path_factory.mktemp("packaging")
    sources = place / "sources"
    for name in ("ddarts_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tiny.ROOT / name, sources / name, ignore=ignored)
    for name in _SOURCES:
        shutil.copy(tiny.ROOT / name, sources)
    _run(sys.executable, "-c", _BUILD, "build_sdist", place, cwd=sources)
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    unpacked = place / archive.name.removesuffix(".tar.gz")
    _run(sys.executable, "-c", _BUILD, "build_wheel", place, cwd=unpacked)
    (wheel,) = place.glob("*.whl")
    options = ["--no-deps", "--no-index", "--quiet", "--target", place / "installed"]
    _run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=place)
    return place / "installed"


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_has_every_file(installed):
    """Nothing that a module reads beside itself is forgotten, nor a config."""
    assert _files(tiny.ROOT / "ddarts_jax") <= _files(installed / "ddarts_jax")
    assert _files(tiny.ROOT / "configs") == _files(installed / "ddarts_jax" / "configs")


def test_the_command_runs_outside_the_repository(installed, tmp_path):
    """`ddarts-jax` is there, finds its configs, and knows its version without JAX."""
    path = {"PYTHONPATH": str(installed)}
    listed = _run(installed / "bin" / "ddarts-jax", "configs", cwd=tmp_path, **path)
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == sorted(path.stem for path in tiny.ROOT.glob("configs/*.py"))
    code = "import sys, ddarts_jax as dd; print(dd.__version__, dd.__file__, 'jax' in sys.modules)"
    version, file, jax = _run(sys.executable, "-c", code, cwd=tmp_path, **path).split()
    assert version == ddarts_jax.__version__ and Path(file).is_relative_to(installed)
    assert jax == "False"


def test_the_metadata(installed):
    """Licence and readme are there; the doctor looks for what the extras install."""
    (folder,) = installed.glob("*.dist-info")
    metadata = email.parser.Parser().parsestr((folder / "METADATA").read_text())
    assert metadata["Version"] == ddarts_jax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert (folder / "licenses" / "LICENSE").read_text() == (tiny.ROOT / "LICENSE").read_text()
    assert metadata.get_payload().strip() == (tiny.ROOT / "README.md").read_text().strip()
    extras = [line for line in metadata.get_all("Requires-Dist") if "extra ==" in line]
    developing = ('extra == "test"', 'extra == "docs"')
    optional = {line.split(">")[0] for line in extras if not line.endswith(developing)}
    # The extra cuda12 names JAX's own extra, which installs the plugin.
    assert optional - {"jax[cuda12]"} <= {*doctor.OPTIONAL}

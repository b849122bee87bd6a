"""The notebooks of the documentation: each runs in an empty folder, and shows what it is kept with."""

import re

import nbclient
import nbformat
import pytest
import tiny

NOTEBOOKS = sorted((tiny.ROOT / "docs" / "notebooks").glob("*.ipynb"))


def shown(notebook):
    """For each cell of code the kinds of what it shows, and the text; no messages on stderr."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            # As a set: a kernel sends text beside pictures, in any order and in pieces.
            kinds = {kind for out in outputs for kind in out.get("data", [out.output_type])}
            found.append((kinds, "".join(out.get("text", "") for out in outputs)))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_is_kept_with(path, tmp_path, monkeypatch):
    """The same pictures and sentences; numbers in them may differ: a short training is chaotic."""
    # The flags of the other tests make compiling short and computing long, here too long.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(path, 4)
    kept = shown(notebook)
    options = {"timeout": 600, "resources": {"metadata": {"path": str(tmp_path)}}}
    nbclient.NotebookClient(notebook, kernel_name="python3", **options).execute()
    for (kinds, text), (kept_kinds, kept_text) in zip(shown(notebook), kept, strict=True):
        assert kinds == kept_kinds
        if "Genotype(" not in text:  # chance decides between gates that are almost equal
            assert re.sub(r"[\d.]+%", "%", text) == re.sub(r"[\d.]+%", "%", kept_text)
        percents = [[float(n) for n in re.findall(r"([\d.]+)%", t)] for t in (text, kept_text)]
        assert percents[0] == pytest.approx(percents[1], abs=25)
    assert any(kinds for kinds, _ in kept)


def test_notebooks_stay_small_and_public():
    """Kept outputs are no burden to a clone; only `dd` is imported of the package; no warning is kept."""
    assert {path.stem for path in NOTEBOOKS} == {"fine_tune", "search_on_arrays"}
    for path in NOTEBOOKS:
        assert path.stat().st_size < 200_000
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        assert re.findall(r"^.*import.*ddarts_jax.*$", code, re.MULTILINE) == [
            "import ddarts_jax as dd"
        ]
        assert not re.search(r"\bdd\.\w+\._|from ddarts_jax", code)
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
        assert "stderr" not in [out.get("name") for out in outputs]

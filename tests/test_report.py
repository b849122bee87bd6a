"""Pictures of genotypes."""

import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest

from ddarts_jax.genotype import Genotype, expand, num_edges, parse, reduction_positions
from ddarts_jax.report import draw_genotype

PRIMITIVES = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5"),
    *("dil_conv_3x3", "dil_conv_5x5"),
)


def random_genotype(num_cells, num_nodes, method):
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(num_cells, num_edges(num_nodes), len(PRIMITIVES)))
    return parse(p, PRIMITIVES, method, 0.7, reduction_positions(num_cells))


def svg_texts(path):
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    "genotype",
    [
        random_genotype(5, 2, "sparse"),
        random_genotype(8, 4, "edge"),
        expand(random_genotype(8, 4, "sparse"), 14),
        random_genotype(1, 1, "complete"),
    ],
    ids=["5 cells", "8 cells", "14 cells", "1 cell"],
)
def test_draws_every_cell_and_primitive(tmp_path, genotype):
    """Both files show something; title, every cell's kind and just the occurring primitives."""
    draw_genotype(genotype, tmp_path / "epoch.1", "Found in epoch 1")
    texts = svg_texts(tmp_path / "epoch.1.svg")
    assert "Found in epoch 1" in texts
    for position in range(genotype.num_cells):
        reduction = " · reduction" if position in genotype.reductions else ""
        assert f"cell {position}{reduction}" in texts
    occurring = {primitive for cell in genotype.cells for primitive, _, _ in cell}
    assert {text for text in texts if text in PRIMITIVES} == occurring
    picture = matplotlib.image.imread(tmp_path / "epoch.1.png")
    assert min(picture.shape[:2]) > 300
    assert (picture[..., :3].min(axis=2) < 0.5).mean() > 0.005  # there is ink


def test_parallel_primitives_are_separate_arrows(tmp_path):
    """Two primitives between the same nodes are two curves, not one on top of the other."""
    draw_genotype(Genotype([[("a", 2, 0), ("b", 2, 0)]], [], [2]), tmp_path / "cell")
    root = ElementTree.parse(tmp_path / "cell.svg").getroot()
    curves = [e.get("d") for e in root.iter("{http://www.w3.org/2000/svg}path")]
    curves = [d for d in curves if "Q" in (d or "")]
    assert len(set(curves)) == len(curves) >= 3  # two primitives and the way to the output


def test_draws_an_empty_cell_and_odd_names(tmp_path):
    """A cell without entries and names that mean something to matplotlib or XML are drawn."""
    genotype = Genotype([[], [("_a<&$x$", 3, 1), ("b", 4, 2)]], [0], [2, 3])
    draw_genotype(genotype, str(tmp_path / "odd"), "$<&")
    texts = svg_texts(tmp_path / "odd.svg")
    assert {"_a<&$x$", "b", "$<&", "cell 0 · reduction", "cell 1"} <= set(texts)


def test_equal_genotypes_give_equal_files(tmp_path):
    """Pictures can be compared and kept in version control: no date, no random identifiers."""
    genotype = random_genotype(2, 2, "sparse")
    for name in ("a", "b"):
        draw_genotype(genotype, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

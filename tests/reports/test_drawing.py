"""Pictures of genotypes and of distances between them."""

import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest

from ddarts_jax.genotypes.genotype import Genotype, expand, num_edges, parse, reduction_positions
from ddarts_jax.reports.drawing import (
    draw_confusion,
    draw_distance_history,
    draw_distance_matrix,
    draw_genotype,
)

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
    genotype = Genotype([[], [("_a<&$x$", 3, 1), ("b", 4, 3)]], [0], [2, 3])
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


def assert_margins_are_white(path):
    """Nothing reaches the border of the picture, where it would be cut off."""
    picture = matplotlib.image.imread(path)[..., :3]
    for border in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (border == 1).all()


@pytest.mark.parametrize("count", [1, 2, 20])
def test_distance_matrix_shows_every_number_and_name(tmp_path, count):
    """Each square holds its distance; long and odd names stand twice and are not cut off."""
    names = [f"$a_{i}<& " + "long name " * 6 + "$" for i in range(count)]
    matrix = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) / 40
    draw_distance_matrix(names, matrix, tmp_path / "epoch.1", "Distances $x$")
    texts = svg_texts(tmp_path / "epoch.1.svg")
    assert "Distances $x$" in texts
    for name in names:
        assert texts.count(name) == 2
    numbers = [f"{distance:.3f}" if distance else "0" for distance in matrix.flat]
    assert [text for text in texts if text[0] == "0"] == numbers
    assert_margins_are_white(tmp_path / "epoch.1.png")


def test_larger_distances_have_darker_squares(tmp_path):
    """Below each number, in the corner of its square, the colour tells the distance."""
    matrix = np.array([[0.0, 0.02, 0.08], [0.02, 0.0, 0.05], [0.08, 0.05, 0.0]])
    draw_distance_matrix("abc", matrix, tmp_path / "matrix")
    grey = matplotlib.image.imread(tmp_path / "matrix.png")[..., :3].mean(axis=2)
    rows, columns = np.nonzero(grey < 1)
    right, top = columns.max() + 1, rows.min()  # the names are on the left and below
    square = 75  # pixels: half an inch
    shades = [
        grey[top + int((row + 0.15) * square), right - int((3 - column - 0.15) * square)]
        for row in range(3)
        for column in range(3)
    ]
    order = np.argsort(matrix, axis=None, kind="stable")
    assert (np.diff(np.array(shades)[order]) <= 0.01).all()
    assert shades[0] > shades[1] + 0.05 > shades[5] + 0.1 > shades[2] + 0.15


@pytest.mark.parametrize("start_epoch", [0, 2])
def test_distance_history_names_axes_and_start(tmp_path, start_epoch):
    """Both curves have an axis, accuracy in per cent; the pre-training is marked if there was one."""
    epochs, distances = [1, 2, 3, 4], [0.0, 0.0, 0.05, 0.08]
    draw_distance_history(
        *(epochs, distances, [0.5, 0.6, 0.7, 0.9], tmp_path / "history", "A $title"),
        start_epoch=start_epoch,
    )
    texts = svg_texts(tmp_path / "history.svg")
    assert {"A $title", "epoch", "● distance to the start", "□ accuracy (%)"} <= set(texts)
    assert {"1", "2", "3", "4", "0.08", "60", "90"} <= set(texts)
    assert ("alphas fixed" in texts) == bool(start_epoch)
    picture = matplotlib.image.imread(tmp_path / "history.png")[..., :3]
    region = np.isclose(picture, np.array([0xFD, 0xF3, 0xDC]) / 255, atol=0.002).all(axis=2)
    # From half an epoch before the first to epoch 2 of 4.5 - 0.5 epochs.
    share = region.any(axis=0).sum() / picture.shape[1]
    assert (0.25 < share < 0.35) if start_epoch else share == 0
    assert_margins_are_white(tmp_path / "history.png")


def test_distance_history_with_positional_distances(tmp_path):
    """The second curve has a marker of its own, which the axis explains."""
    history = [1, 2, 3], [0.0, 0.1, 0.1], [0.5, 0.6, 0.7]
    draw_distance_history(*history, tmp_path / "both", positional=[0.0, 0.02, 0.05])
    assert "● distance to the start   ▲ positional" in svg_texts(tmp_path / "both.svg")
    assert_margins_are_white(tmp_path / "both.png")


def test_distance_history_accepts_one_epoch_and_gaps(tmp_path):
    """A search may have stopped after one epoch; an accuracy that was not measured leaves a gap."""
    draw_distance_history([1], [0.0], [0.5], tmp_path / "one", start_epoch=5)
    texts = svg_texts(tmp_path / "one.svg")
    assert "1" in texts and "alphas fixed" in texts
    draw_distance_history([1, 2, 3], [0.0, 0.1, 0.1], [0.5, None, 0.7], tmp_path / "gap")
    assert "□ accuracy (%)" in svg_texts(tmp_path / "gap.svg")


def test_equal_distances_give_equal_files(tmp_path):
    """No date, no random identifiers in these pictures either."""
    for name in ("a", "b"):
        draw_distance_matrix(["x", "y"], np.array([[0, 0.1], [0.1, 0]]), tmp_path / f"m{name}")
        draw_distance_history([1, 2], [0, 0.1], [0.5, 0.6], tmp_path / f"h{name}", start_epoch=1)
    for kind in "mh":
        for suffix in ("svg", "png"):
            first, second = (tmp_path / f"{kind}{name}.{suffix}" for name in "ab")
            assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_confusion_matrix_shows_counts_and_names(tmp_path, classes):
    """Counts and names can be read where there is room for them; an absent class divides nothing."""
    confusion = np.diag(np.arange(classes) * 7)
    confusion[1, 0] = 3
    names = [f"class{i}" for i in range(classes)]
    draw_confusion(confusion, names, tmp_path / "confusion", "Digits $x")
    text = (tmp_path / "confusion.svg").read_text()
    assert (tmp_path / "confusion.png").stat().st_size
    assert "Digits $x" in text and "answer" in text
    for shown in (">class1<", ">7<", ">3<"):
        assert (shown in text) == (classes <= 40)


def test_what_has_no_effect_is_left_out_and_said(tmp_path):
    """Neither a node without inputs nor a cell that nothing reads is drawn, nor is it in the legend."""
    idle = [("a", 3, 0), ("never", 4, 2)]
    draw_genotype(Genotype([idle, [("b", 2, 0)], [("a", 2, 0)]], [], [2, 3, 4]), tmp_path / "cell")
    texts = svg_texts(tmp_path / "cell.svg")
    assert "left out: 1 from nodes without inputs" in texts
    assert texts.count("left out: no later cell reads it") == 1
    assert not {"never", "b", "4"} & set(texts) and texts.count("3") == texts.count("2") == 1

"""Distances of architectures: the paper's figures, the laws of a distance, score files."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.distance import (
    SCORES,
    architecture_distance,
    cell_distances,
    distance_matrix,
    edge_distance,
    load_scores,
    positional_cell_distances,
    positional_distance,
)
from ddarts_jax.genotypes.genotype import Genotype

BOTH = pytest.mark.parametrize("distance", [architecture_distance, positional_distance])

# The authors' encodings of the two networks.
RESNET18 = Genotype(
    genes=[
        [
            ("simple_conv_3x3", 2, 0),
            ("simple_conv_3x3", 3, 2),
            ("skip_connect", 3, 0),
            ("simple_conv_3x3", 4, 3),
            ("simple_conv_3x3", 5, 4),
            ("skip_connect", 5, 3),
        ]
    ],
    seq=[0, 0, 0, 0],
    reductions=[1, 2, 3],
    concat=[2, 3, 4, 5],
)
RESNET50_ENTRIES = [
    (primitive, node, source)
    for node, source in ((2, 0), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6))
    for primitive in ("bottleneck_1x3x1", "skip_connect")
]
RESNET50 = Genotype(
    genes=[RESNET50_ENTRIES[:6], RESNET50_ENTRIES[:8], RESNET50_ENTRIES],
    seq=[0, 1, 2, 0],
    reductions=[1, 2, 3],
    concat=[2, 3, 4, 5, 6, 7],
)

# Few names and few nodes, so that equal edges and equal cells are common.
ENTRIES = [
    (primitive, node, source)
    for node in range(2, 6)
    for source in range(node)
    for primitive in ("skip_connect", "max_pool_3x3", "sep_conv_5x5")
]
EDGES = st.sets(st.sampled_from(sorted(SCORES)))


@st.composite
def genotypes(draw):
    """Any genotype of up to 4 nodes and 4 cells over few primitives."""
    last = draw(st.integers(2, 5))
    entries = st.sampled_from([entry for entry in ENTRIES if entry[1] <= last])
    genes = draw(st.lists(st.lists(entries, unique=True, max_size=8), min_size=1, max_size=3))
    more = st.lists(st.integers(0, len(genes) - 1), max_size=4 - len(genes))
    orders = more.flatmap(lambda indices: st.permutations([*range(len(genes)), *indices]))
    return Genotype(genes, [], [last], draw(st.none() | orders))


# The definitions, with plain sets and loops ----------------------------------------------------------


def hamming(u, v, scores=SCORES):
    return sum(w for name, w in scores.items() if (name in u) != (name in v)) / sum(scores.values())


def plain_cells(genotype):
    """One dictionary (source, node) -> set of primitives for every cell of the network."""
    last = max([n for cell in genotype.genes for _, n, _ in cell] + list(genotype.concat))
    seq = range(len(genotype.genes)) if genotype.seq is None else genotype.seq
    return [
        {
            (source, node): {p for p, n, s in genotype.genes[index] if (n, s) == (node, source)}
            for node in range(2, last + 1)
            for source in range(node)
        }
        for index in seq
    ]


def hausdorff(a, b, scores):
    return max(
        max(min(hamming(u, v, scores) for v in second.values()) for u in first.values())
        for first, second in ((a, b), (b, a))
    )


def edge_by_edge(a, b, scores):
    ends = a.keys() | b.keys()
    return sum(
        hamming(a[edge], b[edge], scores) if edge in a and edge in b else 1 for edge in ends
    ) / len(ends)


def brute_force(distance, a, b, scores=SCORES):
    of_cells = {cell_distances: hausdorff, positional_cell_distances: edge_by_edge}[distance]
    a, b = plain_cells(a), plain_cells(b)
    missing = [1.0] * abs(len(a) - len(b))
    return [of_cells(x, y, scores) for x, y in zip(a, b)] + missing


# Facts ----------------------------------------------------------------------------------------------


def test_edges_have_the_paper_s_distance():
    """The weights are Table 1's and are divided by their sum; names count once."""
    assert edge_distance([], ["skip_connect"]) == pytest.approx(0.08208266785, abs=1e-11)
    # The scores as printed give 2.4e-8 more than the published figure.
    dilated = edge_distance(["dil_conv_3x3"], ["dil_conv_5x5"])
    assert dilated == pytest.approx(0.16713714017, abs=5e-8)
    assert edge_distance(["skip_connect", "skip_connect"], ("skip_connect",)) == 0
    assert edge_distance(SCORES, []) == 1


def test_resnet18_and_resnet50_have_the_paper_s_distance():
    """The figure of the paper, from encodings with different numbers of nodes and shared cells."""
    assert architecture_distance(RESNET18, RESNET50) == pytest.approx(0.0836, abs=5e-5)
    # The edge {bottleneck, skip} is nearest to {skip}: every cell has the bottleneck's share.
    share = SCORES["bottleneck_1x3x1"] / sum(SCORES.values())
    np.testing.assert_allclose(cell_distances(RESNET18, RESNET50), [share] * 4, rtol=1e-12)


def test_the_place_of_an_edge_counts_only_in_the_positional_distance():
    """One skip connection, moved to another edge of a cell of 2 nodes (5 edges)."""
    here = Genotype([[("skip_connect", 3, 0)]], [], [2, 3])
    there = Genotype([[("skip_connect", 3, 1)]], [], [2, 3])
    assert architecture_distance(here, there) == 0
    assert positional_distance(here, there) == pytest.approx(2 * 0.08208266785 / 5, abs=1e-11)


def test_empty_edges_count():
    """In a full cell an edge is missing: nearest to the empty edge are the full ones."""
    full = Genotype([[("skip_connect", 2, 0), ("skip_connect", 2, 1)]], [], [2])
    half = Genotype([[("skip_connect", 2, 0)]], [], [2])
    assert architecture_distance(full, half) == pytest.approx(0.08208266785, abs=1e-11)


def test_nodes_and_cells_that_one_network_lacks():
    """Hand-computed: 1 node against 2 (2 and 5 edges), then 1 cell against 4."""
    skip = [("skip_connect", 2, 0)]
    small, large = Genotype([skip], [], [2]), Genotype([skip], [], [2, 3])
    assert architecture_distance(small, large) == 0  # both hold {} and {skip}
    assert positional_distance(small, large) == pytest.approx(3 / 5)
    deep = Genotype([skip], [], [2], seq=[0, 0, 0, 0])
    for cells in (cell_distances, positional_cell_distances):
        assert cells(small, deep).tolist() == cells(deep, small).tolist() == [0, 1, 1, 1]


# Laws -----------------------------------------------------------------------------------------------


@given(EDGES, EDGES, EDGES)
def test_edge_distance_is_a_distance(u, v, w):
    """Equals the brute-force sum; zero just on equal sets, symmetric, triangle inequality."""
    assert edge_distance(u, v) == pytest.approx(hamming(u, v), abs=1e-12)
    assert edge_distance(u, v) == edge_distance(v, u)
    assert (edge_distance(u, v) == 0) == (u == v)
    assert edge_distance(u, w) <= edge_distance(u, v) + edge_distance(v, w) + 1e-12


@pytest.mark.parametrize("distance", [cell_distances, positional_cell_distances])
@settings(deadline=None)
@given(genotypes(), genotypes(), st.booleans())
def test_equals_brute_force(distance, a, b, own_scores):
    """Every cell's distance equals the definition's, with Table 1's scores and with others."""
    scores = (
        {"max_pool_3x3": 3, "sep_conv_5x5": 0.25, "skip_connect": 1.5} if own_scores else SCORES
    )
    found = distance(a, b, scores)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, brute_force(distance, a, b, scores), rtol=0, atol=1e-12)


@BOTH
@settings(deadline=None)
@given(genotypes(), genotypes(), genotypes())
def test_is_a_distance(distance, a, b, c):
    """Zero on itself, symmetric, triangle inequality, in [0, 1], whatever the sizes."""
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a)
    assert 0 <= distance(a, b) <= 1
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


@settings(deadline=None)
@given(genotypes(), genotypes())
def test_positional_distance_is_zero_just_on_equal_networks(a, b):
    """Cells may be shared or written out; nothing but the entries and the nodes matters."""
    assert (positional_distance(a, b) == 0) == (plain_cells(a) == plain_cells(b))
    written_out = Genotype(a.cells, [], a.concat)
    assert positional_distance(a, written_out) == 0


@BOTH
@settings(deadline=None, max_examples=20)
@given(st.lists(genotypes(), max_size=4))
def test_matrix_holds_every_pair(distance, networks):
    """Entry [i, j] is the distance of networks i and j."""
    matrix = distance_matrix(networks, distance=distance)
    assert matrix.shape == (len(networks), len(networks)) and matrix.dtype == np.float64
    for i, a in enumerate(networks):
        for j, b in enumerate(networks):
            assert matrix[i, j] == distance(a, b)


# Scores ---------------------------------------------------------------------------------------------


def test_scores_of_a_file_replace_table_1(tmp_path):
    """More primitives or fewer than the networks use; other keys of the file are ignored."""
    scores = {"skip_connect": 1, "own_conv": 2.5, "unused": 1.5}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"dataset": "digits", "scores": scores}))
    loaded = load_scores(path)
    assert loaded == scores and all(type(score) is float for score in loaded.values())
    skip = Genotype([[("skip_connect", 2, 0)]], [], [2])
    own = Genotype([[("own_conv", 2, 0)]], [], [2])
    assert edge_distance([], ["own_conv"], loaded) == 0.5
    # {} is in both; {own} is nearest to {}, 2.5 / 5, and so is {skip}, 1 / 5.
    assert architecture_distance(skip, own, loaded) == 0.5
    assert positional_distance(skip, own, loaded) == (3.5 / 5) / 2
    assert distance_matrix([skip, own], loaded).tolist() == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize(
    "measure", [cell_distances, positional_cell_distances, architecture_distance]
)
def test_a_primitive_without_score_is_named(measure):
    """A primitive that the scores lack is an error that names it and those there are."""
    own = Genotype([[("own_conv", 2, 0)]], [], [2])
    skip = Genotype([[("skip_connect", 2, 0)]], [], [2])
    with pytest.raises(UserError, match=r"'own_conv'.*dil_conv_3x3"):
        measure(own, own)
    with pytest.raises(UserError, match=r"'skip_connect'.*own_conv"):
        measure(own, skip, {"own_conv": 1.0})
    with pytest.raises(UserError, match=r"'own_conv'.*dil_conv_3x3"):
        edge_distance([], ["own_conv"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "not valid JSON"),
        (b"\xff\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "must hold one JSON object"),
        (b'{"skip_connect": 81.3}', "must hold one JSON object"),
        (b'{"scores": [["skip_connect", 81.3]]}', "must hold one JSON object"),
        (b'{"scores": {}}', "1 to 20 primitives"),
        (json.dumps({"scores": {str(i): 1 for i in range(21)}}).encode(), "1 to 20 primitives"),
        (b'{"scores": {"skip_connect": 1%s}}' % (400 * b"0"), "skip_connect must be"),
        *(
            (b'{"scores": {"ok": 1, "skip_connect": %s}}' % value, "skip_connect must be")
            for value in b'0 -1 NaN Infinity 1e999 true null "81.3" [81.3]'.split()
        ),
    ],
)
def test_broken_score_files_are_refused(tmp_path, content, message):
    """The error names the file and what is wrong in it."""
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_scores(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.just("scores") | st.text(), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_file_gives_usable_scores_or_a_clear_error(tmp_path, content):
    """Nothing but a UserError leaves `load_scores`, and what it returns can be used."""
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    try:
        scores = load_scores(path)
    except UserError:
        return
    assert edge_distance([], scores, scores) == 1

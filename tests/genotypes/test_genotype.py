"""Genotypes: parsing against a brute-force version, Algorithm 1, storage."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import (
    Genotype,
    edge_index,
    edges,
    encode,
    existing_nodes,
    expand,
    num_edges,
    parse,
    reduction_positions,
)
from ddarts_jax.genotypes.text import parse_genotype

NAMES = ("pool", "skip", "conv3", "conv5")
# Every example gets its own file content, so one temporary folder may serve them all.
SAME_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def chain(num_cells, reductions=None):
    """A genotype whose cell i is recognisable by its primitive `op<i>`."""
    genes = tuple(((f"op{i}", 2, 1),) for i in range(num_cells))
    reductions = reduction_positions(num_cells) if reductions is None else reductions
    return Genotype(genes, reductions, (2,))


@st.composite
def genotypes(draw):
    """Any valid genotype."""
    ends = st.integers(2, 6).flatmap(
        lambda node: st.tuples(st.just(node), st.integers(0, node - 1))
    )
    entry = st.tuples(st.sampled_from((*NAMES, "größe 3", '"\\')), ends).map(
        lambda e: (e[0], *e[1])
    )
    genes = draw(st.lists(st.lists(entry, unique=True, max_size=8), min_size=1, max_size=4))
    more = st.lists(st.integers(0, len(genes) - 1), max_size=5)
    orders = more.flatmap(lambda indices: st.permutations([*range(len(genes)), *indices]))
    seq = draw(st.none() | orders)
    length = len(genes if seq is None else seq)
    reductions = draw(st.lists(st.integers(0, length - 1), unique=True))
    concat = draw(st.lists(st.integers(2, 6), unique=True, min_size=1))
    return Genotype(genes, reductions, concat, seq)


@st.composite
def probabilities(draw):
    """Probabilities of up to 2 cells of up to 4 nodes, from few values so that ties are common."""
    num_nodes = draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 2)), num_edges(num_nodes), draw(st.integers(1, len(NAMES))))
    size = int(np.prod(shape))
    values = st.sampled_from((0.0, 0.5, 0.85, 0.9))
    return np.array(draw(st.lists(values, min_size=size, max_size=size))).reshape(shape)


# Parsing ------------------------------------------------------------------------------------------


def brute_force(p, names, method, threshold):
    """`parse` by the definitions, entry by entry: an entry is kept if few enough others beat it."""
    genes = []
    for cell in p.tolist():
        incoming = {}
        unread = list(cell)
        node = 2
        while unread:
            incoming[node], unread = unread[:node], unread[node:]
            node += 1
        entries = []
        for node, rows in incoming.items():
            kept = []  # (sort key, primitive, source)
            for source, row in enumerate(rows):
                for o, value in enumerate(row):
                    if method in ("sparse", "darts"):
                        better_edges = sum(
                            max(other) > max(row) or (max(other) == max(row) and s < source)
                            for s, other in enumerate(rows)
                        )
                        is_best = all(
                            value > x or (value == x and o <= j) for j, x in enumerate(row)
                        )
                        keep = better_edges < 2 and is_best
                        key = better_edges
                    else:
                        better = sum(x > value or (x == value and j > o) for j, x in enumerate(row))
                        keep = better < 2 or method == "complete"
                        key = (source, -better) if method == "edge" else (source, o)
                    if keep and (value >= threshold or method == "darts"):
                        kept.append((key, names[o], source))
            entries += [(name, node, source) for _, name, source in sorted(kept)]
        genes.append(tuple(entries))
    return tuple(genes)


@st.composite
def encodable(draw):
    """Any genotype of known primitives that concatenates all its nodes."""
    genotype = draw(genotypes())
    known = [[entry for entry in cell if entry[0] in NAMES] for cell in genotype.genes]
    nodes = range(2, genotype.num_nodes + 2)
    return dataclasses.replace(genotype, genes=known, concat=nodes)


@given(encodable(), st.floats(0.1, 8), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_parse_is_the_inverse_of_encode(genotype, strength, share):
    """Any threshold between the probabilities of absent and present primitives gives it back."""
    alphas = encode(genotype, NAMES, strength)
    assert alphas.dtype == np.float32
    assert alphas.shape == (len(genotype.genes), num_edges(genotype.num_nodes), len(NAMES))
    probabilities = 1 / (1 + np.exp(-alphas.astype(np.float64)))
    low, high = 1 / (1 + np.exp(strength)), 1 / (1 + np.exp(-strength))
    threshold = low + share * (high - low)
    parsed = parse(probabilities, NAMES, "complete", threshold, genotype.reductions, genotype.seq)
    assert parsed == genotype


def test_encode_by_hand():
    """One edge of one primitive is where the edge order says."""
    alphas = encode(Genotype([[("conv3", 3, 1)]], (), (2, 3)), NAMES, 2.0)
    expected = np.full((1, 5, 4), -2, np.float32)
    expected[0, 3, 2] = 2
    np.testing.assert_array_equal(alphas, expected)


def test_encode_names_what_the_space_does_not_have():
    """The message names the cell, the primitive and the candidates."""
    with pytest.raises(UserError, match=r"Cell 1 .*'conv9'.*pool, skip, conv3, conv5"):
        encode(Genotype([[], [("conv9", 2, 1)]], (), (2,)), NAMES, 2.0)


def test_equal_whatever_the_order_of_a_nodes_inputs():
    """A sum does not depend on the order; anything else makes another genotype."""
    cell = (("skip", 2, 1), ("pool", 2, 0), ("pool", 3, 2))
    one = Genotype([cell], (), (2, 3))
    same = Genotype([cell[::-1]], (), (2, 3))
    assert one == same and hash(one) == hash(same)
    assert same.genes[0][0] == ("pool", 2, 0), "the order is kept"
    assert one != Genotype([cell[:2]], (), (2, 3))
    assert one != Genotype([cell], (0,), (2, 3))
    assert one != Genotype([cell], (), (3,))
    assert one != Genotype([cell], (), (2, 3), seq=(0, 0))
    assert one != "genotype"


def test_num_nodes():
    """The last node that an entry or the concatenation names; also of empty cells."""
    assert Genotype([[]], [], [2]).num_nodes == 1
    assert Genotype([[("skip", 4, 1)], []], [], [2]).num_nodes == 3
    assert Genotype([[("skip", 4, 1)]], [], [2, 6]).num_nodes == 5


@given(probabilities(), st.sampled_from(("sparse", "edge", "complete", "darts")), st.booleans())
@settings(max_examples=200, deadline=None)
def test_parse_equals_brute_force(p, method, single_precision):
    """Every method, its tie rules and its order agree with a slow independent version."""
    p = p.astype(np.float32) if single_precision else p
    names = NAMES[: p.shape[2]]
    genotype = parse(p, names, method, 0.85, reduction_positions(len(p)))
    assert genotype.genes == brute_force(p, names, method, np.array(0.85, p.dtype).item())
    assert genotype.concat == tuple(range(2, 2 + [2, 5, 9, 14].index(p.shape[1]) + 1))


# Two nodes; edges 0->2, 1->2, 0->3, 1->3, 2->3; primitives pool, skip, conv3.
HAND = [[[0.1, 0.9, 0.9], [0.95, 0.2, 0.9], [0.9, 0.3, 0.2], [0.9, 0.9, 0.9], [0.1, 0.1, 0.92]]]
HAND_RESULTS = {
    "sparse": [("pool", 2, 1), ("skip", 2, 0), ("conv3", 3, 2), ("pool", 3, 0)],
    "edge": [
        *[("skip", 2, 0), ("conv3", 2, 0), ("conv3", 2, 1), ("pool", 2, 1)],
        *[("pool", 3, 0), ("skip", 3, 1), ("conv3", 3, 1), ("conv3", 3, 2)],
    ],
    "complete": [
        *[("skip", 2, 0), ("conv3", 2, 0), ("pool", 2, 1), ("conv3", 2, 1), ("pool", 3, 0)],
        *[("pool", 3, 1), ("skip", 3, 1), ("conv3", 3, 1), ("conv3", 3, 2)],
    ],
    "darts": [("pool", 2, 1), ("skip", 2, 0), ("conv3", 3, 2), ("pool", 3, 0)],
}


@pytest.mark.parametrize("method", HAND_RESULTS)
def test_parse_by_hand(method):
    """A case worked out on paper, with a tie between primitives and one between edges."""
    genotype = parse(np.array(HAND), NAMES[:3], method, 0.85, (0,))
    assert genotype == Genotype((tuple(HAND_RESULTS[method]),), (0,), (2, 3))


def test_threshold_drops_entries_but_not_for_darts():
    """Below the threshold `sparse` leaves a node without inputs, `darts` keeps its two edges."""
    p = np.full((1, 2, 2), 0.4)
    assert parse(p, NAMES[:2], "sparse", 0.85, (0,)).genes == ((),)
    assert parse(p, NAMES[:2], "darts", 0.85, (0,)).genes == ((("pool", 2, 0), ("pool", 2, 1)),)


def test_parse_keeps_what_equals_the_threshold_in_float32():
    """A float32 probability printed as 0.9 reaches a threshold of 0.9."""
    p = np.full((1, 2, 1), 0.9, np.float32)
    assert len(parse(p, ("skip",), "complete", 0.9, (0,)).genes[0]) == 2


@pytest.mark.parametrize(
    ("p", "method", "word"),
    [
        (np.zeros((1, 4, 2)), "edge", "4 edges"),
        (np.zeros((1, 0, 2)), "edge", "0 edges"),
        (np.zeros((1, 5, 3)), "edge", "2 primitives"),
        (np.zeros((5, 2)), "edge", "shape"),
        (np.full((1, 2, 2), np.nan), "edge", "nan"),
        (np.full((1, 2, 2), np.inf), "sparse", "inf"),
        (np.zeros((0, 2, 2)), "edge", "non-empty"),
        (np.zeros((1, 2, 2)), "dense", "sparse, edge, complete, darts"),
    ],
)
def test_parse_names_what_is_wrong(p, method, word):
    """Unusable probabilities or an unknown method raise a UserError that says so."""
    with pytest.raises(UserError, match=word):
        parse(p, NAMES[:2], method, 0.85, (0,))


def test_edge_order():
    """Edges are numbered node by node, then by source: 2, 5, 9, 14 for 1 to 4 nodes."""
    assert [num_edges(n) for n in range(1, 5)] == [2, 5, 9, 14]
    assert edges(2) == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    for num_nodes in range(1, 7):
        order = [edge_index(source, node) for source, node in edges(num_nodes)]
        assert order == list(range(num_edges(num_nodes)))


def test_reduction_positions():
    """A third and two thirds of the way; one position where both coincide."""
    assert [reduction_positions(n) for n in (1, 2, 5, 8, 14, 20)] == [
        *[(0,), (0, 1), (1, 3), (2, 5), (4, 9), (6, 13)]
    ]


def test_existing_nodes():
    """A node fed only by a node without inputs does not exist either."""
    assert existing_nodes((("a", 3, 2), ("a", 4, 3), ("a", 5, 1), ("a", 5, 3))) == {0, 1, 5}


# Algorithm 1 --------------------------------------------------------------------------------------


def test_expand_8_to_14():
    """The example of the paper: cells 0 1 0 1 | 2 | 3 4 3 4 | 5 | 6 7 6 7, reductions 4 and 9."""
    order = (0, 1, 0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 6, 7)
    searched = chain(8)
    expanded = expand(searched, 14)
    assert expanded == Genotype(tuple(searched.genes[i] for i in order), (4, 9), (2,))


def test_expand_with_seq():
    """Shared cells stay shared: only the sequence grows."""
    shared = Genotype(chain(3).genes, (2, 5), (2,), (0, 0, 1, 2, 0, 1, 0, 2))
    expanded = expand(shared, 14)
    assert expanded.genes == shared.genes
    assert expanded.seq == (0, 0, 0, 0, 1, 2, 0, 2, 0, 1, 0, 2, 0, 2)


def test_expand_leaves_out_a_shared_cell_that_loses_its_place():
    """A stretch may become shorter where reductions move; its last cell is then in no place."""
    shared = Genotype(chain(4).genes, (4, 6), (2,), (0, 0, 0, 1, 2, 3, 2, 3))
    expanded = expand(shared, 9)
    assert expanded.genes == tuple(shared.genes[i] for i in (0, 2, 3))
    assert expanded.cells == tuple(shared.genes[i] for i in (0, 0, 0, 2, 3, 3, 2, 3, 3))


def test_expand_loses_no_cell_of_its_own():
    """Reductions far out leave a long stretch, of which a few more cells have no place for all."""
    with pytest.raises(UserError, match=r"no place for cell \d"):
        expand(chain(10, (1, 8)), 11)
    assert len(set(expand(chain(10, (1, 8)), 24).cells)) == 10


def test_expand_moves_unusual_reductions():
    """Stretches are those between the genotype's own reductions, wherever they are."""
    expanded = expand(chain(6, (1, 3)), 9)
    assert expanded.reductions == (3, 6)
    assert expanded.cells == tuple(chain(6).genes[i] for i in (0, 0, 0, 1, 2, 2, 3, 4, 5))


@given(st.integers(5, 20), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_expand_keeps_kinds_and_order(num_cells, extra):
    """Normal cells stay normal, reductions reductions; each stretch cycles through its cells."""
    searched = chain(num_cells)
    expanded = expand(searched, num_cells + extra)
    assert expanded.num_cells == num_cells + extra
    assert expanded.reductions == reduction_positions(num_cells + extra)
    order = [searched.genes.index(cell) for cell in expanded.cells]
    assert [order[r] for r in expanded.reductions] == list(searched.reductions)
    old = np.split(np.arange(num_cells), [i for r in searched.reductions for i in (r, r + 1)])
    new = np.split(np.array(order), [i for r in expanded.reductions for i in (r, r + 1)])
    for old_part, new_part in zip(old[::2], new[::2]):
        np.testing.assert_array_equal(new_part, np.resize(old_part, len(new_part)))
    assert extra or expanded == searched


@given(st.integers(1, 20), st.integers(3, 20))
@settings(deadline=None)
def test_two_shared_cells_take_any_depth(num_cells, searched):
    """As DARTS does: reductions at a third and two thirds, and one normal cell everywhere else."""
    normal, reduction = chain(2).genes
    old, new = reduction_positions(searched), reduction_positions(num_cells)
    seq = [int(place in old) for place in range(searched)]
    genotype = expand(Genotype([normal, reduction], old, (2,), seq), num_cells)
    assert genotype.reductions == new
    wanted = [reduction if place in new else normal for place in range(num_cells)]
    assert genotype.cells == tuple(wanted)
    assert len(genotype.genes) == len({*wanted}), "they stay shared"


@pytest.mark.parametrize(
    ("genotype", "num_cells", "word"),
    [
        (chain(8), 7, "at least 8"),
        (chain(4, (1, 2, 3)), 9, "exactly two"),
        (chain(3), 6, "empty"),
        (chain(8, (3, 4)), 8, "empty"),
    ],
)
def test_expand_names_what_is_impossible(genotype, num_cells, word):
    """Shrinking, other than two reductions and a stretch without cells raise a UserError."""
    with pytest.raises(UserError, match=word):
        expand(genotype, num_cells)


# The class and its file ---------------------------------------------------------------------------


def test_genotype_normalises():
    """Lists become tuples, entries are sorted by node and keep their order within a node."""
    cell = [["b", 4, 0], ["b", 2, 1], ["a", 2, np.int64(0)]]
    genotype = Genotype([cell], [1, 0], [4, 2], [0, 0])
    assert genotype.genes == ((("b", 2, 1), ("a", 2, 0), ("b", 4, 0)),)
    assert (genotype.reductions, genotype.concat, genotype.seq) == ((0, 1), (4, 2), (0, 0))
    assert genotype.num_cells == len(genotype.cells) == 2
    assert hash(genotype) == hash(dataclasses.replace(genotype))


VALID = {"genes": [[["a", 2, 0]]], "reductions": [0], "concat": [2], "seq": None}
BROKEN_FIELDS = [
    {"genes": []},
    {"genes": {}},
    {"genes": "ab"},
    {"genes": [{}]},
    {"genes": [[["a", 2]]]},
    {"genes": [["abc"]]},
    {"genes": [[[1, 2, 0]]]},
    {"genes": [[["", 2, 0]]]},
    {"genes": [[["a\n", 2, 0]]]},
    {"genes": [[["a", 1, 0]]]},
    {"genes": [[["a", 2, 2]]]},
    {"genes": [[["a", 2, -1]]]},
    {"genes": [[["a", 2.0, 0]]]},
    {"genes": [[["a", 2, False]]]},
    {"genes": [[["a", 10**12, 0]]]},
    {"genes": [[["a", 2, 0], ["a", 2, 0]]]},
    {"reductions": [1]},
    {"reductions": [0, 0]},
    {"reductions": None},
    {"reductions": 0},
    {"concat": []},
    {"concat": [1]},
    {"concat": [2, 2]},
    {"seq": []},
    {"seq": [1]},
    {"seq": [1, 1], "genes": [[["a", 2, 0]], [["b", 2, 0]]]},  # cell 0 has no place
    {"seq": "0"},
]


@pytest.mark.parametrize("change", BROKEN_FIELDS, ids=str)
def test_genotype_rejects_broken_fields(change):
    """What describes no network is refused, with the field's name in the message."""
    Genotype(**VALID)
    with pytest.raises(UserError, match=next(iter(change))):
        Genotype(**{**VALID, **change})


@given(genotypes())
@SAME_FOLDER
def test_save_and_load_round_trip(tmp_path, genotype):
    """Loading what was saved gives an equal genotype and leaves no other file behind."""
    path = tmp_path / "genotype.json"
    genotype.save(path)
    assert Genotype.load(path) == genotype
    assert list(tmp_path.iterdir()) == [path]


def test_saved_file_is_readable(tmp_path):
    """A person reads one entry a line; other tools read plain JSON."""
    chain(2).save(str(tmp_path / "genotype.json"))
    text = (tmp_path / "genotype.json").read_text()
    assert '      ["op1", 2, 1]\n' in text
    assert json.loads(text) == {
        "genes": [[["op0", 2, 1]], [["op1", 2, 1]]],
        "reductions": [0, 1],
        "concat": [2],
        "seq": None,
    }


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    """A write that breaks off leaves the old genotype and no litter."""
    path = tmp_path / "genotype.json"
    chain(2).save(path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match="No space left"):
        chain(3).save(path)
    assert Genotype.load(path) == chain(2)
    assert list(tmp_path.iterdir()) == [path]


def test_save_into_missing_folder(tmp_path):
    """A folder that does not exist is a UserError that names the path."""
    with pytest.raises(UserError, match="missing/genotype"):
        chain(2).save(tmp_path / "missing" / "genotype.json")


@given(genotypes())
@settings(deadline=None)
def test_what_python_prints_is_read_back(genotype):
    """`print(genotype)` gives text that means the same network, also as a value in a log."""
    assert parse_genotype(repr(genotype)) == genotype
    assert parse_genotype(f"found = {genotype}\n", "found") == genotype


def assert_load_refuses(path):
    with pytest.raises(UserError) as caught:
        Genotype.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"\x00\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"{}", b"NaN"],
        *[
            b"1" * 10_000,
            json.dumps({**VALID, "more": 1}).encode(),
            json.dumps(VALID)[:-3].encode(),
        ],
        json.dumps({**VALID, "genes": [["x" * 100_000]]}).encode(),
        json.dumps({**VALID, "genes": [[["\ud800", 2, 0]]]}).encode(),
        b'{"genes": [[["a", 2, NaN]]], "reductions": [], "concat": [2]}',
        b'{"genes": ' + b"[" * 900 + b"]" * 900 + b', "reductions": [], "concat": [2]}',
    ],
    ids=range(15),
)
def test_load_refuses_broken_files(tmp_path, content):
    """Broken and hostile files raise one short UserError that names the file."""
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    assert_load_refuses(path)


def test_load_refuses_what_is_no_file(tmp_path):
    """A missing file, a folder, an endless device and an impossible name are refused at once."""
    names = (tmp_path / "missing.json", tmp_path, "/dev/zero", "a\0b.json", tmp_path / ("x" * 300))
    for path in names:
        assert_load_refuses(path)
    with pytest.raises(UserError, match=r"'a\\x00b' is not a handcrafted network"):
        Genotype.load("a\0b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=4),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.sampled_from([*VALID, "x"]), children)
    ),
)


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
@SAME_FOLDER
def test_load_survives_any_file(tmp_path, content):
    """Whatever the bytes, loading ends with a genotype or with a UserError."""
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    try:
        assert isinstance(Genotype.load(path), Genotype)
    except UserError as error:
        assert str(path) in str(error)


@given(st.sampled_from(list(VALID)), JSON)
@SAME_FOLDER
def test_load_survives_any_field(tmp_path, field, value):
    """A genotype file with one field replaced by anything is loaded or refused, never a crash."""
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps({**VALID, field: value}))
    try:
        assert isinstance(Genotype.load(path), Genotype)
    except UserError as error:
        assert str(path) in str(error)

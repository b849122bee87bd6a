"""Genotypes as text: of D-DARTS's authors, of the DARTS family, and as Python prints ours."""

import collections
import re

import pytest
from authors import GENES, TEXT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import zoo
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.text import is_text, parse_genotype

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
SMALL = (
    "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=range(2, 3))"
)


def test_text_is_read_as_it_stands():
    """Cells, reductions and the order of a node's entries, which names the authors' weights."""
    genotype = parse_genotype(TEXT)
    assert genotype.genes == GENES
    assert (genotype.reductions, genotype.concat, genotype.seq) == ((1,), (2, 3), None)


@pytest.mark.parametrize(
    ("concat", "expected"),
    [("range(3, 4)", (2, 3)), ("[2]", (2, 3)), ("range(4, 8)", (2, 3, 4, 5, 6, 7))],
)
def test_all_nodes_are_concatenated(concat, expected):
    """As in the authors' network, whatever `concat` says."""
    assert parse_genotype(TEXT.replace("range(2, 4)", concat)).concat == expected


def test_text_with_shared_cells():
    """`Genotype_opt`, the authors' form of handcrafted networks, names its cells by `seq`."""
    text = TEXT.replace("_nested", "_opt").replace(
        "reductions=[1]", "reductions=range(2),seq=[1, 0]"
    )
    genotype = parse_genotype(text)
    assert (genotype.seq, genotype.reductions) == ((1, 0), (0, 1))


def test_two_cells_become_a_network_of_8():
    """The text of the DARTS family, as its program prints it, is the published network."""
    genotype = parse_genotype(DARTS_V2)
    assert genotype == zoo.load("DARTS_V2")
    assert (genotype.num_cells, genotype.reductions) == (8, (2, 5))
    assert genotype.seq == (0, 0, 1, 0, 0, 1, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{DARTS_V2}\r\n",
        f"DARTS_V2 = {DARTS_V2}",
        f"DARTS_V2: tuple = {DARTS_V2}",
        f"06/25 10:19:57 AM genotype = {DARTS_V2}",
        f"INFO: {DARTS_V2}\n",
        f"it's (epoch 49] {DARTS_V2}, acc 97.2\nGenotype(normal=[('cut",
        DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "list(range(2, 6))"),
        DARTS_V2.replace("), (", "),\n  # a comment (\n  ("),
        DARTS_V2.replace("Genotype", "genotypes.Genotype"),
        DARTS_V2.replace("reduce_concat=", "connects=None, reduce_concat="),
        f'MODELS = {{"DARTS": "{DARTS_V2}", "same": "{DARTS_V2}"}}',
        f'GENOTYPE = ("{DARTS_V2[:40]}" "{DARTS_V2[40:]}")',
        f"python train.py --genotype \\\n\"{DARTS_V2}\" --name 'x'",
        f'{{"epoch": 3, "genotype": "{DARTS_V2}"}}',
    ],
    ids=range(15),
)
def test_text_is_found_among_other_text(text):
    """A byte order mark, an assignment, a log line, a command, a dictionary of strings."""
    assert parse_genotype(text) == zoo.load("DARTS_V2")


MODULE = f"""from collections import namedtuple
Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
PRIMITIVES = ['none', 'skip_connect']

V1 = {SMALL}  # 97.00 (mean)
V2 = {DARTS_V2}
#V2 = {SMALL}
BROKEN = Genotype(normal=open('x'), normal_concat=[], reduce=[], reduce_concat=[])
DARTS = V2
"""


def test_one_of_several_is_read_by_its_name():
    """A module of several genotypes, one of them with two names, one of them broken."""
    assert parse_genotype(MODULE, "V2") == zoo.load("DARTS_V2")
    assert parse_genotype(MODULE, "DARTS") == zoo.load("DARTS_V2")
    assert parse_genotype(MODULE, "V1") == parse_genotype(SMALL)
    with pytest.raises(UserError, match=r"3 different genotypes, V1, V2, BROKEN, DARTS: .*#NAME"):
        parse_genotype(MODULE)
    with pytest.raises(UserError, match="no genotype V3 in this text, but V1, V2"):
        parse_genotype(MODULE, "V3")
    with pytest.raises(UserError, match="none of which has a name"):
        parse_genotype(f"{SMALL}\n{DARTS_V2}\n")


def test_of_a_log_the_last_genotype_is_read_by_name():
    """A search logs one after each epoch, all of the same name."""
    log = f"10:19 AM genotype = {SMALL}\n10:20 AM loss 0.3\n10:29 AM genotype = {DARTS_V2}\n"
    assert parse_genotype(log, "genotype") == zoo.load("DARTS_V2")
    assert parse_genotype(log.replace(DARTS_V2, SMALL)) == parse_genotype(SMALL)
    with pytest.raises(UserError, match="2 different genotypes, genotype: "):
        parse_genotype(log)


def test_what_is_text():
    """A name or a path is not text, whatever its letters."""
    assert is_text(TEXT) and is_text(f"x = {DARTS_V2}")
    assert not any(map(is_text, ("Genotype", "runs/Genotype_1", "DARTS_V2", "myGenotype(1)")))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("reduce=", "normal_bottleneck='x', reduce=", "normal_bottleneck is unknown"),
        ("normal_concat=[2, 3, 4, 5], ", "", "its arguments must be normal"),
        ("reduce=[", "reduce=open('x')[", "malformed node"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", "normal contains .*source less than node"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3',)", "normal must contain pairs"),
        (", ('dil_conv_3x3', 2)", "", "normal must have two pairs .* found 7"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 3, 4]", "leaves out node 5"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=5", "normal_concat must be a list"),
    ],
)
def test_the_message_says_what_is_wrong(old, new, reason):
    """A genotype that is nearly right is refused with its mistake."""
    assert old in DARTS_V2
    with pytest.raises(UserError, match=reason) as error:
        parse_genotype(DARTS_V2.replace(old, new))
    assert len(str(error.value)) < 500


LIMIT = 10**6
HOSTILE = [
    "",
    "\0",
    "__import__('os').system('true')",
    "Genotype_nested",
    "print(genes=[], concat=[2], reductions=[])",
    TEXT.replace("Genotype_nested", "(lambda **_: 1)"),
    TEXT.replace("[1]", "open('x')"),
    TEXT.replace("[1]", "range(0, 9, 2)"),
    TEXT.replace("[1]", "range('a')"),
    TEXT.replace("[1]", "[i for i in range(2)]"),
    TEXT.replace("[1]", "[2]"),
    TEXT.replace("[1]", "{1: 2}"),
    TEXT.replace("range(2, 4)", "range(2, 10**9)"),
    TEXT.replace("range(2, 4)", "range(2, 1000000000000)"),
    TEXT.replace("reductions=[1]", "**{'reductions': [1]}"),
    TEXT.replace(", reductions=[1]", ""),
    TEXT.replace("2, 1", "2, 2"),
    TEXT.replace("2, 1", "0x" + "f" * 9000 + ", 1"),
    TEXT.replace("2, 1", "9" * 9000 + ", 1"),
    TEXT.replace("[1]", "[" * 90 + "]" * 90),
    TEXT.replace("[1]", "-" * 90_000 + "1"),
    TEXT.replace("[1]", "1" + "+1" * 90_000),
    TEXT.replace("[1]", "a" + ".b" * 90_000),
    "(" * 100_000,
    "lambda:" * 20_000 + "1",
    TEXT + " " * LIMIT,
    SMALL.replace("range(2, 3)", "range(2, 1000000000000)"),
    SMALL.replace("range(2, 3)", "list(range(1000000000000))"),
    SMALL.replace("('skip_connect', 0)", "'skip_connect'"),
    SMALL.replace("('skip_connect', 0)", "('skip_connect', -1)"),
    SMALL.replace("('skip_connect', 0)", "('skip_connect', 0.0)"),
    SMALL.replace("normal=", "*"),
    "Genotype(" * 20_000,
    "Genotype(" * 20_000 + ")" * 20_000,
    "A=B\n" * 45_000 + "Genotype(",
    "\n".join(f"a{n}={SMALL.replace('skip', f'skip{n}')}" for n in range(900)),
    "'Genotype()'\n" * 15_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused(text):
    """One short message, and nothing is called, allocated or exhausted."""
    with pytest.raises(UserError) as error:
        parse_genotype(text)
    assert len(str(error.value)) < 500


TOKENS = [
    *re.findall(r"\w+|'|[^\w']", TEXT + SMALL),
    *"-+{:é\n#",
    *("**", "10", "None", "'\\'", "seq=", " = "),
]


def mutations(text):
    """The text with up to 9 characters replaced by a token, anywhere."""
    return st.tuples(st.integers(0, len(text)), st.integers(0, 9), st.sampled_from(TOKENS)).map(
        lambda cut: text[: cut[0]] + cut[2] + text[sum(cut[:2]) :]
    )


@given(
    st.one_of(
        st.text(max_size=50),
        st.lists(st.sampled_from(TOKENS), max_size=60).map("".join),
        mutations(TEXT),
        mutations(SMALL),
        mutations(f"X = {SMALL}\nY = {TEXT}"),
    ),
    st.sampled_from(("", "X")),
)
@example(TEXT, "")
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_genotype_or_a_message(text, name):
    """Random text, random tokens and mutations of a good one never raise anything else."""
    try:
        assert isinstance(parse_genotype(text, name), Genotype)
    except UserError:
        pass


Family = collections.namedtuple("Genotype", "normal normal_concat reduce reduce_concat")


@st.composite
def cells(draw):
    """The (primitive, source) of every node of a cell, two each and different."""
    nodes = draw(st.integers(1, 5))
    names = st.sampled_from(("skip_connect", "max_pool_3x3", "sep_conv_3x3"))
    return [
        draw(
            st.lists(
                st.tuples(names, st.integers(0, node - 1)), min_size=2, max_size=2, unique=True
            )
        )
        for node in range(2, 2 + nodes)
    ]


FORMS = {
    "pairs": lambda cell: [pair for node in cell for pair in node],
    "nodes": lambda cell: cell,
    "tuples": lambda cell: tuple(map(tuple, cell)),
    "weights": lambda cell: [(name, source, 0.125) for node in cell for name, source in node],
    "triples": lambda cell: [
        (name, node, source) for node, pairs in enumerate(cell, 2) for name, source in pairs
    ],
}


@given(cells(), cells(), st.sampled_from(sorted(FORMS)), st.booleans())
@settings(deadline=None)
def test_what_programs_print_is_read_back(normal, reduce, form, as_list):
    """Two cells in any form in use are read as those two cells."""
    nodes = [range(2, 2 + len(cell)) for cell in (normal, reduce)]
    concat = [list(node) for node in nodes] if as_list else nodes
    shape = FORMS[form]
    printed = str(Family(shape(normal), concat[0], shape(reduce), concat[1]))
    genotype = parse_genotype(printed)
    assert genotype.genes == tuple(tuple(FORMS["triples"](cell)) for cell in (normal, reduce))
    assert genotype.concat == tuple(max(nodes, key=len))
    assert genotype == parse_genotype(repr(genotype))

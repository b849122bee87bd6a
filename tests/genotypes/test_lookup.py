"""Genotypes by name, by file and by the authors' text."""

import re

import numpy as np
import pytest
from authors import GENES, TEXT, reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, encode, parse
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED
from ddarts_jax.genotypes.lookup import find_genotype, parse_genotype
from ddarts_jax.genotypes.spaces import DARTOPTI_PRIMITIVES
from ddarts_jax.models.cost import cost


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
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused(text):
    """One short message, and nothing is called, allocated or exhausted."""
    with pytest.raises(UserError) as error:
        parse_genotype(text)
    assert len(str(error.value)) < 500


TOKENS = [*re.findall(r"\w+|'|[^\w']", TEXT), *"-+{:é", "**", "10", "None", "'\\'", "seq="]


@given(
    st.one_of(
        st.text(max_size=50),
        st.lists(st.sampled_from(TOKENS), max_size=60).map("".join),
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 9), st.sampled_from(TOKENS)).map(
            lambda cut: TEXT[: cut[0]] + cut[2] + TEXT[sum(cut[:2]) :]
        ),
    )
)
@example(TEXT)
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_any_text_gives_a_genotype_or_a_message(text):
    """Random text, random tokens and mutations of a good one never raise anything else."""
    try:
        assert isinstance(parse_genotype(text), Genotype)
    except UserError:
        pass


def test_names_and_files_mean_genotypes(tmp_path):
    """A handcrafted network, the authors' encoding of it, our file, and the authors' text."""
    assert find_genotype("ResNet18") is HANDCRAFTED["ResNet18"]
    assert find_genotype("authors/ResNet18") is AUTHORS["ResNet18"]
    genotype = parse_genotype(TEXT)
    genotype.save(tmp_path / "genotype.json")
    (tmp_path / "genotype.txt").write_text(TEXT)
    for name in ("genotype.json", "genotype.txt"):
        for path in (tmp_path / name, str(tmp_path / name)):
            assert find_genotype(path).genes == GENES


@pytest.mark.parametrize(
    "name", ["ResNet19", "authors/InceptionV4", "x.json", "", "/dev/zero", "\0"]
)
def test_unknown_name_is_refused(name):
    """The message has the known names, and says that there is no such file."""
    with pytest.raises(UserError, match=r"Xception, .*authors/ResNet50.*no such file"):
        find_genotype(name)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"Genotype_nested()", b" " * LIMIT])
def test_broken_genotype_file_is_refused(tmp_path, content):
    """The message names the file."""
    path = tmp_path / "genotype.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"genotype\.txt"):
        find_genotype(path)


@pytest.mark.parametrize(
    ("name", "channels", "params", "macs"),
    [
        ("D-DARTS_threshold_sparse_cifar10_0.85_50", 36, 1_244_242, 255_307_392),
        ("D-DARTS_threshold_edge_abl0.5_fair7_cifar100_0.85_50", 36, 2_905_030, 556_412_544),
        ("ResNet18_cifar10_threshold_sparse_0.85", 64, 36_318_538, 1_922_125_824),
        ("ResNet18_cifar10_threshold_edge_0.85", 64, 54_183_754, 2_785_857_536),
        ("ResNet50_cifar10_threshold_sparse_0.85", 64, 71_237_450, 3_461_740_544),
        ("ResNet50_cifar10_threshold_edge_0.85", 64, 123_261_898, 7_680_751_616),
        ("Xception_cifar10_threshold_sparse_0.85", 64, 112_863_434, 6_603_116_544),
        ("Xception_cifar10_threshold_edge_0.85", 64, 307_110_218, 18_254_106_624),
    ],
)
def test_published_genotypes_cost_what_the_authors_count(name, channels, params, macs):
    """Parameters and MACs of all eight, with the reductions of the files; alphas that say them."""
    genotype = find_genotype(reference(f"genotypes/{name}.txt"))
    found = cost(genotype, channels, 10, 32)
    assert (found.params, found.macs) == (params, macs)
    probabilities = 1 / (1 + np.exp(-encode(genotype, DARTOPTI_PRIMITIVES, 2.0)))
    kept = "complete", 0.85, genotype.reductions, genotype.seq
    assert parse(probabilities, DARTOPTI_PRIMITIVES, *kept) == genotype

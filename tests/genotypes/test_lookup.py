"""Genotypes by name, by file and by text."""

import numpy as np
import pytest
from authors import GENES, TEXT, reference

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import zoo
from ddarts_jax.genotypes.genotype import Genotype, encode, parse
from ddarts_jax.genotypes.handcrafted import AUTHORS, HANDCRAFTED
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.genotypes.spaces import DARTOPTI_PRIMITIVES
from ddarts_jax.genotypes.text import parse_genotype
from ddarts_jax.models.cost import cost

LIMIT = 10**6


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


SMALL = (
    "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=range(2, 3))"
)


def test_published_networks_have_names():
    """Of every network our name, and the one in its authors' file."""
    genotype = Genotype.load("PC_DARTS_cifar")
    assert genotype == find_genotype("PC_DARTS_cifar10") == zoo.load("PC_DARTS_cifar10")
    assert (genotype.num_cells, len(genotype.genes)) == (8, 2)
    assert Genotype.load("DD-1").reductions == (2, 5)
    with pytest.raises(UserError, match=r"'DARTS_v2' is not .* published one .*\(DARTS_V2, "):
        find_genotype("DARTS_v2")


def test_one_genotype_of_a_file(tmp_path):
    """The name after '#' chooses; a file whose own name has a '#' is read as well."""
    path = tmp_path / "genotypes.py"
    path.write_text(f"A = {SMALL}\nB = {TEXT}")
    assert find_genotype(f"{path}#A") == parse_genotype(SMALL)
    assert Genotype.load(f"{path}#B").genes == GENES
    with pytest.raises(UserError, match=r"genotypes\.py: .* 2 different genotypes, A, B"):
        find_genotype(path)
    with pytest.raises(UserError, match=r"genotypes\.py: There is no genotype C "):
        find_genotype(f"{path}#C")
    marked = tmp_path / "my#1.txt"
    marked.write_text(SMALL)
    assert find_genotype(marked) == find_genotype(str(marked)) == parse_genotype(SMALL)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_any_editor_are_read(tmp_path, encoding, newline):
    """With a byte order mark or not, and with either end of a line."""
    path = tmp_path / "log.txt"
    path.write_bytes(f"10:19 start{newline}10:20 genotype = {SMALL}{newline}".encode(encoding))
    assert find_genotype(path) == parse_genotype(SMALL)


def test_the_text_itself_is_a_genotype():
    """As `--config.genotype=TEXT`, which passes the flags unchanged."""
    flags = ["main", "--config", "digits", "--config.task=train", f"--config.genotype={SMALL}"]
    config, _ = configuration.parse_flags(flags)
    assert find_genotype(config.genotype) == parse_genotype(SMALL)
    assert Genotype.load(TEXT).genes == GENES
    with pytest.raises(UserError, match="no complete Genotype"):
        find_genotype("Genotype(" * 1000)


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

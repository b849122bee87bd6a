"""The published networks: names, sources, and what a search can do with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from authors import reference

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import zoo
from ddarts_jax.genotypes.genotype import Genotype, encode, parse
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.genotypes.spaces import DARTS_PRIMITIVES

NETWORKS = json.loads(Path(zoo.__file__).with_name("zoo.json").read_text())["networks"]
ROOT = Path(__file__).parents[2]
BEYOND = ("NASNet", "AmoebaNet")  # what a Genotype cannot express


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BEYOND])
def test_every_network_is_built_from_its_cells(name):
    """The entries of the file, in the order in which they are published."""
    genotype, fields = zoo.load(name), NETWORKS[name]
    if "genes" in fields:
        assert genotype.genes == tuple(tuple(map(tuple, cell)) for cell in fields["genes"])
        assert genotype.reductions == tuple(fields["reductions"])
    else:
        assert genotype.genes == tuple(
            tuple(map(tuple, fields[kind])) for kind in ("normal", "reduce")
        )
        assert (genotype.num_cells, genotype.reductions) == (8, (2, 5))
        assert genotype.expand(20).reductions == (6, 13), "as in DARTS, CIFAR-10"
        assert genotype.expand(14).reductions == (4, 9), "as in DARTS, ImageNet"
        assert zoo.load(fields["name_there"]) == genotype


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NASNet", "normal contains an entry twice"),
        ("AmoebaNet", "normal_concat leaves out node 2"),
    ],
)
def test_what_cannot_be_expressed_is_refused(name, reason):
    """It is never another network under the same name; its source and costs are known all the same."""
    with pytest.raises(UserError, match=f"network {name} cannot be built here: {reason}"):
        Genotype.load(name)
    assert zoo.published(name).costs["cifar10"][0] > 3e6


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_source(name):
    """Paper, repository with commit, file and licence; who reports a figure is named."""
    found = zoo.published(name)
    assert found.paper and len(found.arxiv) == 10 and found.file and found.licence
    assert len(found.commit) == 40 and int(found.commit, 16)
    assert all(row["source"] and len(row) > 1 for row in found.reported)
    assert set(found.costs) <= set(zoo.settings())
    assert found.costs or found.reported


def test_names_mean_one_network_each():
    """The names of the authors' files do not collide with ours, or with handcrafted networks."""
    ours = set(NETWORKS)
    there = [fields["name_there"] for fields in NETWORKS.values()]
    assert len(there) == len(set(there)) == len(NETWORKS)
    for name, fields in NETWORKS.items():
        assert fields["name_there"] == name or fields["name_there"] not in ours
    with pytest.raises(UserError, match="no published network 'DD-9': use one of NASNet, "):
        zoo.published("DD-9")


def test_the_article_s_networks_are_those_of_the_authors_files():
    """Cell by cell; DD-* with the reductions of the article, the others with the file's."""
    counted = [name for name, fields in NETWORKS.items() if "genes" in fields and fields["costs"]]
    assert counted == ["DD-1", "DD-4", "DO-1-ResNet18", "DO-1-ResNet50", "DO-1-Xception"]
    for name in counted:
        there = find_genotype(reference(f"genotypes/{NETWORKS[name]['name_there']}"))
        here = zoo.load(name)
        assert here.genes == there.genes and here.concat == there.concat
        assert here.reductions == ((2, 5) if name.startswith("DD") else there.reductions)


def test_a_search_can_start_from_two_published_cells():
    """They are written as alphas of the DARTS space, and parsed back."""
    genotype = zoo.load("DARTS_V2")
    alphas = encode(genotype, DARTS_PRIMITIVES, 2.0)
    assert alphas.shape == (2, 14, 7)
    probabilities = 1 / (1 + np.exp(-alphas))
    kept = "complete", 0.85, genotype.reductions, genotype.seq
    assert parse(probabilities, DARTS_PRIMITIVES, *kept) == genotype


def test_the_table_for_readers_is_complete():
    """docs/zoo.md has a row for every network, with its counts and its repository's licence."""
    table = (ROOT / "docs" / "zoo.md").read_text()
    for name in NETWORKS:
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` "))
        for counts in zoo.published(name).costs.values():
            assert all(f"{count:,}" in row for count in counts), row
    for name in NETWORKS:
        found = zoo.published(name)
        (row,) = (line for line in table.splitlines() if f"| {found.repository} |" in line)
        assert found.commit in row and found.licence in row and found.file in row


def test_the_counts_are_those_that_were_given():
    """Counts of the public programs, where the developers' file of them is at hand."""
    path = tiny.SHARED / "zoo" / "zoo.json"
    if not path.is_file():
        pytest.skip("needs the developers' zoo.json")
    given = json.loads(path.read_text())["networks"]
    assert {name for name in NETWORKS if "normal" in NETWORKS[name]} == set(given)
    for name, fields in given.items():
        counts = {key: (cost["params"], cost["macs"]) for key, cost in fields["computed"].items()}
        assert zoo.published(name).costs == counts

"""Cost of a network: the authors' counts exactly, and parts counted by hand."""

import ast

import pytest
import tiny

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.models.cost import cost

GENOTYPES = tiny.SHARED / "reference" / "genotypes"


@pytest.mark.parametrize(
    ("name", "reductions", "params", "macs"),
    [
        ("threshold_sparse_cifar10_0.85_50", (2, 6), 1_244_242, 255_307_392),
        ("threshold_sparse_cifar10_0.85_50", (2, 5), 1_604_602, 251_261_568),
        ("threshold_edge_abl0.5_fair7_cifar100_0.85_50", (2, 6), 2_905_030, 556_412_544),
        ("threshold_edge_abl0.5_fair7_cifar100_0.85_50", (2, 5), 3_880_342, 547_989_120),
    ],
)
def test_cost_equals_the_authors_counts(name, reductions, params, macs):
    """Parameters and MACs of the published genotypes at 36 channels are the authors' exactly."""
    path = GENOTYPES / f"D-DARTS_{name}.txt"
    if not path.exists():
        pytest.skip(f"needs the authors' genotype {path.name}")
    call = ast.parse(path.read_text(), mode="eval").body
    genes = ast.literal_eval(next(k.value for k in call.keywords if k.arg == "genes"))
    found = cost(Genotype(genes, reductions, (2, 3, 4, 5)), 36, 10, 32)
    assert (found.params, found.macs) == (params, macs)


# One reduction cell: 4 channels, 4x4 images become 2x2.
ONE_CELL = Genotype(
    [[("sep_conv_3x3", 2, 0), ("max_pool_3x3", 3, 1), ("skip_connect", 3, 2)]], (0,), (2, 3)
)


def test_cost_by_hand():
    """Every part of a one-cell network, counted by hand."""
    found = cost(ONE_CELL, channels=2, num_classes=3, image_size=4, image_channels=1)
    norm = 2 * 4
    separable = 9 * 4 + 4 * 4 + norm
    cell_params = 2 * (6 * 4 + norm) + 2 * separable
    cell_macs = 16 * 2 * (6 * 4) + 4 * 2 * (9 * 4 + 4 * 4)
    assert found.cell_params == (cell_params,)
    assert found.cell_macs == (cell_macs,)
    assert found.params == (9 * 6 + 2 * 6) + cell_params + (8 * 3 + 3)
    assert found.macs == 16 * 9 * 6 + cell_macs + 8 * 3


def test_cost_of_the_auxiliary_head():
    """The head's parameters are counted on request; evaluation never runs it."""
    without, found = (cost(ONE_CELL, 2, 3, 16, auxiliary=auxiliary) for auxiliary in (False, True))
    head = (8 * 128 + 2 * 128) + (4 * 128 * 768 + 2 * 768) + (768 * 3 + 3)
    assert found.params - without.params == head
    assert (found.macs, found.cell_params) == (without.macs, without.cell_params)


def test_cost_of_an_empty_cell_is_refused():
    """The mistake that building the network reports."""
    with pytest.raises(UserError, match="Cell 0"):
        cost(Genotype([[("skip_connect", 3, 2)]], (), (3,)), 2, 3, 4)

"""The outline of a search: the cells that it will find, told before it runs."""

import numpy as np
import pytest
import tiny

from ddarts_jax.data import dataset as data
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.searching import outline, search

_START = Genotype([[("max_pool_3x3", 2, 0)], [("skip_connect", 2, 1)]], (1, 2), (2,), (0, 1, 1, 0))


@pytest.mark.parametrize("cells", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["ddarts", "darts", "fairdarts"])
@pytest.mark.parametrize("start", [None, _START])
def test_what_is_found_has_the_cells_of_the_outline(tmp_path, method, cells, start):
    """Number, nodes, reductions and which cells share an architecture are those of a parsed supernet."""
    config = tiny.config(tiny.write_data(tmp_path / "digits.npz"))
    config.search.update({"method": method, "num_cells": cells, "channels": 4})
    told = outline.genotype(config.search, start)
    supernet, _, alphas = search.build(config, data.load(config.data), "float32", start)
    found = search.derive(np.asarray(alphas), supernet, config.parse)
    for part in ("num_cells", "num_nodes", "reductions", "concat"):
        assert getattr(told, part) == getattr(found, part), part
    told_seq, found_seq = (tuple(each.seq or range(each.num_cells)) for each in (told, found))
    assert told_seq == found_seq

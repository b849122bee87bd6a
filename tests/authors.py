"""The authors' files, where they are at hand, and a genotype as they write it."""

import pytest
import tiny

REFERENCE = tiny.SHARED / "reference"

TEXT = (
    "Genotype_nested(genes=[[('skip_connect', 2, 1), ('sep_conv_3x3', 2, 0)], "
    "[('max_pool_3x3', 3, 0)]], concat=range(2, 4), reductions=[1])\n"
)
GENES = (
    (("skip_connect", 2, 1), ("sep_conv_3x3", 2, 0)),
    (("max_pool_3x3", 3, 0),),
)


def reference(name):
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"needs the authors' file {name}")
    return path

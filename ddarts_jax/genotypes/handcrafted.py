"""Handcrafted networks written as genotypes of the 12-primitive space (DARTOpti, D-DARTS section 4).

A cell of a genotype is a block, or a stage, of the network. Its output concatenates all nodes, whereas
the network's output is the last one only; the 1x1 convolution of the next cell can select it.

`AUTHORS` contains the encodings of the authors' program. They read node 0, the output of the cell before
the last, where the network reads the last cell's output; so every second cell leads nowhere, or only
into unused branches, and gets no gradient. `HANDCRAFTED` contains the same with node 1 instead: a chain.
Counts of distinct cells are those of the encodings: Xception has 3, although its article names 5.
"""

from ddarts_jax.genotypes.genotype import Cell, Genotype


def _genotype(genes, seq, reductions, num_nodes) -> Genotype:
    return Genotype(genes, reductions, range(2, num_nodes + 2), seq)


def _resnet18(source: int) -> Genotype:
    """Four stages of two basic blocks: two 3x3 convolutions and a skip each."""
    stage = (
        ("simple_conv_3x3", 2, source),
        ("simple_conv_3x3", 3, 2),
        ("skip_connect", 3, source),
        ("simple_conv_3x3", 4, 3),
        ("simple_conv_3x3", 5, 4),
        ("skip_connect", 5, 3),
    )
    return _genotype([stage], (0, 0, 0, 0), (1, 2, 3), 4)


def _resnet50(source: int) -> Genotype:
    """Stages of 3, 4, 6 and 3 bottlenecks with skips; each is a node."""

    def stage(blocks: int) -> Cell:
        return tuple(
            (primitive, node, source if node == 2 else node - 1)
            for node in range(2, 2 + blocks)
            for primitive in ("bottleneck_1x3x1", "skip_connect")
        )

    return _genotype([stage(3), stage(4), stage(6)], (0, 1, 2, 0), (1, 2, 3), 6)


def _xception(source: int) -> Genotype:
    """Entry flow (3 blocks), middle flow (8 blocks), exit flow (2 blocks)."""
    entry = (
        ("simple_conv_1x1", 4, source),
        ("sep_conv_3x3", 2, source),
        ("sep_conv_3x3", 3, 2),
        ("max_pool_3x3", 4, 3),
    )
    middle = (
        ("skip_connect", 4, source),
        ("sep_conv_3x3", 2, source),
        ("sep_conv_3x3", 3, 2),
        ("sep_conv_3x3", 4, 3),
    )
    last = (("sep_conv_3x3", 2, source), ("sep_conv_3x3", 3, 2))
    seq = (0,) * 3 + (1,) * 8 + (0, 2)
    return _genotype([entry, middle, last], seq, (1, 2, 11, 12), 4)


def _inception_v4() -> Genotype:
    """4 x A, reduction, 7 x B, reduction, 3 x C (Szegedy et al. 2017); the authors have no such encoding.

    Branches of a block that begin with the same 1x1 convolution share it, and a shorter branch is a
    node of the longer one. The convolution after a pool is the next cell's 1x1 convolution.
    """

    def block(convolution: str) -> Cell:
        return (
            ("simple_conv_1x1", 2, 1),
            (convolution, 3, 2),
            (convolution, 4, 3),
            ("avg_pool_3x3", 5, 1),
        )

    def reduction(convolution: str) -> Cell:
        return (
            ("simple_conv_3x3", 2, 1),
            (convolution, 3, 1),
            ("simple_conv_3x3", 4, 3),
            ("max_pool_3x3", 5, 1),
        )

    genes = [
        block("simple_conv_3x3"),
        reduction("simple_conv_1x1"),
        block("conv_7x1_1x7"),
        reduction("conv_7x1_1x7"),
        block("conv_3x1_1x3"),
    ]
    seq = (0,) * 4 + (1,) + (2,) * 7 + (3,) + (4,) * 3
    return _genotype(genes, seq, (4, 12), 4)


AUTHORS = {"ResNet18": _resnet18(0), "ResNet50": _resnet50(0), "Xception": _xception(0)}

HANDCRAFTED = {
    "ResNet18": _resnet18(1),
    "ResNet50": _resnet50(1),
    "Xception": _xception(1),
    "InceptionV4": _inception_v4(),
}

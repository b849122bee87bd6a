"""The networks whose feature maps a detector can read: the article's sizes and the handcrafted ones."""

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.handcrafted import HANDCRAFTED


def cells(count, *reductions):
    """A network of D-DARTS's number of nodes that traces quickly."""
    cell = tuple(("skip_connect", node, node - 1) for node in range(2, 6))
    return Genotype([cell], reductions, range(2, 6), (0,) * count)


# Genotype, and the last cell of every size.
FAMILIES = {
    "8 cells": (cells(8, 2, 5), (1, 4, 7)),
    "8 cells of the authors' files": (cells(8, 2, 6), (1, 5, 7)),
    "14 cells": (cells(14, 4, 9), (3, 8, 13)),
    "InceptionV4": (HANDCRAFTED["InceptionV4"], (3, 11, 15)),
    "ResNet18": (HANDCRAFTED["ResNet18"], (0, 1, 2, 3)),
    "ResNet50": (HANDCRAFTED["ResNet50"], (0, 1, 2, 3)),
    "Xception": (HANDCRAFTED["Xception"], (0, 1, 10, 11, 12)),
}

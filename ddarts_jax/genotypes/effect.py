"""What of a genotype has an effect on its network's answer, and what has none."""

from ddarts_jax.genotypes.genotype import Cell, Genotype, existing_nodes


def working(cell: Cell) -> Cell:
    """The entries of a cell whose source exists, in their order; the network is without the others."""
    exist = existing_nodes(cell)
    return tuple(entry for entry in cell if entry[2] in exist)


def unread_cells(genotype: Genotype) -> tuple[int, ...]:
    """Positions of the cells whose output the classifier does not depend on, ascending.

    The classifier reads the last cell; a cell reads those of the two cells before it that are a source of
    its entries.
    """
    read = {genotype.num_cells - 1}
    for position in reversed(range(genotype.num_cells)):
        if position in read:
            # Node 1 is the output of the cell before, node 0 that of the one before that.
            read |= {
                position - 2 + source
                for _, _, source in working(genotype.cells[position])
                if source < 2
            }
    return tuple(sorted(set(range(genotype.num_cells)) - read))


def without_effect(genotype: Genotype) -> list[str]:
    """Returns a sentence on everything in a genotype that its network could do without."""
    sentences = []
    idle = sum(len(cell) - len(working(cell)) for cell in genotype.cells)
    if idle:
        sentences.append(
            f"{idle} operation{' is' if idle == 1 else 's are'} without effect and left out here: the "
            "source has no inputs."
        )
    if unread := unread_cells(genotype):
        cells = f"cell{'s' * (len(unread) > 1)} {', '.join(map(str, unread))}"
        sentences.append(
            f"No later cell reads the output of {cells}, left out here: the network would give the same "
            "answers without."
        )
    return sentences

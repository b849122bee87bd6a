"""The names of the candidate primitives, by search space."""

from ddarts_jax.errors import UserError

SKIP = "skip_connect"
NONE = "none"  # a candidate that computes nothing: the absence of the edge
# No candidate: the column of the alphas that holds the strength of the edge. Of pairs of edges there are
# several, "edge with" the number of the other edge's source.
STRENGTH = "edge"

# What DOTS lets compete apart from the others, which have weights.
WEIGHTLESS = (NONE, "max_pool_3x3", "avg_pool_3x3", SKIP)

DARTS_PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


# The space of DARTOpti, in which handcrafted networks can be written.
DARTOPTI_PRIMITIVES = (
    "conv_3x1_1x3",
    "conv_7x1_1x7",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "simple_conv_1x1",
    "simple_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "bottleneck_1x3x1",
)


SPACES = {"darts": DARTS_PRIMITIVES, "dartopti": DARTOPTI_PRIMITIVES}

# Primitives that users have added, and their operation scores.
ADDED: dict[str, float] = {}


def is_candidate(column: str) -> bool:
    """Whether a column of the alphas belongs to a candidate, and not to the strength of the edge."""
    return column.partition(" ")[0] != STRENGTH


def primitives_of(space: str) -> tuple[str, ...]:
    """Returns the names of the candidates of `config.search.space`.

    Args:
        space: a key of `SPACES`, or names of primitives separated by commas.

    Raises:
        UserError: a primitive is unknown or named twice.
    """
    if space in SPACES:
        return SPACES[space]
    names = tuple(name.strip() for name in space.split(","))
    known = (*DARTOPTI_PRIMITIVES, *ADDED)
    for name in names:
        if name not in known:
            raise UserError(
                f"config.search.space is {space!r}; it must be one of {tuple(SPACES)}, or names of "
                f"primitives separated by commas: {', '.join(known)}."
            )
    if len(set(names)) < len(names):
        raise UserError(f"config.search.space is {space!r}; it must name each primitive once.")
    return names


def add(name: str, score: float) -> None:
    """Makes a primitive of the user known by its name; see `models.primitives.register`.

    Raises:
        UserError: the name is taken or cannot be used in a genotype.
    """
    if not name.isidentifier() or name in DARTOPTI_PRIMITIVES:
        raise UserError(
            f"A primitive cannot be named {name!r}: it must be an identifier other than "
            f"{', '.join(DARTOPTI_PRIMITIVES)}."
        )
    ADDED[name] = score

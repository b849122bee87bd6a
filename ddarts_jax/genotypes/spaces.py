"""The names of the candidate primitives, by search space."""

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

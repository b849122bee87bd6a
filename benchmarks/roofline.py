"""Measures how far a search step is from what this device allows; prints one JSON line.

    python benchmarks/roofline.py                          # full size: 8 cells, 16 channels, 32x32
    python benchmarks/roofline.py --cells 3 --nodes 2 --channels 4 --size 8 --batch 8

The limit. The bandwidth is that of a triad a + s b of arrays far larger than any cache, the matrix rate
that of a large product, both measured here (`--dtype` decides which precision's rate the step is compared
with). The step needs at least

- the floating-point operations of its convolutions: the forward pass once; the gradients with respect
  to weights and inputs in the weight step; the gradient with respect to inputs twice in the full network
  of the architecture step (for dL_CE and for the mean contribution) and once in the ablated cells (cell k
  is in k ablated networks);
- these bytes: weights, momentum, alphas, their moments and running statistics read and written once,
  images read once, and each node of every differentiated cell (the two inputs after their
  preprocessing, the intermediate nodes) written once and read once for the backward pass, in the
  step's dtype. The inside of an edge is assumed to be recomputed and never to leave the chip.

The limit is the longer of the two times. A network that fits into a cache may move its bytes faster
than memory does, so the limit means little for it.

What the program does. XLA's `cost_analysis` counts the body of a loop once, and the scans over edges
are nearly all of the step. So operations are counted in the step's jaxpr, scans times their length,
and bytes in the compiled program's text (`program_text`), loops times the trip count that XLA states
(`known_trip_count`). Both are also counted with loops once, to be checked against `cost_analysis`, which
differs in two ways: its operations leave out the taps of a convolution that fall on padding, many in
small images; its bytes count an operand as often as a fusion reads it. The convolutions of one forward
pass, counted in its jaxpr, must match the formula exactly.
"""

import functools
import math
import statistics
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval
from program_text import computations, moved_bytes

from ddarts_jax.genotypes.genotype import edges, reduction_positions
from ddarts_jax.models import supernet
from ddarts_jax.ops import backend
from ddarts_jax.searching import search


def best_seconds(function, first, second, repeats=5):
    """Measures the shortest time of `first = function(first, second)`, after one call for warming up.

    The result replaces the first array: fresh memory costs a page fault per 4 kB.
    """
    compiled = jax.jit(function, donate_argnums=0).lower(first, second).compile()

    def run():
        nonlocal first
        first = jax.block_until_ready(compiled(first, second))

    run()
    return min(harness.in_turns({"function": run}, repeats)["function"])


def bandwidth(count):
    """Measures bytes per second of a triad over arrays of `count` float32."""
    a, b = jnp.zeros(count), jnp.ones(count)
    return 3 * b.nbytes / best_seconds(lambda a, b: a + 3.0 * b, a, b)


def matrix_rate(size, dtype, precision):
    """Measures floating-point operations per second of a product of two square matrices."""
    a, b = jnp.zeros((size, size), dtype), jnp.eye(size, dtype=dtype)
    product = functools.partial(jnp.matmul, precision=precision)
    return 2 * size**3 / best_seconds(product, a, b)


# What the step needs.


class CellSize(NamedTuple):
    """A cell's sizes.

    Attributes:
        cin: channels of its two inputs.
        channels: of its nodes.
        pixels_in: of an image at its inputs' size.
        pixels: of an image at its nodes' size.
        strided: edges of stride 2.
        reduction_before: whether its first input comes from before a reduction.
    """

    cin: tuple[int, int]
    channels: int
    pixels_in: int
    pixels: int
    strided: int
    reduction_before: bool


def cell_sizes(arguments) -> list[CellSize]:
    """Lists the cells of a supernet (8 cells: reductions at 2 and 5)."""
    reductions, before = reduction_positions(arguments.cells), False
    channels, size = arguments.channels, arguments.size
    cin, cells = (3 * channels, 3 * channels), []
    for position in range(arguments.cells):
        reduction = position in reductions
        pixels_in = size**2
        if reduction:
            channels, size = 2 * channels, size // 2
        strided = 2 * arguments.nodes if reduction else 0
        cells.append(CellSize(cin, channels, pixels_in, size**2, strided, before))
        cin, before = (cin[1], arguments.nodes * channels), reduction
    return cells


def convolution_flops(cell: CellSize, arguments) -> int:
    """Counts the operations of a cell's convolutions in a forward pass, in the space of DARTS.

    An edge has two depthwise and two 1x1 convolutions in each separable one (3x3, 5x5), one of each in
    the dilated ones; at stride 2 the skip is a 1x1 convolution too.
    """
    c, count = cell.channels, len(edges(arguments.nodes))
    edge = 2 * (9 * c + c**2) + 2 * (25 * c + c**2) + (9 * c + c**2) + (25 * c + c**2)
    macs = (count * edge + cell.strided * c**2) * cell.pixels
    macs += sum(cell.cin) * c * cell.pixels_in  # the preprocessing, at the size that it gives
    return 2 * arguments.batch * macs


def needed_flops(arguments) -> int:
    """Counts the operations that the step's convolutions need (see the top)."""
    stem = 2 * arguments.batch * 27 * 3 * arguments.channels * arguments.size**2
    passes = 3 + 3  # in the weight step; forward and twice backward in the architecture step
    return 3 * stem + sum(
        (passes + 2 * position) * convolution_flops(cell, arguments)
        for position, cell in enumerate(cell_sizes(arguments))
    )


def needed_bytes(arguments, state, batches) -> int:
    """Counts the bytes that the step has to move (see the top)."""

    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    width = jnp.dtype(arguments.dtype).itemsize
    nodes = 0
    for position, cell in enumerate(cell_sizes(arguments)):
        numbers = (2 * cell.pixels_in + arguments.nodes * cell.pixels) * cell.channels
        evaluations = 1 + 1 + position  # in the weight step, in the full and the ablated networks
        nodes += evaluations * numbers * arguments.batch * width
    return 2 * size(state) + size(batches) + 2 * nodes


# What the program does.


_MOVES = {
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "concatenate", "pad"),
    *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "copy", "rev"),
    *("convert_element_type", "iota", "stop_gradient", "select_n", "split", "optimization_barrier"),
}


def operations(jaxpr, loops: bool) -> dict[str, int]:
    """Counts the floating-point operations of convolutions and products, and of everything else.

    Args:
        jaxpr: whose operations are counted.
        loops: whether the body of a scan counts as often as it runs; else once.
    """
    total = {"products": 0, "others": 0}
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inputs = [getattr(x.aval, "size", 1) for x in equation.invars]
        outputs = sum(getattr(x.aval, "size", 1) for x in equation.outvars)
        nested = list(jaxprs_in_params(params))
        if nested:
            times = params["length"] if loops and name == "scan" else 1
            for inner in nested:
                for kind, flops in operations(inner, loops).items():
                    total[kind] += times * flops
        elif name == "conv_general_dilated":
            features = equation.invars[1].aval.shape[params["dimension_numbers"].rhs_spec[0]]
            taps = inputs[1] // features
            total["products"] += 2 * outputs * taps // math.prod(params["lhs_dilation"])
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total["products"] += 2 * outputs * math.prod(shape[axis] for axis in contracted)
        elif name not in _MOVES:
            total["others"] += max(outputs, *inputs) if inputs else outputs
    return total


def check_formula(arguments):
    """Compares `convolution_flops` with the convolutions in the jaxpr of a forward pass."""
    net, variables = supernet.build(
        num_cells=arguments.cells,
        num_nodes=arguments.nodes,
        channels=arguments.channels,
        num_classes=harness.NUM_CLASSES,
        image_channels=3,
        key=None,
    )
    images = jnp.zeros((arguments.batch, arguments.size, arguments.size, 3))
    run = functools.partial(supernet.forward, net, train=True)
    with backend.compiling_for("gpu"):  # which uses library convolutions
        jaxpr = jax.make_jaxpr(run)(variables, jnp.zeros(net.alphas_shape), images=images)
    counted = operations(jaxpr.jaxpr, loops=True)["products"]
    cells = cell_sizes(arguments)
    stem = 27 * 3 * arguments.channels * arguments.size**2
    classifier = arguments.nodes * cells[-1].channels * harness.NUM_CLASSES
    formula = 2 * arguments.batch * (stem + classifier)
    formula += sum(convolution_flops(cell, arguments) for cell in cells)
    if counted != formula:
        raise SystemExit(f"the jaxpr has {counted} operations, the formula says {formula}")


# The measurement.


def device_rates():
    """Measures the bandwidth in bytes per second, and the matrix rates by precision."""
    if backend.name() == "cpu":
        count, rates = 2**26, {"float32": matrix_rate(3072, "float32", "default")}
    else:
        count = 2**28
        rates = {
            "bfloat16": matrix_rate(8192, "bfloat16", "default"),
            "float32": matrix_rate(8192, "float32", "default"),
            "float32_highest": matrix_rate(8192, "float32", "highest"),
        }
    return bandwidth(count), rates


def traced_step(arguments):
    """Traces the step; returns it, its state and its batches."""
    config = harness.search_config(vars(arguments))
    shape = (arguments.size, arguments.size, 3)
    dataset = harness.blank_dataset(shape)
    net, *parameters = search.build(config, dataset, arguments.dtype)
    init, step = search.search_step(net, config.search, total_steps=1000)
    state = init(*parameters)
    labels = jnp.arange(arguments.batch) % harness.NUM_CLASSES
    batches = [
        (
            jax.random.normal(jax.random.key(seed), (arguments.batch, *shape), arguments.dtype),
            labels,
        )
        for seed in (0, 1)
    ]
    traced = jax.jit(step, donate_argnums=0).trace(state, jax.random.key(2), *batches)
    return traced, state, batches


def counted(traced, compiled):
    """Counts what the program does.

    Returns:
        Operations and bytes with loops as often as they run, and the part of the JSON line that has
        them and the check with loops once.
    """
    # XLA leaves out what nothing reads: the weights' gradients in the architecture step.
    jaxpr = traced.jaxpr.jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    flops, flops_once = (operations(jaxpr, loops) for loops in (True, False))
    program = computations(compiled.as_text())
    moved, moved_once = (moved_bytes(program, loops) for loops in (True, False))
    analysis = compiled.cost_analysis()
    found = {
        "program": {
            "gflop_products": round(flops["products"] / 1e9, 3),
            "gflop_others": round(flops["others"] / 1e9, 3),
            "gb": round(moved / 1e9, 4),
        },
        "loops_once": {
            "gflop": round(sum(flops_once.values()) / 1e9, 3),
            "gflop_xla": round(analysis.get("flops", 0) / 1e9, 3),
            "gb": round(moved_once / 1e9, 4),
            "gb_xla": round(analysis.get("bytes accessed", 0) / 1e9, 4),
        },
    }
    return sum(flops.values()), moved, found


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__, *harness.SIZES, "batch", "repeats", "dtype")
    arguments = parser.parse_args()
    if arguments.size % 4:
        parser.error(f"--size is {arguments.size}; it must be a multiple of 4")
    if arguments.dtype == "bfloat16" and backend.name() == "cpu":
        parser.error("--dtype bfloat16 is for accelerators")
    check_formula(arguments)
    per_second, rates = device_rates()
    rate = rates[arguments.dtype]
    traced, state, batches = traced_step(arguments)
    least_bytes, least_flops = needed_bytes(arguments, state, batches), needed_flops(arguments)
    compiled = traced.lower().compile()
    flops, moved, found = counted(traced, compiled)

    def run():
        nonlocal state
        state, metrics = compiled(state, jax.random.key(2), *batches)
        jax.block_until_ready((state, metrics))

    run()
    seconds = harness.in_turns({"step": run}, arguments.repeats)["step"]
    median = statistics.median(seconds)
    limit = {"bytes": least_bytes / per_second, "flops": least_flops / rate}
    results = {
        "step_s": round(median, 4),
        "spread_s": harness.spread(seconds),
        "bandwidth_gb_s": round(per_second / 1e9, 1),
        "matrix_gflop_s": {name: round(value / 1e9, 1) for name, value in rates.items()},
        "needed": {"gflop": round(least_flops / 1e9, 3), "gb": round(least_bytes / 1e9, 4)},
        **found,
        "limit_s": {name: round(value, 5) for name, value in limit.items()},
        "fraction_of_limit": round(max(limit.values()) / median, 4),
        "fraction_of_bandwidth": round(moved / per_second / median, 3),
        "fraction_of_matrix_rate": round(flops / rate / median, 3),
    }
    harness.report("roofline", vars(arguments), results)


if __name__ == "__main__":
    main()

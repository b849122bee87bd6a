"""Measures how far a search step is from what this device allows; prints one JSON line.

    python benchmarks/roofline.py                          # full size: 8 cells, 16 channels, 32x32
    python benchmarks/roofline.py --cells 3 --nodes 2 --channels 4 --size 8 --batch 8

The limit. Bandwidth is that of a triad a + s b of arrays far larger than any cache, the matrix rate
that of a large product, both measured here (`--dtype` decides by which precision the step is judged).
The step needs at least

- the floating-point operations of its convolutions: forwards once; towards the weights and towards
  the inputs in the weight step; towards the inputs twice in the full network of the architecture step
  (for dL_CE and for the mean contribution) and once in the ablated cells, of which cell k has k;
- these bytes: weights, momentum, alphas, their moments and running statistics read and written once,
  images read once, and of every cell that is differentiated each node (the two inputs after their
  preprocessing, the intermediate nodes) written once and read once for the backward pass, in the
  step's dtype. What is inside an edge is taken to be computed anew and never to leave the chip.

The limit is the longer of the two times. A network that fits into a cache may move its bytes faster
than memory does, so that the limit means little for it.

What the program does. XLA's `cost_analysis` counts the body of a loop once, and the scans over edges
are nearly all of the step. So operations are counted in the step's jaxpr, scans times their length,
and bytes in the compiled program's text, loops times the trip count that XLA states
(`known_trip_count`), by the rule of `cost_analysis`: every instruction that is no view reads its
operands and writes its result, a slice what it slices. Counted with loops once, both stand beside the
figures of `cost_analysis` as a check. Those differ by two things: its operations leave out the taps of
a convolution that fall on padding, many in small images; its bytes count an operand as often as a
fusion reads it. The convolutions of one forward pass, counted in its jaxpr, must be what the formula
says, exactly.
"""

import argparse
import datetime
import functools
import json
import math
import os
import platform
import re
import statistics
import time
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from ddarts_jax.configuration import default_config
from ddarts_jax.genotypes.genotype import edges, reduction_positions
from ddarts_jax.models import supernet
from ddarts_jax.ops import backend
from ddarts_jax.searching import search

_NUM_CLASSES = 10


def best_seconds(function, first, second, repeats=5):
    """The shortest time of `first = function(first, second)`, after one call that does not count.

    The result takes the place of the first array: fresh memory costs a page fault each 4 kB.
    """
    compiled = jax.jit(function, donate_argnums=0).lower(first, second).compile()
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        first = jax.block_until_ready(compiled(first, second))
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def bandwidth(count):
    """Bytes a second of a triad over arrays of `count` float32."""
    a, b = jnp.zeros(count), jnp.ones(count)
    return 3 * b.nbytes / best_seconds(lambda a, b: a + 3.0 * b, a, b)


def matrix_rate(size, dtype, precision):
    """Floating-point operations a second of a product of two square matrices."""
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
    """The cells of a supernet (8 cells: reductions at 2 and 5)."""
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
    """Operations of one cell's convolutions forwards, for a batch, in the space of DARTS.

    An edge: two depthwise and two 1x1 convolutions in each separable one (3x3, 5x5), one of each in
    the dilated ones; at stride 2 the skip is a 1x1 convolution too.
    """
    c, count = cell.channels, len(edges(arguments.nodes))
    edge = 2 * (9 * c + c**2) + 2 * (25 * c + c**2) + (9 * c + c**2) + (25 * c + c**2)
    macs = (count * edge + cell.strided * c**2) * cell.pixels
    macs += sum(cell.cin) * c * cell.pixels_in  # the preprocessing, at the size that it gives
    return 2 * arguments.batch * macs


def needed_flops(arguments) -> int:
    """Operations that the step's convolutions need (see the top)."""
    stem = 2 * arguments.batch * 27 * 3 * arguments.channels * arguments.size**2
    passes = 3 + 3  # of the weight step; forwards and twice back in the architecture step
    return 3 * stem + sum(
        (passes + 2 * position) * convolution_flops(cell, arguments)
        for position, cell in enumerate(cell_sizes(arguments))
    )


def needed_bytes(arguments, state, batches) -> int:
    """Bytes that the step has to move (see the top)."""

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
    """Floating-point operations of a jaxpr: of convolutions and products, and of everything else.

    Args:
        jaxpr: to be counted.
        loops: whether the body of a scan counts as often as it runs.
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
    """Compares `convolution_flops` with the jaxpr of a forward pass, in which they are convolutions."""
    net, variables = supernet.build(
        num_cells=arguments.cells,
        num_nodes=arguments.nodes,
        channels=arguments.channels,
        num_classes=_NUM_CLASSES,
        image_channels=3,
        key=None,
    )
    images = jnp.zeros((arguments.batch, arguments.size, arguments.size, 3))
    run = functools.partial(supernet.forward, net, train=True)
    with backend.compiling_for("gpu"):  # where they are library convolutions
        jaxpr = jax.make_jaxpr(run)(variables, jnp.zeros(net.alphas_shape), images=images)
    counted = operations(jaxpr.jaxpr, loops=True)["products"]
    cells = cell_sizes(arguments)
    stem = 27 * 3 * arguments.channels * arguments.size**2
    classifier = arguments.nodes * cells[-1].channels * _NUM_CLASSES
    formula = 2 * arguments.batch * (stem + classifier)
    formula += sum(convolution_flops(cell, arguments) for cell in cells)
    if counted != formula:
        raise SystemExit(f"the jaxpr has {counted} operations, the formula says {formula}")


class Instruction(NamedTuple):
    """A line of a compiled program's text."""

    name: str
    opcode: str
    size: int  # bytes of its result
    operands: tuple[str, ...]
    attributes: str
    root: bool


_INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = (.+?) ([a-z][\w\-]*)\(([^)]*)\)(.*)")
_VIEWS = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def computations(text) -> dict[str, list[Instruction]]:
    """Reads the text of a compiled program; the entry is called "ENTRY"."""
    found = {}
    for line in text.splitlines():
        if line.endswith("{") and (header := re.match(r"(ENTRY )?%(\S+) \(", line)):
            found["ENTRY" if header[1] else header[2]] = current = []
        elif found and (match := _INSTRUCTION.match(line)):
            root, name, shape, opcode, operands, attributes = match.groups()
            if opcode == "parameter":  # its operand is its number
                attributes = operands
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            current.append(Instruction(name, opcode, _bytes(shape), names, attributes, bool(root)))
    return found


def _bytes(shape) -> int:
    total = 0
    for kind, bits, dimensions in re.findall(r"([a-z]+)(\d*)\w*\[([\d,]*)\]", shape):
        width = 1 if kind == "pred" else int(bits or 0) / 8
        total += width * math.prod(int(n) for n in dimensions.split(",") if n)
    return int(total)


def moved_bytes(found, loops: bool, name="ENTRY") -> int:
    """Bytes that a computation's instructions read and write.

    Args:
        found: see `computations`.
        loops: whether the body of a loop counts as often as it runs.
        name: of the computation.
    """
    total, sizes = 0, {i.name: i.size for i in found[name]}
    for i in found[name]:
        match i.opcode:
            case opcode if opcode in _VIEWS:
                pass
            case "while":
                trips = trip_count(i)
                times = trips if loops else 1
                total += times * moved_bytes(found, loops, called(i, "body"))
            case "call":
                total += moved_bytes(found, loops, called(i, "to_apply"))
            case "fusion":
                operands = [sizes[operand] for operand in i.operands]
                total += _fusion_bytes(found[called(i, "calls")], operands)
            case "dynamic-update-slice":
                total += 2 * sizes[i.operands[1]]
            case opcode if opcode in _SLICES:
                total += 2 * i.size
            case _:
                total += i.size + sum(sizes[operand] for operand in i.operands)
    return total


def trip_count(loop) -> int:
    """How often a while loop runs."""
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if not trips:
        raise SystemExit(f"XLA does not know how often the loop {loop.name} runs")
    return int(trips[1])


def called(instruction, attribute) -> str:
    """The computation that an instruction names as its `attribute`."""
    return re.search(rf"{attribute}=%([\w.\-]+)", instruction.attributes)[1]


def _fusion_bytes(body, operands) -> int:
    """Bytes of a fusion: what it reads of its operands (a slice of some), and what it writes."""
    by_name = {i.name: i for i in body}

    def origin(name):
        while by_name[name].opcode in ("bitcast", "convert", "copy"):
            name = by_name[name].operands[0]
        return by_name[name]

    users = {i.name: [] for i in body}
    for i in body:
        if i.opcode not in ("bitcast", "convert", "copy") or i.root:
            for place, operand in enumerate(i.operands):
                users[origin(operand).name].append((i, place))

    total = 0
    for i in body:
        if i.opcode == "parameter":
            full = operands[int(i.attributes)]
            # Of an array that it slices it reads the slice; one that it updates stays where it is.
            reads = [
                *(user.size for user, at in users[i.name] if user.opcode in _SLICES and at == 0),
                *(
                    0
                    for user, at in users[i.name]
                    if user.opcode == "dynamic-update-slice" and not at
                ),
            ]
            total += min(full, sum(reads)) if len(reads) == len(users[i.name]) else full
        if i.root:
            outputs = [origin(o) for o in i.operands] if i.opcode == "tuple" else [origin(i.name)]
            total += sum(
                by_name[o.operands[1]].size if o.opcode == "dynamic-update-slice" else o.size
                for o in outputs
            )
    return total


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 8), ("nodes", 4), ("channels", 16), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 16), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    if arguments.size % 4:
        parser.error(f"--size is {arguments.size}; it must be a multiple of 4")
    load = os.getloadavg()[0]
    check_formula(arguments)

    if backend.name() == "cpu":
        count, rates = 2**26, {"float32": matrix_rate(3072, "float32", "default")}
    else:
        count, rates = (
            2**28,
            {
                "bfloat16": matrix_rate(8192, "bfloat16", "default"),
                "float32": matrix_rate(8192, "float32", "default"),
                "float32_highest": matrix_rate(8192, "float32", "highest"),
            },
        )
    if arguments.dtype not in rates:
        parser.error("--dtype bfloat16 is for accelerators")
    per_second, rate = bandwidth(count), rates[arguments.dtype]

    config = default_config()
    config.search.num_cells = arguments.cells
    config.search.num_nodes = arguments.nodes
    config.search.channels = arguments.channels
    dataset = SimpleNamespace(num_classes=_NUM_CLASSES, channels=3)
    net, *parameters = search.build(config, dataset, arguments.dtype)
    init, step = search.search_step(net, config.search, total_steps=1000)
    state = init(*parameters)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    labels = jnp.arange(arguments.batch) % _NUM_CLASSES
    batches = [
        (jax.random.normal(jax.random.key(seed), shape, arguments.dtype), labels) for seed in (0, 1)
    ]
    least_bytes, least_flops = needed_bytes(arguments, state, batches), needed_flops(arguments)
    traced = jax.jit(step, donate_argnums=0).trace(state, jax.random.key(2), *batches)
    compiled = traced.lower().compile()
    analysis, program = compiled.cost_analysis(), computations(compiled.as_text())
    # Without what nothing reads, which XLA leaves out: the weights' gradients in the architecture step.
    jaxpr = traced.jaxpr.jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    flops, flops_once = (operations(jaxpr, loops) for loops in (True, False))
    moved, moved_once = (moved_bytes(program, loops) for loops in (True, False))

    seconds = []
    for _ in range(arguments.repeats + 1):
        begun = time.perf_counter()
        state, metrics = compiled(state, jax.random.key(2), *batches)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begun)
    seconds = seconds[1:]
    median = statistics.median(seconds)
    limit = {"bytes": least_bytes / per_second, "flops": least_flops / rate}
    result = {
        "benchmark": "roofline",
        **vars(arguments),
        "step_s": round(median, 4),
        "spread_s": [round(pick(seconds), 4) for pick in (min, max)],
        "bandwidth_gb_s": round(per_second / 1e9, 1),
        "matrix_gflop_s": {name: round(value / 1e9, 1) for name, value in rates.items()},
        "needed": {"gflop": round(least_flops / 1e9, 3), "gb": round(least_bytes / 1e9, 4)},
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
        "limit_s": {name: round(value, 5) for name, value in limit.items()},
        "fraction_of_limit": round(max(limit.values()) / median, 4),
        "fraction_of_bandwidth": round(moved / per_second / median, 3),
        "fraction_of_matrix_rate": round(sum(flops.values()) / rate / median, 3),
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} core(s)",
        "load_before": round(load, 1),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

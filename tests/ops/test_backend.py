"""Implementations by backend: all of an operation compute the same, and one place asks."""

import functools
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
from flax import nnx

import ddarts_jax
from ddarts_jax.genotypes.genotype import edges
from ddarts_jax.models.edges import StackedEdges
from ddarts_jax.ops import backend, fusion
from ddarts_jax.ops import convolution as convolutions

# Largest error of an implementation against float64, relative to the norm of the array. In bfloat16 each
# of the roundings on the way (the result, and what lies between two convolutions) adds 2^-9 at most.
_TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2**-8}
_CHAIN = {"edges": 4}  # so many of them follow one another: the nodes of a cell, each rounded


def normal(seed, *shape):
    """Normal numbers, rounded to bfloat16: every dtype computes on the same ones."""
    numbers = np.random.default_rng(seed).normal(size=shape)
    return numbers.astype(ml_dtypes.bfloat16).astype(np.float64)


def convolution(taps, stride, dilation, padding, size):
    """A case of "convolution" or of a pointwise one: the function of a rule, and its arguments."""
    pads = tuple(dilation * (n // 2) if padding is None else padding for n in taps)

    def run(rule, x, kernel):
        return convolutions._convolve(rule(stride, dilation, pads, 1), x, kernel)

    return run, normal(0, 2, *size, 3), normal(1, *taps, 3, 4)


def separable(width, stride, dilation, size, streams=()):
    """A case of "separable"; with streams `vmap` runs them through shared kernels."""

    def run(function, x, spatial, pointwise):
        def one(x):
            return function(x, spatial, pointwise, stride, dilation)

        return jax.vmap(one)(x) if streams else one(x)

    x = normal(0, *streams, 2, size, size + 1, 4)
    return run, x, normal(1, width, width, 1, 4), normal(2, 1, 1, 4, 6)


def pool(function, x, *stride):
    """A pool; that over all pixels gets images in float32 or better."""
    wide = x if stride else x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return function(wide, *stride).astype(x.dtype)


def of_pixels(function):
    """A case of "moments" or "sums": what it gives for two arrays, in one row."""

    def run(implementation, x):
        results = jax.tree.leaves(function(implementation, [x, x[:, 1:, :, :2]]))
        return jnp.concatenate([result.reshape(-1) for result in results]).astype(x.dtype)

    return run, normal(0, 2, 3, 4, 3)


def cell_edges(reduction):
    """A case of "edges": those of a cell of three nodes, whose primitives round few times."""
    pairs = edges(3)
    strided = [pair for pair in pairs if reduction and pair[0] < 2]
    stacks = [
        StackedEdges(("skip_connect", "avg_pool_3x3"), stack, 4, stride, unroll=1, remat=True)
        if stack
        else None
        for stack, stride in [(strided, 2), ([p for p in pairs if p not in strided], 1)]
    ]
    drawn = [tiny.split(stack) if stack else None for stack in stacks]

    def run(implementation, inputs, gates):
        wide = jnp.promote_types(inputs.dtype, jnp.float32)
        modules = [
            nnx.merge(part[0], *jax.tree.map(lambda x: jnp.asarray(x, wide), part[1:]))
            if part
            else None
            for part in drawn
        ]
        parts = gates[: len(strided)], gates[len(strided) :]
        return implementation(*modules, tuple(inputs), parts, True)

    return run, normal(0, 2, 2, 5, 6, 4), normal(1, len(pairs), 2)


_SIZES = [(6, 7), (1, 5)]
_POOLS = [
    (lambda function, x, stride=stride: pool(function, x, stride), normal(0, 2, *size, 3))
    for stride, size in itertools.product([1, 2], _SIZES)
]
CASES = {
    "convolution": [
        convolution(*case, size)
        for case, size in itertools.product(
            [
                ((3, 3), (1, 1), 1, None),
                ((3, 3), (2, 2), 2, None),
                ((1, 7), (1, 2), 1, None),
                ((7, 1), (2, 1), 1, None),
                ((2, 2), (1, 1), 1, 1),
            ],
            _SIZES,
        )
    ],
    "pointwise": [convolution((1, 1), (1, 1), 1, None, (6, 7))],
    "strided_pointwise": [
        convolution((1, 1), stride, 1, None, size)
        for stride, size in itertools.product([(2, 2), (2, 1)], _SIZES)
    ],
    "separable": [
        separable(3, 1, 1, 6),
        separable(3, 2, 1, 7),
        separable(5, 2, 2, 3),
        separable(5, 1, 2, 5),
        separable(3, 2, 2, 6, streams=(3,)),
    ],
    "moments": [
        of_pixels(lambda function, xs: function(xs, [jnp.full(3, 0.5), jnp.full(2, -0.5)], 1))
    ],
    "sums": [of_pixels(lambda function, xs: function(xs, 1))],
    "max_pool": _POOLS,
    "avg_pool": _POOLS,
    "global_pool": [(pool, normal(0, 2, 6, 7, 3))],
    "edges": [cell_edges(False), cell_edges(True)],
    "unfused": [(lambda function, x: function(x), normal(0, 2, 3, 3, 4))],
}


def results(run, implementation, arguments, dtype):
    """Output and gradients by all arguments; images in `dtype`, kernels in float32 or better."""
    images, *kernels = arguments
    wide = jnp.promote_types(dtype, jnp.float32)
    arguments = jnp.asarray(images, dtype), *(jnp.asarray(kernel, wide) for kernel in kernels)

    @jax.jit
    def both(*arguments):
        out, pull_back = jax.vjp(functools.partial(run, implementation), *arguments)
        return out, *pull_back(jnp.asarray(normal(3, *out.shape), out.dtype))

    return both(*arguments)


@pytest.mark.parametrize(
    ("operation", "case"),
    [(operation, k) for operation, cases in CASES.items() for k in range(len(cases))],
)
def test_all_implementations_compute_the_same(operation, case):
    """Outputs and gradients of each, in float64, float32 and bfloat16, against one in float64.

    Gradients of kernels keep the kernels' float32, in which they are added up over devices.
    """
    run, *arguments = CASES[operation][case]
    implementations = backend.IMPLEMENTATIONS[operation]
    assert len(implementations) > 1
    with jax.enable_x64(True):
        reference = results(run, next(iter(implementations.values())), arguments, "float64")
        for (name, implementation), dtype in itertools.product(
            implementations.items(), _TOLERANCES
        ):
            actual = results(run, implementation, arguments, dtype)
            wide = jnp.promote_types(dtype, jnp.float32)
            assert [x.dtype for x in actual] == [dtype, dtype, *[wide] * (len(actual) - 2)]
            for ours, expected in zip(actual, reference, strict=True):
                error = np.linalg.norm(np.asarray(ours, np.float64) - expected)
                bound = _CHAIN.get(operation, 1) * _TOLERANCES[dtype] * np.linalg.norm(expected)
                assert error <= bound, (name, dtype, error, bound)


def test_the_table_names_what_there_is():
    """Each row has a CPU and a GPU entry, and all implementations have a use."""
    for operation, row in backend.TABLE.items():
        assert {"cpu", "gpu"} <= set(row)
        assert set(row.values()) == set(backend.IMPLEMENTATIONS[operation])
    assert set(CASES) == set(backend.TABLE)


def test_a_trace_belongs_to_its_backend():
    """A jitted function is traced again for another backend, and found again for the first."""
    seen = []

    @jax.jit
    def run(x):
        seen.append((backend.name(), backend.default_dtype()))
        return fusion.unfused(x)

    x = jnp.ones((1, 2))
    run(x)
    with backend.compiling_for("gpu"):
        run(x)
    with backend.compiling_for("tpu"):
        run(x)
    run(x)
    here = jax.default_backend()
    assert seen == [(here, seen[0][1]), ("gpu", "bfloat16"), ("tpu", "bfloat16")]


def test_nothing_else_asks_for_the_backend():
    """`jax.default_backend` stands in backend.py alone: elsewhere a choice would be in no table."""
    package = Path(ddarts_jax.__file__).parent
    asking = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"default_backend|platform_dependent", path.read_text())
    ]
    assert asking == ["backend.py"]

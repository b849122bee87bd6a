"""Times ways to run the separable convolutions of a group of edges; prints one JSON line.

    python benchmarks/depthwise.py                       # the shapes of a full-size search at batch 128

"library" is XLA's grouped convolution and a 1x1 one, "shifted" replaces the former by sums of shifted
products, "folded" makes one dense convolution of both (which fills the tensor cores with zeros). For
each the forward pass and the gradients by the images and by the kernels, as milliseconds a call; calls
are queued, so that a GPU does not wait for the host.
"""

import functools
import statistics
import time

import harness
import jax
import jax.numpy as jnp

from ddarts_jax.ops import backend
from ddarts_jax.ops.convolution import Library, Shifted, block_matrix

# Pixels of a side, channels of an edge, sources, kernels for each channel: the edges from a cell's
# inputs, those that leave node 2, and the second half of sep_conv, in which each channel has one kernel.
SHAPES = [
    (32, 16, 2, 4),
    (32, 16, 1, 3),
    (32, 16, 8, 1),
    (16, 32, 2, 4),
    (8, 64, 2, 4),
    (8, 64, 8, 1),
]
KERNELS = [(3, 1), (5, 1), (5, 2)]  # taps of a side, dilation
QUEUED = 20


def depthwise(rule_class, x, kernel, pointwise, dilation, sources):
    """The two convolutions one after the other; arguments as those of `folded`."""
    taps, edges, channels = kernel.shape[0], pointwise.shape[0], pointwise.shape[1]
    ordered = kernel.reshape(taps, taps, -1, sources, channels).transpose(0, 1, 3, 4, 2)
    pad = dilation * (taps // 2)
    rule = rule_class((1, 1), dilation, (pad, pad), x.shape[-1])
    x = rule.forward(x, ordered.reshape(taps, taps, 1, edges * channels).astype(x.dtype))
    return x @ block_matrix(pointwise, sources, interleaved=True).astype(x.dtype)


def folded(x, kernel, pointwise, dilation, sources):
    """One dense convolution.

    Args:
        x: [B, H, W, S * C].
        kernel: [k, k, E, C].
        pointwise: [E, C, C'].
        dilation: of the kernel.
        sources: S.
    """
    taps = kernel.shape[0]
    blocks = kernel[..., None] * pointwise
    place = jax.vmap(jax.vmap(functools.partial(block_matrix, sources=sources)))
    pad = dilation * (taps // 2)
    rule = Library((1, 1), dilation, (pad, pad))
    return rule.forward(x, place(blocks).astype(x.dtype))


def milliseconds(function, *arguments, repeats):
    """Compiles a function; returns the median over `repeats` of a call's time."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(QUEUED):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - begun) / QUEUED)
    return round(1e3 * statistics.median(times), 4)


def measure(form, shape, taps, dilation, arguments):
    """Times one form at one shape: forward, gradient by the images, gradient by both kernels."""
    size, channels, sources, kernels = shape
    edges = sources * kernels
    key = jax.random.key(0)
    dtype = jnp.dtype(arguments.dtype)
    x = jax.random.normal(key, (arguments.batch, size, size, sources * channels), dtype)
    kernel = jax.random.normal(key, (taps, taps, edges, channels))
    pointwise = jax.random.normal(key, (edges, channels, channels))
    forms = {
        "library": functools.partial(depthwise, Library),
        "shifted": functools.partial(depthwise, Shifted),
        "folded": folded,
    }
    run = functools.partial(forms[form], dilation=dilation, sources=sources)
    cotangent = jax.random.normal(key, (*x.shape[:3], edges * channels), dtype)

    def by_images(x, kernel, pointwise, cotangent):
        return jax.vjp(lambda x: run(x, kernel, pointwise), x)[1](cotangent)

    def by_kernels(x, kernel, pointwise, cotangent):
        return jax.vjp(functools.partial(run, x), kernel, pointwise)[1](cotangent)

    given = x, kernel, pointwise
    return [
        milliseconds(run, *given, repeats=arguments.repeats),
        milliseconds(by_images, *given, cotangent, repeats=arguments.repeats),
        milliseconds(by_kernels, *given, cotangent, repeats=arguments.repeats),
    ]


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__, "repeats", batch=128, dtype="bfloat16")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    arguments = parser.parse_args()
    results = {
        f"{shape} {taps}x{taps}/{dilation} {form}": measure(form, shape, taps, dilation, arguments)
        for shape in SHAPES[: arguments.shapes]
        for taps, dilation in KERNELS
        for form in ("library", "shifted", "folded")
        if form != "folded" or shape[3] > 1
    }
    harness.report("depthwise", vars(arguments), {"backend": backend.name(), "ms": results})


if __name__ == "__main__":
    main()

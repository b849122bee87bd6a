"""Times ways to run the separable convolutions of edges; prints one JSON line.

    python benchmarks/depthwise.py                       # the shapes of a full-size search at batch 128

"library" is XLA's grouped convolution and a 1x1 one; numbers are channels of the blocks that one dense
convolution folds both into ("whole": one block), in groups or, with "apart", as a convolution each. For
each the forward pass and the gradients by the images and by the kernels, in milliseconds; calls are
queued, so that a GPU does not wait for the host.
"""

import functools
import statistics
import time

import harness
import jax
import jax.numpy as jnp

from ddarts_jax.ops import backend
from ddarts_jax.ops.convolution import block_matrix, convolve
from ddarts_jax.ops.separable import fold

# Pixels of a side, channels of an edge, sources, kernels for each source: the edges from a cell's inputs,
# those that leave node 2, the second half of sep_conv; then edges of derived networks.
SHAPES = [(32, 16, 2, 4), (32, 16, 1, 3), (8, 64, 2, 4)]
SHAPES += [(32, 16, 16, 1), (16, 32, 16, 1), (8, 64, 16, 1)]
SHAPES += [(32, 36, 1, 1), (8, 144, 1, 1), (14, 256, 1, 1), (14, 512, 1, 1)]
KERNELS = [(3, 1), (5, 1), (5, 2)]  # taps of a side, dilation
BLOCKS = ("library", "whole", "16", "64", "128", "64 apart", "128 apart")
QUEUED = 20


def by_library(x, spatial, pointwise, dilation, sources):
    """The two convolutions one after the other.

    Args:
        x: [B, H, W, S * C].
        spatial: [E, k, k, 1, C]; E = R * S, the source varies fastest.
        pointwise: [E, 1, 1, C, C'].
        dilation: of the depthwise kernels.
        sources: S.
    """
    edges, taps, _, _, channels = spatial.shape
    kernel = spatial.reshape(-1, sources, taps, taps, 1, channels).transpose(2, 3, 4, 1, 5, 0)
    kernel = kernel.reshape(taps, taps, 1, edges * channels)
    x = convolve(x, kernel, dilation=dilation, groups=x.shape[-1])
    if edges == sources:
        return convolve(x, pointwise)
    parts = x.reshape(*x.shape[:3], sources * channels, -1)
    parts = jnp.moveaxis(parts, -1, 3).reshape(*x.shape[:3], -1)
    return parts @ block_matrix(pointwise[:, 0, 0], edges).astype(x.dtype)


def by_folding(x, spatial, pointwise, dilation, sources, groups, apart):
    """Dense convolutions; see `separable.fold`."""
    kernel = fold(spatial[..., 0, :, None] * pointwise, sources, groups)
    if not apart:
        return convolve(x, kernel, dilation=dilation, groups=groups)
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
    return jnp.concatenate([convolve(*part, dilation=dilation) for part in parts], -1)


def form(block, sources, kernels, channels):
    """The function of a name in `BLOCKS`; None where it makes no sense."""
    if block == "library":
        return by_library
    size, _, apart = block.partition(" ")
    width = sources * channels if size == "whole" else int(size)
    groups = sources * channels // width
    if width % channels or not groups or (size != "whole" and (groups == 1 or kernels > 1)):
        return None
    return functools.partial(by_folding, groups=groups, apart=bool(apart))


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


def measure(function, shape, taps, dilation, arguments):
    """Times one form at one shape: forward, gradient by the images, gradient by both kernels."""
    size, channels, sources, kernels = shape
    edges = sources * kernels
    key = jax.random.key(0)
    dtype = jnp.dtype(arguments.dtype)
    x = jax.random.normal(key, (arguments.batch, size, size, sources * channels), dtype)
    spatial = jax.random.normal(key, (edges, taps, taps, 1, channels))
    pointwise = jax.random.normal(key, (edges, 1, 1, channels, channels))
    run = functools.partial(function, dilation=dilation, sources=sources)
    cotangent = jax.random.normal(key, (*x.shape[:3], edges * channels), dtype)

    def by_images(x, spatial, pointwise, cotangent):
        return jax.vjp(lambda x: run(x, spatial, pointwise), x)[1](cotangent)

    def by_kernels(x, spatial, pointwise, cotangent):
        return jax.vjp(functools.partial(run, x), spatial, pointwise)[1](cotangent)

    given = x, spatial, pointwise
    return [
        milliseconds(run, *given, repeats=arguments.repeats),
        milliseconds(by_images, *given, cotangent, repeats=arguments.repeats),
        milliseconds(by_kernels, *given, cotangent, repeats=arguments.repeats),
    ]


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__, "repeats", batch=128, dtype="bfloat16")
    parser.add_argument("--shapes", default="", help="such as 0,3 (default: all)")
    arguments = parser.parse_args()
    chosen = [int(n) for n in arguments.shapes.split(",") if n] or range(len(SHAPES))
    results = {}
    for shape in [SHAPES[n] for n in chosen]:
        _, channels, sources, kernels = shape
        for taps, dilation in KERNELS if sources == 1 or kernels > 1 else KERNELS[:2]:
            for block in BLOCKS:
                if function := form(block, sources, kernels, channels):
                    name = f"{shape} {taps}x{taps}/{dilation} {block}"
                    results[name] = measure(function, shape, taps, dilation, arguments)
    harness.report("depthwise", vars(arguments), {"backend": backend.name(), "ms": results})


if __name__ == "__main__":
    main()

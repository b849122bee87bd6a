"""Times a convolution and its gradients inside a loop, ours against the library's; one JSON line.

    python benchmarks/convolution.py

Six convolutions one after the other in a `lax.scan`, which is how a supernet runs its edges, with the
gradients by input and kernel. On a CPU `convolution.convolve` computes these in a layout that XLA
compiles to quick code.
"""

import statistics

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddarts_jax.ops import convolution

_CASES = (  # images, size, channels, taps, stride
    (16, 32, 16, (3, 3), 1),
    (16, 32, 16, (3, 3), 2),
    (16, 16, 32, (1, 7), 1),
    (64, 8, 16, (3, 3), 1),
)


def library(x, kernel, stride):
    """Computes the same convolution with the gradients that JAX derives."""
    padding = [(taps // 2,) * 2 for taps in kernel.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=layout)


def gradients(convolve, stride):
    """Builds the gradients of a loop with respect to its input and its kernels [6, kh, kw, C, C]."""

    def loss(x, kernels):
        def body(x, kernel):
            y = convolve(x, kernel, (stride, stride))
            # Back to the input's size, for the next convolution.
            return x + 0.1 * jnp.repeat(jnp.repeat(y, stride, 1), stride, 2), jnp.sum(y**2)

        return lax.scan(jax.checkpoint(body), x, kernels)[1].sum()

    return jax.jit(jax.grad(loss, (0, 1)))


def measure(images, size, channels, taps, stride, repeats):
    """Times one case both ways, in turns; returns the medians in milliseconds and their ratio."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(images, size, size, channels)), jnp.float32)
    kernels = jnp.asarray(rng.normal(0, 0.1, (6, *taps, channels, channels)), jnp.float32)

    def program(convolve):
        compiled = gradients(convolve, stride).lower(x, kernels).compile()
        return lambda: jax.block_until_ready(compiled(x, kernels))

    programs = {"ours": program(convolution.convolve), "library": program(library)}
    for one, other in zip(*(run() for run in programs.values())):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())
    seconds = harness.in_turns(programs, repeats)
    ours, theirs = (1e3 * statistics.median(seconds[name]) for name in programs)
    return {
        "images": images,
        "size": size,
        "channels": channels,
        "taps": taps,
        "stride": stride,
        "ours_ms": round(ours, 2),
        "library_ms": round(theirs, 2),
        "ratio": round(theirs / ours, 1),
    }


def main():
    """Measures all cases and prints."""
    arguments = harness.parser(__doc__, repeats=7).parse_args()
    results = [measure(*case, arguments.repeats) for case in _CASES]
    harness.report("convolution", vars(arguments), {"results": results})


if __name__ == "__main__":
    main()

"""Times a convolution and its gradients inside a loop, ours against the library's; one JSON line.

    python benchmarks/convolution.py

Six convolutions one after the other in a `lax.scan`, as the edges of a supernet are run, with the
gradients by input and kernel. On a CPU `convolution.convolve` writes these in the layout that XLA is
quick at.
"""

import argparse
import json
import platform
import statistics
import time

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
    """The same convolution with the gradients that JAX derives."""
    padding = [(taps // 2,) * 2 for taps in kernel.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=layout)


def gradients(convolve, stride):
    """The gradients of a sum over a loop, by the input and by the kernels [6, kh, kw, C, C]."""

    def loss(x, kernels):
        def body(x, kernel):
            y = convolve(x, kernel, (stride, stride))
            # Back to the size of the input, for the next.
            return x + 0.1 * jnp.repeat(jnp.repeat(y, stride, 1), stride, 2), jnp.sum(y**2)

        return lax.scan(jax.checkpoint(body), x, kernels)[1].sum()

    return jax.jit(jax.grad(loss, (0, 1)))


def main():
    """Measures both, alternately, and prints the medians in milliseconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    results = []
    for images, size, channels, taps, stride in _CASES:
        x = jnp.asarray(rng.normal(size=(images, size, size, channels)), jnp.float32)
        kernels = jnp.asarray(rng.normal(0, 0.1, (6, *taps, channels, channels)), jnp.float32)
        compiled = {
            name: gradients(convolve, stride).lower(x, kernels).compile()
            for name, convolve in (("ours", convolution.convolve), ("library", library))
        }
        both = [run(x, kernels) for run in compiled.values()]
        for one, other in zip(*both):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())
        seconds = {name: [] for name in compiled}
        for _ in range(repeats):
            for name, run in compiled.items():
                begun = time.perf_counter()
                jax.block_until_ready(run(x, kernels))
                seconds[name].append(time.perf_counter() - begun)
        ours, theirs = (1e3 * statistics.median(seconds[name]) for name in ("ours", "library"))
        case = {"images": images, "size": size, "channels": channels, "taps": taps}
        case |= {"stride": stride, "ours_ms": round(ours, 2), "library_ms": round(theirs, 2)}
        results.append(case | {"ratio": round(theirs / ours, 1)})
    print(
        json.dumps(
            {
                "benchmark": "convolution",
                "repeats": repeats,
                "results": results,
                "device": jax.devices()[0].device_kind,
                "machine": platform.machine(),
                "versions": {"python": platform.python_version(), "jax": jax.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()

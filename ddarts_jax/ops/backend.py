"""The choice of an operation's implementation per backend; no other module checks the backend.

An operation with several implementations registers each under a name. They give the same results up
to rounding, forwards and backwards, on every backend (tests/ops/test_backend.py compares them all);
`TABLE` contains the fastest one for each backend.
"""

import contextlib
from collections.abc import Callable

import jax

# Backends without their own entry are treated like a GPU: they, too, run XLA's library operations well.
# Two are no backends: "onnx" is the target of a conversion, to operations that ONNX has, for runtimes to
# know; for "counted" a program is traced to count its convolutions and products.
TABLE = {
    # Inside loops, XLA's CPU compiler runs the gradients that JAX derives with naive code.
    "convolution": {"cpu": "canonical", "gpu": "library"},
    # A matrix product of images becomes an Einsum in ONNX, which few runtimes quantise or run well.
    "pointwise": {"cpu": "product", "gpu": "product", "onnx": "library"},
    # XLA's GPU compiler aborts on a matrix product of strided slices (JAX 0.10 and 0.11).
    "strided_pointwise": {"cpu": "product", "gpu": "library"},
    # On a GPU few wide kernels are faster than many; on a CPU the data of one edge stay in the cache.
    "edges": {"cpu": "scanned", "gpu": "joined"},
    "moments": {"cpu": "separate", "gpu": "joined"},
    "sums": {"cpu": "separate", "gpu": "joined"},
    # XLA's grouped convolution is 5 to 20 times slower than shifted sums on a CPU, and on a GPU 2 to 9
    # times slower than a dense one.
    "separable": {"cpu": "shifted", "gpu": "folded", "onnx": "library", "counted": "library"},
    # XLA's gradients of windowed reductions are slow.
    "max_pool": {"cpu": "sliced", "gpu": "sliced", "onnx": "library"},
    "avg_pool": {"cpu": "sliced", "gpu": "sliced", "onnx": "library"},
    # Between convolutions ONNX needs no transposition for a pool, as it does for a mean.
    "global_pool": {"cpu": "mean", "gpu": "mean", "onnx": "library"},
    # On a CPU, XLA fuses cotangents into their consumers, at several times the cost.
    "unfused": {"cpu": "product", "gpu": "identity"},
}
_DTYPES = {"cpu": "float32", "gpu": "bfloat16"}

IMPLEMENTATIONS: dict[str, dict[str, Callable]] = {operation: {} for operation in TABLE}

# Part of the key of JAX's caches, so that a trace for one backend is never used for another.
_compiling_for = jax.make_user_context(default_value=None)


def name() -> str:
    """The backend that programs are compiled for: "cpu", "gpu" or another of JAX's names."""
    return _compiling_for.value or jax.default_backend()


def compiling_for(backend: str) -> contextlib.AbstractContextManager[None]:
    """Makes programs traced in this context use the implementations for `backend`."""
    return _compiling_for(backend)


def implementation(operation: str, name: str) -> Callable[[Callable], Callable]:
    """Registers an implementation of an operation of `TABLE`; a decorator."""

    def register(function: Callable) -> Callable:
        IMPLEMENTATIONS[operation][name] = function
        return function

    return register


def choose(operation: str) -> Callable:
    """The implementation of an operation of `TABLE` for the present backend."""
    row = TABLE[operation]
    return IMPLEMENTATIONS[operation][row.get(name(), row["gpu"])]


def default_dtype() -> str:
    """The compute dtype of networks unless the config names another."""
    return _DTYPES.get(name(), _DTYPES["gpu"])


def compute_dtype(name: str) -> str:
    """Returns the dtype that `config.dtype` names: for "auto" that of `default_dtype`."""
    return default_dtype() if name == "auto" else name

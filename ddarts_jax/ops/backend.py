"""Which implementation of an operation runs on which backend; the only place that asks for it.

An operation with several implementations registers each by a name. They give the same results up to
rounding, forwards and backwards, on every backend (tests/ops/test_backend.py runs all against all);
`TABLE` says which one pays where.
"""

import contextlib
from collections.abc import Callable

import jax

# Backends without a row of their own are treated as a GPU: they, too, run XLA's library operations well.
TABLE = {
    # XLA's CPU compiler runs the gradients that JAX derives by naive code inside loops.
    "convolution": {"cpu": "canonical", "gpu": "library"},
    # XLA's GPU compiler aborts on a matrix product of strided slices (JAX 0.10 and 0.11).
    "strided_pointwise": {"cpu": "product", "gpu": "library"},
    # XLA's grouped convolution is 5 to 20 times slower than shifted sums on a CPU.
    "separable": {"cpu": "shifted", "gpu": "library"},
    # On a CPU XLA fuses cotangents into whatever reads them, at several times the cost.
    "unfused": {"cpu": "product", "gpu": "identity"},
}
_DTYPES = {"cpu": "float32", "gpu": "bfloat16"}

IMPLEMENTATIONS: dict[str, dict[str, Callable]] = {operation: {} for operation in TABLE}

# Part of the key of JAX's caches: a trace for one backend is never taken for another's.
_compiling_for = jax.make_user_context(default_value=None)


def name() -> str:
    """The backend that programs are made for: "cpu", "gpu" or another of JAX's names."""
    return _compiling_for.value or jax.default_backend()


def compiling_for(backend: str) -> contextlib.AbstractContextManager[None]:
    """While programs are traced: chooses implementations for `backend`, wherever they will run."""
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
    """The dtype in which networks are computed unless the config names another."""
    return _DTYPES.get(name(), _DTYPES["gpu"])

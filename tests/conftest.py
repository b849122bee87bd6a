"""Settings of all tests."""

import os
from importlib.metadata import version

import hypothesis
import pytest

# Nearly all the time of the tests goes into compiling programs that run once or twice. Read by XLA
# when JAX starts; flags given from outside come later and win.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):
    # The older way to write fused loops, which later versions lack, compiles in half the time.
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])

# On a machine with a GPU too: bit-equal results are promised on a CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A busy machine is no failure.
hypothesis.settings.register_profile("quiet", deadline=None)
hypothesis.settings.load_profile("quiet")


@pytest.fixture
def library(monkeypatch):
    """Runs a test with dense convolutions, which compile more quickly than shifted sums."""
    from ddarts_jax.ops import backend

    for operation, row in backend.TABLE.items():
        own = row["gpu" if operation == "separable" else "cpu"]
        monkeypatch.setitem(backend.TABLE, operation, row | {"quick": own})
    with backend.compiling_for("quick"):
        yield


@pytest.fixture
def x64():
    """Runs a test in float64, where a comparison with NumPy leaves no room for small errors."""
    import jax

    with jax.enable_x64(True):
        yield


# Tests neither read nor write the user's cache of compiled programs.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

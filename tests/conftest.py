"""Settings of all tests."""

import os

import hypothesis
import pytest

# Nearly all the time of the tests goes into compiling programs that run once or twice. Read by XLA
# when JAX starts; flags given from outside come later and win.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    + os.environ.get("XLA_FLAGS", "")
)

# On a machine with a GPU too: bit-equal results are promised on a CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A busy machine is no failure.
hypothesis.settings.register_profile("quiet", deadline=None)
hypothesis.settings.load_profile("quiet")


@pytest.fixture
def library():
    """Runs a test with XLA's library operations, which compile more quickly than those of a CPU."""
    from ddarts_jax import backend

    with backend.compiling_for("gpu"):
        yield


# Tests neither read nor write the user's cache of compiled programs.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

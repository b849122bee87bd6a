"""Settings of all tests."""

import os

import hypothesis

# Nearly all the time of the tests goes into compiling programs that run once or twice. Read by XLA
# when JAX starts; flags given from outside come later and win.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    + os.environ.get("XLA_FLAGS", "")
)

# A busy machine is no failure.
hypothesis.settings.register_profile("quiet", deadline=None)
hypothesis.settings.load_profile("quiet")

# Tests neither read nor write the user's cache of compiled programs.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

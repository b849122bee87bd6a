"""Versions of this program, of Python and of packages, by their metadata: nothing is imported."""

import platform
from importlib import metadata

from ddarts_jax import __version__

# Those on which the numbers of a run depend.
OF_RESULTS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions(*names: str) -> dict[str, str]:
    """Returns {name: version} of this program, of Python and of installed packages.

    Raises:
        importlib.metadata.PackageNotFoundError: one of `names` is not installed.
    """
    own = {"ddarts_jax": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in names}

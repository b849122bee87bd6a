"""D-DARTS: distributed differentiable architecture search in JAX/Flax.

    import ddarts_jax as dd

`__init__.pyi` lists the public API, the only thing that other code may rely on. Each name is imported
when it is first used: importing the package is quick, and imports no JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"  # the one place: setup.py reads it here

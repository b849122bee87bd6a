"""The search methods by name.

A method is one module here, one line in `_MODULES`, and its options in `configuration.METHODS`. Methods
of other packages are added with `register`.
"""

import importlib

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.searching.method import Method

# Modules that define METHOD; a module is imported when its method is used.
_MODULES = {
    "ddarts": "ddarts",
    "darts": "darts",
    "darts_second": "darts_second",
    "pc_darts": "pc_darts",
    "fairdarts": "fairdarts",
    "p_darts": "p_darts",
    "darts_minus": "darts_minus",
    "beta_darts": "beta_darts",
    "gdas": "gdas",
    "drnas": "drnas",
    "dots": "dots",
    "sdarts_rs": "sdarts_rs",
    "authors_program": "authors_program",
    "random": "random_search",
}
_REGISTERED: dict[str, Method] = {}


def find(name: str) -> Method:
    """Returns the method `name`.

    Raises:
        UserError: there is no such method; the message names the existing ones.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _MODULES:
        known = ", ".join([*_MODULES, *_REGISTERED])
        raise UserError(f"Unknown search method {name!r}: use one of {known}.")
    return importlib.import_module(f"{__name__}.{_MODULES[name]}").METHOD


def register(name: str, method: Method, options: dict | None = None) -> None:
    """Adds a search method, which `config.search.method` can then name.

    Args:
        name: an identifier; also the name of the method's group of options in `config.search`.
        method: the method.
        options: {key: default} of the group; None: the method has no options.

    Raises:
        UserError: the name is taken by another method, or is not an identifier.
    """
    configuration.add_method(name, options or {})
    _REGISTERED[name] = method

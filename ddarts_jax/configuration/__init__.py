"""The configuration: keys and defaults (`keys`), allowed values (`checks`), files and flags (`files`).

A file in configs/ returns `dd.default_config()` with some values changed; flags change further values:

    python -m ddarts_jax.main --config configs/digits.py --config.search.epochs=3 --workdir DIR
"""

from ddarts_jax.configuration.checks import validate
from ddarts_jax.configuration.detection import detection_config
from ddarts_jax.configuration.files import (
    based_on,
    headlines,
    load,
    nearest_key,
    parse_flags,
    shipped,
)
from ddarts_jax.configuration.former import up_to_date
from ddarts_jax.configuration.keys import (
    FORMER_NAMES,
    METHODS,
    add_method,
    compare_config,
    default_config,
    defaults,
    distance_config,
    export_config,
    import_config,
    latency_config,
    options_of,
    score_config,
    seeds_config,
    sweep_config,
    without_augmentation,
)
from ddarts_jax.configuration.values import (
    differences,
    flatten,
    save,
    short_keys,
    to_json,
    with_seed,
)

__all__ = [
    "FORMER_NAMES",
    "METHODS",
    "add_method",
    "based_on",
    "compare_config",
    "default_config",
    "defaults",
    "detection_config",
    "differences",
    "distance_config",
    "export_config",
    "flatten",
    "headlines",
    "import_config",
    "latency_config",
    "load",
    "nearest_key",
    "options_of",
    "parse_flags",
    "save",
    "score_config",
    "seeds_config",
    "shipped",
    "short_keys",
    "sweep_config",
    "to_json",
    "up_to_date",
    "validate",
    "with_seed",
    "without_augmentation",
]

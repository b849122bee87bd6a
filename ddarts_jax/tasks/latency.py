"""Task 'latency': what each primitive of the network that a search would train takes on this device."""

import logging
from pathlib import Path

import jax

from ddarts_jax import configuration
from ddarts_jax.data import dataset as datasets
from ddarts_jax.data import stream
from ddarts_jax.errors import UserError
from ddarts_jax.models import cost, latency
from ddarts_jax.runs import packages
from ddarts_jax.searching import budget, methods, search
from ddarts_jax.tasks import pipeline

_logger = logging.getLogger(__name__)
_SHOWN = 10  # of the slowest primitives


def run(config, workdir: Path, dtype) -> dict[cost.Place, float]:
    """Measures the primitives, writes `latency.json` and prints the slowest ones.

    Args:
        config: see `configuration.latency_config`.
        workdir: an existing folder.
        dtype: compute dtype.

    Returns:
        Milliseconds of a batch, by place.

    Raises:
        UserError: `config.run` is no config of a search that can have a budget, or its data are missing.
    """
    flags = [f"--config.{override}" for override in config.overrides]
    wanted, _ = configuration.parse_flags(["main", f"--config={config.run}", *flags])
    if "search" not in wanted or methods.find(wanted.search.method).run is not None:
        raise UserError(
            f"config.run is {config.run!r}, which has no search that knows a budget: name the config of "
            "one, as --config.run=digits."
        )
    places = needed(wanted)
    _logger.info(
        "latency: %d primitives of the network that %s trains, batch %d",
        *(len(places), config.run, config.batch_size),
    )
    milliseconds = latency.measure(places, config.batch_size, dtype, config.repeats)
    table = latency.Table(
        device=jax.devices()[0].device_kind,
        dtype=dtype,
        batch=config.batch_size,
        versions=packages.versions("jax", "jaxlib", "flax"),
        milliseconds=milliseconds,
    )
    latency.save(table, workdir / "latency.json")
    print(f"{'primitive':<18} {'channels':>8} {'stride':>6} {'size':>5} {'ms':>9}")
    for place in sorted(places, key=milliseconds.get, reverse=True)[:_SHOWN]:
        print("{:<18} {:>8} {:>6} {:>5} {:>9.4f}".format(*place, milliseconds[place]))
    print(f"All {len(places)} are in {workdir / 'latency.json'}.")
    return milliseconds


def needed(config) -> list[cost.Place]:
    """The different places of primitives in the network that a search's config trains, in its order."""
    data = (stream if config.data.stream else datasets).load(config.data)
    net, _, _ = search.build(config, data, "float32", pipeline.find_start(config))
    order, size = budget.trained(config, net, data)
    walk = cost.places(order, size)
    return list(dict.fromkeys(place for rows in walk for row in rows for place in row))

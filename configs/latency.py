r"""What each primitive takes on this device, as a budget of milliseconds needs it.

    python -m ddarts_jax.main --config configs/latency.py --config.run=digits --workdir runs/latency
    python -m ddarts_jax.main --config configs/digits.py --config.search.budget.latency=0.8 \
        --config.search.budget.table=runs/latency/latency.json

The first command times every primitive of the network that `run` trains, at its channels, strides and
sizes, and writes `latency.json`. docs/guides/budget.md has the rest.
"""

from ddarts_jax.configuration import latency_config


def get_config():
    return latency_config()

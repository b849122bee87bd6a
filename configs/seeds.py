r"""One config for several seeds: a table with mean and spread.

    python -m ddarts_jax.main --config configs/seeds.py --workdir runs/seeds
    python -m ddarts_jax.main --config configs/seeds.py --config.run=configs/cifar10_search.py \
        --config.seeds="(0, 1, 2, 3)" --config.overrides="('search.epochs=25',)"

Each seed is a process with a GPU of its own, or on a CPU two at a time, in WORKDIR/seed_K; the same
command continues. Alone on 2 CPU cores a seed of digits takes 3 minutes, or 1.5 once the programs are
compiled.
"""

from ddarts_jax.configuration import seeds_config


def get_config():
    return seeds_config()

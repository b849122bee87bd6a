r"""One config for every combination of some of its values: a table, and accuracy over cost.

    python -m ddarts_jax.main --config configs/sweep.py --workdir runs/sweep --config.seeds="(0, 1)" \
        --config.grid="{'search.method': ('ddarts', 'darts'), 'train.channels': (8, 16)}"
    python -m ddarts_jax.main --config configs/sweep.py --workdir runs/sweep \
        --config.run=configs/cifar10_search.py --config.grid="{'search.epochs': (25, 50)}" \
        --config.launcher=slurm --config.slurm.partition=gpu \
        --config.slurm.parameters="{'cpus_per_task': 8}"

Each run is a process with a GPU of its own, or on a CPU two at a time, or (after pip install
'ddarts_jax[slurm]') a job of SLURM, in WORKDIR/method=darts+channels=8/seed_K and so on. The same command
continues; with more values or seeds it runs only these. Writes sweep.md, sweep.json, sweep.png and
report.html.
"""

from ddarts_jax.configuration import sweep_config


def get_config():
    return sweep_config()

r"""Several runs in one report: curves together, mean and spread over seeds, cost, genotypes, distances.

    python -m ddarts_jax.main --config configs/compare.py --config.runs=runs/a,runs/b,runs/c \
        [--workdir DIR]

Runs are workdirs, finished or not; those whose configs differ by no more than the seed are one group.
Writes `report.html`, `comparison.json` and `comparison.md` in seconds, and prints the table.
"""

from ddarts_jax.configuration import compare_config


def get_config():
    return compare_config()

"""How much a supernet knows: what it says of random networks, against their accuracy once trained.

    python benchmarks/mini_cifar/ranking.py [--method ddarts] [--seed 0] [--full]

The networks are those of the results of "chance"; the supernet is that of a run of run.py, in its
workdir. Writes `results/ranking/METHOD_SEED.json`, which table.py reports: Kendall's rank correlation of
each measure with the test accuracy, with a bootstrap interval over the networks.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
import protocol
import scipy.stats

import ddarts_jax as dd
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json, write_json
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.ops import backend
from ddarts_jax.reports import markdown
from ddarts_jax.searching import discretisation
from ddarts_jax.training import feeds

FOLDER = "ranking"  # in the results
# Larger is better in all of them, or so a search hopes. The last needs no search.
MEASURES = {
    "masked_accuracy": "accuracy of the supernet with the network's gates alone",
    "gates": "sum of its gates",
    "mean_gate": "mean of its gates",
    "nearness": "nearness to the network that the search found",
    "macs": "multiply-accumulates, which no search is needed for",
}
_RESAMPLES = 1000


def kendall(measure: np.ndarray, accuracy: np.ndarray) -> dict[str, float]:
    """Returns Kendall's tau-b of two rankings, and its 95% interval.

    Args:
        measure: float [n], n at least 3.
        accuracy: float [n].

    Returns:
        tau, and low and high, percentiles of bootstrap samples of the n networks. Equal values rank
        nothing, so where all are equal tau is 0.
    """
    draws = np.random.default_rng(0).integers(len(measure), size=(_RESAMPLES, len(measure)))
    samples = [_tau(measure[draw], accuracy[draw]) for draw in draws]
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"tau": _tau(measure, accuracy), "low": float(low), "high": float(high)}


def cells_of(found: dict[str, float]) -> tuple[str, str]:
    """Returns what `kendall` found as cells of a table: tau, and its interval."""
    return f"{found['tau']:+.2f}", f"{found['low']:+.2f} to {found['high']:+.2f}"


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.nan_to_num(scipy.stats.kendalltau(a, b).statistic))


def said(
    accuracy_of: Callable[[np.ndarray], float],
    gates: np.ndarray,
    primitives: tuple[str, ...],
    origin: Genotype,
    results: list[dict],
) -> dict[str, list[float]]:
    """Returns every measure of some networks.

    Args:
        accuracy_of: `(gates [cells, E, G]) -> accuracy` of the supernet with these gates.
        gates: float [cells, E, G], of the trained supernet.
        primitives: names of the first of the G columns.
        origin: the network that the search found.
        results: of the networks.

    Returns:
        {key of `MEASURES`: value of each}.
    """
    found = {key: [] for key in MEASURES}
    for result in results:
        genotype = find_genotype(result["genotype"])
        masked = np.asarray(discretisation.masked(gates, genotype, primitives))
        own = masked[..., : len(primitives)]
        found["masked_accuracy"].append(accuracy_of(masked))
        found["gates"].append(float(own.sum()))
        found["mean_gate"].append(float(own.sum()) / sum(map(len, genotype.cells)))
        found["nearness"].append(-distance.architecture_distance(genotype, origin))
        found["macs"].append(result["macs"])
    return found


def measured(method: str, seed: int, results: list[dict]) -> dict[str, list[float]]:
    """Measures networks by the trained supernet of a run, on all images of the alphas' half."""
    config = protocol.config_of(method, seed, {"task": "search"})
    workdir = protocol.SIZE.runs / f"{method}_{seed}" / "search"
    if not protocol.result_file(method, seed).is_file() or not workdir.is_dir():
        raise UserError(
            f"There is no finished search in {workdir}, whose supernet could be asked: "
            f"`run.py {method} {seed}` makes it."
        )
    dataset = dd.load_data(config.data)
    search = dd.search(config, dataset, workdir)  # which has ended, so this reads it
    net, variables, size = search.supernet, search.variables, config.data.batch_size
    mesh = sharding.data_mesh(size)
    _, held_out = dataset.halves(seed)
    batches = feeds.some_batches(dataset, held_out, len(held_out), size, mesh)
    dtype = backend.compute_dtype(config.dtype)
    accuracy = discretisation.make_accuracy(net, dataset.mean, dataset.std, dtype, mesh)

    def accuracy_of(gates):
        return float(np.mean([accuracy(variables, gates, *batch) for batch in batches]))

    gates = np.asarray(net.gates(search.alphas))
    return said(accuracy_of, gates, net.primitives, search.genotype, results)


def text() -> str:
    """Returns the section of the results' page on all rankings that are there; empty without one."""
    found = sorted((protocol.SIZE.results / FOLDER).glob("*.json"))
    if not found:
        return ""
    rows = []
    for path in found:
        content = read_json(path, "Ranking")
        title = f"{protocol.ALL[content['method']].title}, seed {content['seed']}"
        for key, name in MEASURES.items():
            tau = cells_of(content["correlations"][key])
            rows.append([title, content["networks"], name, *tau])
    header = ("supernet", "networks", "measure", "Kendall's tau", "95% interval")
    return (
        f"## What a supernet knows of random networks\n\n{markdown.table(header, rows)}\n"
        "\nRank correlation with the accuracy of the trained networks; intervals by bootstrap over the "
        "networks. 1: the supernet ranks them as training does, 0: it knows nothing.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    # Those with an architecture for every cell, as the random networks have.
    supernets = [method for method in protocol.METHODS if method.startswith("ddarts")]
    parser.add_argument("--method", choices=supernets, default="ddarts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="at the article's size, on a GPU")
    arguments = parser.parse_args(argv)
    protocol.select(arguments.full)
    try:
        results = list(protocol.read_results().get(protocol.CHANCE, {}).values())
        if len(results) < 3:
            raise UserError(
                f"{len(results)} random networks are trained: a ranking needs 3 or more."
            )
        values = measured(arguments.method, arguments.seed, results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    accuracies = np.array([result["test_accuracy"] for result in results])
    path = protocol.SIZE.results / FOLDER / f"{arguments.method}_{arguments.seed}.json"
    path.parent.mkdir(exist_ok=True)
    content = {
        **vars(arguments),
        "networks": len(results),
        "accuracies": accuracies.tolist(),
        "values": values,
        "correlations": {key: kendall(np.array(own), accuracies) for key, own in values.items()},
    }
    write_json(path, content)
    print(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes the table and the picture of the results that are there.

    python benchmarks/mini_cifar/table.py [--full]

Writes `results/README.md`, and `accuracy.svg` and `accuracy.png` in `results/` and `results/factors/`.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import anatomy
import matplotlib
import numpy as np
import protocol
import ranking
import scipy.stats
from matplotlib.figure import Figure

from ddarts_jax.errors import UserError
from ddarts_jax.files import write_text
from ddarts_jax.reports import markdown
from ddarts_jax.reports.palette import COLOURS, INK

HEADER = (
    *("", "n", "test accuracy, %", "difference", "95% interval", "p, corrected", "its n"),
    *("best epoch, %", "parameters off, %", "million MACs", "search, s", "search, CPU s"),
    *("supernet, %", "its mask, %", "decided, %"),
)
NOTES = """\
Accuracy after the last epoch on all test images: mean ± sample standard deviation over n seeds; "best
epoch" is the mean of the largest of all epochs, a maximum over the test images. Differences are to the
first row, of the same seeds, in points; their interval is Student's t, and p (two-sided, paired t
test) is corrected for all comparisons of a table by Holm. "Parameters off": mean size of the deviation
from the target. "Search": seconds of all epochs on the machine as it was, then CPU seconds with
compiling, of runs that were not interrupted, and only of those on {timed}. "Supernet" and "its mask":
accuracy on the alphas' half of the training images, with all gates and with those of the found network
alone; of random search that of the best candidate there. "Decided": share of the gates above 0.9 or
below 0.1.
"""


UNPAIRED = """\
The comparison of pairs was planned. But a seed gives two methods the same halves and order of the images,
not like networks, and all networks of the reference say more of it than those few that have a partner.
Here is the mean of all seeds against that of all {reference}, by Welch's t test, p corrected as above, of
methods with {fewest} seeds or more: a spread of two or three is too uncertain for this test.
"""
_FEWEST = 4
CHANGES = """\
Each row changes one thing of the first, with which it is compared; in D-DARTS itself the alphas move from
the start. Columns as above, but differences are of the means of those seeds that the first row has too,
and intervals and p are Dunnett's: with one spread for all rows, and holding for all rows together.
"""


class Comparison(NamedTuple):
    """A method against another; in fractions.

    Attributes:
        count: of the seeds that both have, or that the method has.
        difference: of the means.
        low, high: its 95% interval; None of one seed.
        p: of the t test; None of one seed.
    """

    count: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def compared(own: dict[int, dict], other: dict[int, dict]) -> Comparison | None:
    """Compares two methods' test accuracies seed by seed; None where they share no seed."""
    differences = [
        own[seed]["test_accuracy"] - other[seed]["test_accuracy"] for seed in own if seed in other
    ]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Comparison(1, mean)
    return _tested(len(differences), mean, scipy.stats.ttest_1samp(differences, 0))


def unpaired(own: dict[int, dict], other: dict[int, dict]) -> Comparison | None:
    """Compares two methods' mean test accuracies over all seeds; None where one has too few."""
    accuracies = [[run["test_accuracy"] for run in each.values()] for each in (own, other)]
    if min(map(len, accuracies)) < _FEWEST:
        return None
    mean = statistics.fmean(accuracies[0]) - statistics.fmean(accuracies[1])
    return _tested(len(own), mean, scipy.stats.ttest_ind(*accuracies, equal_var=False))


def _tested(count: int, mean: float, test) -> Comparison:
    interval = test.confidence_interval(0.95)
    return Comparison(count, mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p values for their number by Holm's step-down method; the order stays."""
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (count - rank) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def comparisons(
    results: dict[str, dict[int, dict]], reference: str, compare=compared
) -> dict[str, tuple[Comparison, float | None]]:
    """Returns of every method but one its comparison with that and, where it has one, the corrected p.

    Args:
        results: {method: {seed: result}}.
        reference: the one.
        compare: `compared` or `unpaired`.
    """
    found = {
        method: comparison
        for method, own in results.items()
        if method != reference and (comparison := compare(own, results.get(reference, {})))
    }
    tested = [method for method, comparison in found.items() if comparison.p is not None]
    corrected = dict(zip(tested, holm([found[method].p for method in tested])))
    return {method: (found[method], corrected.get(method)) for method in found}


def simultaneous(
    results: dict[str, dict[int, dict]], reference: str
) -> dict[str, tuple[Comparison, float | None]]:
    """Returns of every method but one its comparison with that by Dunnett's test, and p.

    The intervals hold together, and the spread is one of all methods, so that few seeds each say
    something; seeds that the reference lacks are left out. One seed alone has no interval.
    """
    control = results.get(reference, {})
    accuracies = {
        method: [run["test_accuracy"] for seed, run in own.items() if seed in control]
        for method, own in results.items()
    }
    found = {
        method: Comparison(
            len(own), statistics.fmean(own) - statistics.fmean(accuracies[reference])
        )
        for method, own in accuracies.items()
        if own and method != reference
    }
    against = {method: (each, None) for method, each in found.items()}
    tested = [method for method, each in found.items() if each.count > 1]
    if not tested:
        return against
    samples, last = [accuracies[method] for method in tested], accuracies[reference]
    # The test integrates by random points.
    test = scipy.stats.dunnett(*samples, control=last, rng=np.random.default_rng(0))
    for method, low, high, p in zip(tested, *test.confidence_interval(0.95), test.pvalue):
        low, high, p = float(low), float(high), float(p)
        against[method] = (found[method]._replace(low=low, high=high, p=p), p)
    return against


def mean_of(results: Sequence[dict], *keys: str, scale: float = 1, digits: int = 1) -> str:
    """Returns the mean size of a number of some results, given by its keys; "-" where none has it."""
    values = []
    for value in results:
        for key in keys:
            value = None if value is None else value.get(key)
        if value is not None:
            values.append(abs(value))
    return f"{scale * statistics.fmean(values):.{digits}f}" if values else "-"


def timed_device(results: dict[str, dict[int, dict]]) -> str:
    """Returns the device of most searches: seconds of different ones have no mean."""
    devices = [run["device"] for own in results.values() for run in own.values() if run["search"]]
    return max(sorted(set(devices)), key=devices.count, default="cpu")


def said_of(comparison: tuple[Comparison, float | None] | None) -> list[str]:
    """Returns the cells of a comparison and its corrected p: difference, interval, p, number."""
    if not comparison:
        return ["-"] * 4
    found, p = comparison
    if p is None:
        return [f"{100 * found.difference:+.2f}", "one pair: none", "-", str(found.count)]
    interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return [f"{100 * found.difference:+.2f}", interval, f"{p:.3f}", str(found.count)]


def unpaired_text(results: dict[str, dict[int, dict]], reference: str) -> str:
    """Returns the section that compares all seeds with all of the reference; empty without enough."""
    found = comparisons(results, reference, unpaired)
    if not found:
        return ""
    header = ("", "difference", "95% interval", "p, corrected", "n")
    rows = [[protocol.ALL[method].title, *said_of(each)] for method, each in found.items()]
    networks = f"{len(results[reference])} of {protocol.ALL[reference].title}"
    note = UNPAIRED.format(reference=networks, fewest=_FEWEST)
    return f"## Without pairs\n\n{note}\n{markdown.table(header, rows)}\n"


def row(method: str, own: dict[int, dict], comparison: tuple | None, timed: str) -> list[str]:
    """Returns the cells of a method, see `HEADER`; seconds are those of runs on the device `timed`."""
    runs = list(own.values())
    there = [run for run in runs if run["device"] == timed]
    accuracies = [100 * run["test_accuracy"] for run in runs]
    said = f"{statistics.fmean(accuracies):.2f}"
    said += f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else " (one run: no spread)"
    supernet = mean_of(runs, "search", "supernet_accuracy", scale=100)
    if method == "random_search":
        best = [{"best": max(run["search"]["candidates"])} for run in runs]
        supernet = mean_of(best, "best", scale=100)
    return [
        *(protocol.ALL[method].title, str(len(runs)), said, *said_of(comparison)),
        mean_of(runs, "test_accuracy_best_epoch", scale=100, digits=2),
        mean_of(runs, "params_off", scale=100),
        mean_of(runs, "macs", scale=1e-6, digits=2),
        mean_of(there, "search", "seconds", digits=0),
        mean_of(there, "search", "cpu_seconds", digits=0),
        supernet,
        mean_of(runs, "search", "discrete_accuracy", scale=100),
        mean_of(runs, "search", "decided", scale=100),
    ]


def text_of(results: dict[str, dict[int, dict]]) -> str:
    """Returns the page of the results."""
    some = next(iter(next(iter(results.values())).values()))
    machines = sorted(
        {
            f"{run['versions']['device']} (JAX {run['versions']['jax']})"
            for own in results.values()
            for run in own.values()
        }
    )
    timed = timed_device(results)
    methods = methods_in(results)
    sections = [
        f"# {'Mini-CIFAR' if protocol.SIZE is protocol.MINI else 'CIFAR-10'}: the methods\n",
        lines_of(methods, comparisons(methods, protocol.CHANCE), timed),
        "\n" + NOTES.format(timed=timed),
        f"Images {some['images']}, protocol {some['protocol']}; {', '.join(machines)}.\n",
        "![Test accuracy by method](accuracy.svg)\n",
        unpaired_text(methods, protocol.CHANCE),
    ]
    if factors := factors_in(results):
        sections += [
            "## One change at a time\n",
            CHANGES,
            lines_of(factors, simultaneous(factors, protocol.BASE), timed),
            "\n![Test accuracy by change](factors/accuracy.svg)\n",
        ]
    sections += [anatomy.text(results), anatomy.signals_text(results)]
    sections += [ranking.text(), anatomy.convergence_text(results)]
    return "\n".join(filter(None, sections))


def methods_in(results: dict[str, dict[int, dict]]) -> dict[str, dict[int, dict]]:
    """Returns the results of methods alone."""
    return {method: own for method, own in results.items() if method in protocol.METHODS}


def factors_in(results: dict[str, dict[int, dict]]) -> dict[str, dict[int, dict]]:
    """Returns the results of the factor study, first what it is compared with; empty without any."""
    own = {method: found for method, found in results.items() if method in protocol.FACTORS}
    if not own:
        return {}
    return {method: results[method] for method in protocol.COMPARED if method in results} | own


def lines_of(results: dict[str, dict[int, dict]], against: dict[str, tuple], timed: str) -> str:
    """Returns the table of some results with their comparisons; `timed` as in `row`."""
    rows = [row(method, own, against.get(method), timed) for method, own in results.items()]
    return markdown.table(HEADER, rows)


def draw(results: dict[str, dict[int, dict]]) -> Figure:
    """Draws every run as a point, and of each method the mean with its 95% interval (Student's t).

    Of few runs the mean alone: the interval of two would be wider than the picture of all others.
    """
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(results)), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for place, own in enumerate(results.values()):
        found = np.array([100 * run["test_accuracy"] for run in own.values()])
        axes.plot(found, [place] * len(found), "o", color=COLOURS[0], mfc="white", ms=4, zorder=2)
        if len(found) > 1:
            half = scipy.stats.sem(found) * scipy.stats.t.ppf(0.975, len(found) - 1)
            shown = half if len(found) >= _FEWEST else None
            axes.errorbar(found.mean(), place + 0.25, xerr=shown, fmt="|", color=INK, capsize=3)
    titles = [f"{protocol.ALL[name].title}, n = {len(own)}" for name, own in results.items()]
    axes.set_yticks(range(len(results)), titles)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Writes the tables and the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--full", action="store_true", help="those of the article's size")
    protocol.select(parser.parse_args(argv).full)
    try:
        results = protocol.read_results()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not results:
        print(f"error: there is no result in {protocol.SIZE.results}.", file=sys.stderr)
        return 2
    text = text_of(results)
    write_text(protocol.SIZE.results / "README.md", text)
    for folder, own in (("", methods_in(results)), ("factors", factors_in(results))):
        if not own:
            continue
        figure = draw(own)
        # Text stays text. A fixed salt and no date: equal pictures, equal files.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mini_cifar"}):
            path = protocol.SIZE.results / folder / "accuracy.svg"
            figure.savefig(path, metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The tasks 'search' and 'train', and 'pipeline', which runs both and evaluates the network."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes import effect, lookup
from ddarts_jax.genotypes.genotype import Genotype, expand
from ddarts_jax.reports import drawing, report
from ddarts_jax.runs import layout, metrics
from ddarts_jax.runs.metrics import MetricsWriter
from ddarts_jax.runs.workdir import Clock
from ddarts_jax.searching import outline, search
from ddarts_jax.tasks import distances
from ddarts_jax.training import compilation, evaluate, train
from ddarts_jax.training.signals import Stopped

_logger = logging.getLogger(__name__)


def run(config, dataset, workdir: Path, dtype, clock: Clock) -> dict:
    """Runs task "pipeline", "search" or "train".

    Args:
        config: the whole config.
        dataset: images, in memory or streamed.
        workdir: an existing folder that no other process uses.
        dtype: compute dtype.
        clock: clock of the run.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the user can fix the problem.
        Stopped: a signal ended the run; the state is saved.
    """
    live = report.Live(workdir)
    writer = MetricsWriter(workdir, after_epoch(clock, live) if processes.is_main() else None)
    trained = None
    with contextlib.closing(writer), kept_if_stopped(clock, live):
        if config.task == "train":
            found = config.genotype or workdir / layout.GENOTYPE
            genotype = processes.from_main(lambda: lookup.find_genotype(found))
        else:
            start = find_start(config)
            if config.task == "pipeline":
                _check_training(config, dataset, start)
            genotype = search.run(config, dataset, workdir, writer, dtype, start).genotype
        genotype = deepened(config, genotype)
        if config.task in ("pipeline", "train"):
            trained = train.run(config, genotype, dataset, workdir, writer, dtype)
    summary = summarize(config, genotype, trained, dataset, workdir, dtype, clock)
    if processes.is_main():
        live.close()
    return summary


def _check_training(config, dataset, start: Genotype | None) -> None:
    """Refuses a training that would fail whatever the search finds, before the search."""
    train.check(config, dataset)
    expected = deepened(config, outline.genotype(config.search, start))
    train.cost(config, expected, dataset, auxiliary=config.train.auxiliary_weight > 0)


@contextlib.contextmanager
def kept_if_stopped(clock: Clock, live: report.Live) -> Iterator[None]:
    """Keeps time and report of a run that is stopped in the block.

    Not after a UserError: the workdir may belong to another run.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        clock.keep(compilation.spent())
        if processes.is_main():
            live.close()
        raise


def after_epoch(clock: Clock, live: report.Live) -> Callable[[Path], None]:
    """Returns what a `MetricsWriter` calls after each line: keeps the time and the report."""

    def keep(workdir):
        clock.keep(compilation.spent())
        live.update()

    return keep


def find_start(config) -> Genotype | None:
    """Returns the network that the config's search starts from, or None."""
    name = config.search.start.genotype
    return processes.from_main(lambda: lookup.find_genotype(name) if name else None)


def deepened(config, genotype: Genotype) -> Genotype:
    """Returns the genotype expanded to `train.num_cells` cells (Algorithm 1)."""
    if config.train.num_cells in (0, genotype.num_cells):
        return genotype
    return expand(genotype, config.train.num_cells)


def summarize(config, genotype, trained, dataset, workdir: Path, dtype, clock: Clock) -> dict:
    """Evaluates the trained network, if there is one, and prints the results of the run.

    Writes `summary.json`, `network_genotype.json` and the pictures `genotype.svg` and `.png`; for a
    trained network also `evaluation.json` (by class and by cell) and the picture `confusion`; after a
    search with a start also the picture `distance`.

    Returns:
        The content of `summary.json`. `test_accuracy` is that of the last epoch's network;
        `test_accuracy_best_epoch` is the largest of all epochs, a maximum over the test set, as reported
        in the article.
    """
    summary = {"task": config.task, "data": dataset.name}
    cost = None
    try:
        cost = train.cost(config, genotype, dataset)
        summary |= {"params": cost.params, "macs": cost.macs}
    except UserError as error:  # a search may end with a cell without primitives
        _logger.warning("This genotype does not form a valid network: %s", error)
    tested = None
    if trained:
        tested = evaluate.evaluate_dataset(*trained, dataset, config.data.batch_size, dtype)
        summary |= accuracies(tested, dataset)
    if not processes.is_main():
        return summary
    if trained:
        epochs = [r for r in metrics.read(workdir / layout.METRICS) if r["phase"] == "train"]
        if epochs:  # not if the file of the metrics was lost
            summary["test_accuracy_best_epoch"] = max(row["accuracy"] for row in epochs)
        write_evaluation(workdir, tested, cost, [], dataset)
    if config.task in ("pipeline", "search") and config.search.start.genotype:
        found = Genotype.load(workdir / layout.GENOTYPE)
        origin = Genotype.load(workdir / layout.START_GENOTYPE)
        summary["from_start"] = distances.distances(found, origin)
        distances.draw_history(config, workdir)
    if trained or not (workdir / layout.NETWORK).is_file():  # else it is that of a trained network
        genotype.save(workdir / layout.NETWORK_GENOTYPE)
        drawing.draw_genotype(genotype, workdir / "genotype", f"{dataset.name}: network found")
    clock.keep(compilation.spent())
    summary |= {"seconds": round(clock.total(), 1), "compile_seconds": round(clock.compiling, 1)}
    summary["workdir"] = str(workdir)
    write_json(workdir / layout.SUMMARY, summary)
    print_result(config, genotype, summary, [])
    return summary


def accuracies(tested: dict, dataset) -> dict[str, float]:
    """Returns the entries of `summary.json` for what `evaluate` measured.

    With five classes or fewer every answer is among the best five, so that number is left out.
    """
    found = {"test_accuracy": tested["accuracy"], "test_loss": tested["loss"]}
    if dataset.num_classes > 5:
        found["test_top5_accuracy"] = tested["top5_accuracy"]
    return found


def write_evaluation(
    workdir: Path, tested: dict, cost, speed: list[dict], dataset, name: str = ""
) -> Path:
    """Writes `evaluation.json` and the picture `confusion`, or those of other data, by their name.

    Returns:
        The path of the JSON file.
    """
    details = {"data": dataset.name} | evaluate.details(tested, dataset.class_names)
    details |= {"cell_params": cost.cell_params, "cell_macs": cost.cell_macs}
    if speed:
        details["speed"] = speed
    path = workdir / (layout.OTHER_EVALUATION.format(name) if name else layout.EVALUATION)
    write_json(path, details)
    picture = workdir / (f"confusion-{name}" if name else "confusion")
    drawing.draw_confusion(tested["confusion"], dataset.class_names, picture, dataset.name)
    return path


def print_result(config, genotype: Genotype, summary: dict, speed: list[dict]) -> None:
    """Prints the genotype and its results in `summary`."""
    print("genotype (node <- primitive(source)):")
    unread = effect.unread_cells(genotype)
    for position, cell in enumerate(genotype.cells):
        kind = "reduction" if position in genotype.reductions else "normal"
        used = () if position in unread else effect.working(cell)
        entries = ", ".join(f"{node} <- {name}({source})" for name, node, source in used)
        print(f"  cell {position} ({kind}): {entries or '-'}")
    for sentence in effect.without_effect(genotype):
        print(sentence)
    if "params" in summary:
        print(f"parameters {summary['params']:,}, MACs {summary['macs']:,}")
    if "from_start" in summary:
        moved = summary["from_start"]
        print(
            f"distance to {config.search.start.genotype:.200}: {moved['distance']:.4f} "
            f"(positional {moved['positional_distance']:.4f})"
        )
    if "test_accuracy" in summary:
        top5 = summary.get("test_top5_accuracy")
        ending = "" if top5 is None else f", top-5 {100 * top5:.2f}%"
        print(f"test accuracy {100 * summary['test_accuracy']:.2f}%{ending}")
    for row in speed:
        print(
            f"batch {row['batch_size']}: {row['milliseconds']:.2f} ms, "
            f"{row['images_per_second']:.0f} images/s"
        )
    compiling = summary.get("compile_seconds")
    note = f" ({compiling} s of them compiling)" if compiling else ""
    print(f"Done in {summary['seconds']} s{note}; results are in {summary['workdir']}.")

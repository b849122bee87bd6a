"""The command line: `python -m ddarts_jax.main --config configs/digits.py [--workdir DIR]`."""

import logging
import platform
import signal
import sys
import tempfile
import traceback
from importlib import metadata
from pathlib import Path

from ddarts_jax import configuration
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json
from ddarts_jax.genotypes import lookup
from ddarts_jax.models import weights
from ddarts_jax.runs.workdir import Clock, locked

_logger = logging.getLogger("ddarts_jax")


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line asks for.

    Returns:
        The exit status: 0 if all is done; 2 for a mistake that the user can mend; 128 plus the
        signal's number if a signal ended the run, whose state is saved: 130 after SIGINT, 143 after
        SIGTERM. In a run of several processes, one that fails exits here.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    _logger.setLevel(logging.INFO)
    # The first import of jax takes seconds: wrong flags are told before it.
    try:
        group, argv = processes.parse_flags(sys.argv if argv is None else argv)
        config, workdir = configuration.parse_flags(argv)
        processes.start(group)
    except UserError as error:
        return _fail(error)
    from ddarts_jax.training.signals import Stopped

    failure = ""
    try:
        if processes.is_main():
            run(config, workdir)
        else:
            _logger.setLevel(logging.WARNING)
            with processes.scratch() as scratch:
                run(config, scratch)
        status = 0
    except (UserError, OSError) as error:
        status, failure = _fail(error), str(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        status = 128 + stopped.signal  # as a shell says it; not 0: the work is not done
    except KeyboardInterrupt:
        print("interrupted; the same command with the same --workdir continues", file=sys.stderr)
        status, failure = 128 + signal.SIGINT, "interrupted"
    except Exception as error:
        if processes.count() == 1:
            raise
        processes.wait_for_verdict()
        traceback.print_exc()
        status, failure = 1, repr(error)
    processes.leave(status, failure)
    return status


def run(config, workdir: str | Path) -> dict:
    """Runs `config.task` in `workdir`.

    Args:
        config: validated, as `config.parse_flags` gives it.
        workdir: made if it does not exist; an interrupted run in it continues. Of several processes
            all but the first have a scratch directory in its place.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: what a user can mend; also that another process uses the workdir.
    """
    if processes.count() > 1 and config.task not in ("pipeline", "search", "train", "evaluate"):
        raise UserError(f"Task {config.task!r} runs in one process; start it alone.")
    workdir = Path(workdir)
    if config.task == "export":  # which writes elsewhere
        return _run_task(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):
        return _run_task(config, workdir)


def _run_task(config, workdir: Path) -> dict:
    """Runs the task as `run` describes, which keeps other processes out of the workdir."""
    clock = Clock(workdir, counts=config.task != "evaluate")
    if config.task == "seeds":
        from ddarts_jax.tasks import seeds

        return seeds.run(config, workdir)  # uses no device, which its runs need
    import jax

    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    from ddarts_jax.data import dataset as data
    from ddarts_jax.data import stream
    from ddarts_jax.genotypes.genotype import expand
    from ddarts_jax.ops import backend
    from ddarts_jax.reports import comparison, report
    from ddarts_jax.runs.metrics import MetricsWriter
    from ddarts_jax.searching import search
    from ddarts_jax.tasks import distances as compare
    from ddarts_jax.tasks import export, importing, scoring
    from ddarts_jax.training import compilation, train
    from ddarts_jax.training.signals import Stopped

    compilation.keep_programs()
    if config.task == "export":
        with tempfile.TemporaryDirectory() as scratch:
            return export.run(config, Path(scratch))
    if config.task == "distance":
        return compare.run(config, workdir)
    if config.task == "compare":
        return comparison.run(config, workdir)
    if config.task == "import":
        return importing.run(config, workdir)

    dtype = config.dtype
    if dtype == "auto":
        dtype = backend.default_dtype()
    devices = jax.devices()
    _logger.info(
        "%s on %d x %s, %s, in %s",
        *(config.task, len(devices), devices[0].device_kind, dtype, workdir),
    )
    dataset = (stream if config.data.get("stream") else data).load(config.data)
    _logger.info(
        "%s: %d training and %d test images of %dx%dx%d, %d classes",
        *(dataset.name, dataset.num_train, dataset.num_test),
        *(*dataset.image_shape, dataset.num_classes),
    )
    if config.task == "score_operations":
        return scoring.run(config, dataset, workdir, dtype)

    write_json(workdir / "versions.json", versions())

    def after_epoch(workdir):
        clock.keep()
        report.write(workdir)

    writer = MetricsWriter(workdir, after_epoch if processes.is_main() else None)
    trained = None
    try:
        if config.task in ("pipeline", "search"):
            name = config.search.start.genotype
            start = processes.from_main(lambda: lookup.find_genotype(name) if name else None)
            genotype = search.run(config, dataset, workdir, writer, dtype, start).genotype
            expanded = False
        else:
            found, expanded = processes.from_main(lambda: _genotype_to_use(config, workdir))
            genotype = processes.from_main(lambda: lookup.find_genotype(found))
        deeper = config.train.num_cells not in (0, genotype.num_cells)
        if deeper and not expanded:
            genotype = expand(genotype, config.train.num_cells)
        if config.task in ("pipeline", "train"):
            trained = train.run(config, genotype, dataset, workdir, writer, dtype)
        elif config.task == "evaluate":
            net, empty = train.build(config, genotype, dataset, dtype, trained=True)
            path = config.weights or workdir / "network.npz"
            trained = net, processes.from_main(lambda: weights.load_network(path, empty))
    except (Stopped, KeyboardInterrupt):
        clock.keep()  # not after a UserError: the workdir may be another run's
        raise
    finally:
        writer.close()
    summary = summarize(config, genotype, trained, dataset, workdir, dtype, clock)
    writer.report()
    return summary


def _genotype_to_use(config, workdir: Path) -> tuple[str | Path, bool]:
    """Names the genotype of task 'train' or 'evaluate'.

    Returns:
        A name for `lookup.find_genotype`, and whether it is the genotype of a trained network,
        which has been expanded already.
    """
    if config.genotype:
        return config.genotype, False
    trained = workdir / "network_genotype.json"
    if config.task == "evaluate" and trained.is_file():
        return trained, True
    return workdir / "genotype.json", False


def versions() -> dict:
    """What a run depends on besides its config: versions of packages, and the devices."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name.partition("-")[0]: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": processes.count(),
    }


def summarize(config, genotype, trained, dataset, workdir: Path, dtype, clock: Clock) -> dict:
    """Evaluates the trained network, if there is one, and says shortly what the run found.

    Writes `summary.json`, `network_genotype.json` and the picture `genotype.svg` and `.png`; of a
    trained network `evaluation.json` (by class and by cell; speed after task 'evaluate') and the
    picture `confusion`; after a search with a start the picture `distance`.
    """
    from ddarts_jax.genotypes.genotype import Genotype
    from ddarts_jax.reports import drawing
    from ddarts_jax.tasks import distances as compare
    from ddarts_jax.training import evaluate, train

    summary = {"task": config.task, "data": dataset.name}
    try:
        cost = train.cost(config, genotype, dataset)
        summary |= {"params": cost.params, "macs": cost.macs}
    except UserError as error:  # a search may end with a cell that keeps nothing
        _logger.warning("this genotype makes no network: %s", error)
    if trained:
        tested = evaluate.evaluate_dataset(*trained, dataset, config.data.batch_size, dtype)
        summary |= {"test_accuracy": tested["accuracy"], "test_loss": tested["loss"]}
        summary["test_top5_accuracy"] = tested["top5_accuracy"]
    if not processes.is_main():
        return summary
    if trained:
        details = evaluate.details(tested, dataset.class_names) | {
            "cell_params": cost.cell_params,
            "cell_macs": cost.cell_macs,
        }
        if config.task == "evaluate":
            sizes = config.evaluate.batch_sizes
            details["speed"] = evaluate.speed(*trained, dataset.image_shape, sizes, dtype)
        write_json(workdir / "evaluation.json", details)
        drawing.draw_confusion(
            tested["confusion"], dataset.class_names, workdir / "confusion", dataset.name
        )
    searched = config.task in ("pipeline", "search")
    if searched and config.search.start.genotype:
        found = Genotype.load(workdir / "genotype.json")
        origin = Genotype.load(workdir / "start_genotype.json")
        summary["from_start"] = compare.distances(found, origin)
        compare.draw_history(config, workdir)
    genotype.save(workdir / "network_genotype.json")
    drawing.draw_genotype(genotype, workdir / "genotype", f"{dataset.name}: network found")
    clock.keep()
    summary |= {"seconds": round(clock.total(), 1), "workdir": str(workdir)}
    write_json(workdir / "summary.json", summary)

    print("genotype (node <- primitive(source)):")
    for position, cell in enumerate(genotype.cells):
        kind = "reduction" if position in genotype.reductions else "normal"
        entries = ", ".join(f"{node} <- {name}({source})" for name, node, source in cell)
        print(f"  cell {position} ({kind}): {entries}")
    if "params" in summary:
        print(f"parameters {cost.params:,}, MACs {cost.macs:,}")
    if "from_start" in summary:
        moved = summary["from_start"]
        print(
            f"distance to {config.search.start.genotype}: {moved['distance']:.4f} "
            f"(positional {moved['positional_distance']:.4f})"
        )
    if "test_accuracy" in summary:
        top5 = summary["test_top5_accuracy"]
        print(f"test accuracy {100 * summary['test_accuracy']:.2f}%, top-5 {100 * top5:.2f}%")
        for row in details.get("speed", ()):
            print(
                "batch {batch_size}: {milliseconds:.2f} ms, {images_per_second:.0f} images/s".format(
                    **row
                )
            )
    print(f"{summary['seconds']} s; everything lies in {workdir}")
    return summary


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

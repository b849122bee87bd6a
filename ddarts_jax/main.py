"""The command line: `python -m ddarts_jax.main --config configs/digits.py [--workdir DIR]`."""

import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from ddarts_jax import config as configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json

_logger = logging.getLogger("ddarts_jax")


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line asks for.

    Returns:
        The exit status: 0, also after SIGTERM once the state is saved; 2 for what the user can mend;
        130 after an interrupt.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    _logger.setLevel(logging.INFO)
    # The first import of jax takes seconds: wrong flags are told before it.
    try:
        config, workdir = configuration.parse_flags(sys.argv if argv is None else argv)
    except UserError as error:
        return _fail(error)
    from ddarts_jax.loop import Stopped

    try:
        run(config, workdir)
    except UserError as error:
        return _fail(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 130 if stopped.signal == signal.SIGINT else 0
    except KeyboardInterrupt:
        print("interrupted; the same command with the same --workdir continues", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(error)
    return 0


def run(config, workdir: str | Path) -> dict:
    """Runs `config.task` in `workdir`.

    Args:
        config: validated, as `config.parse_flags` gives it.
        workdir: made if it does not exist; an interrupted run in it continues.

    Returns:
        What `summary.json` holds.
    """
    begun = time.monotonic()
    import jax

    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    if not jax.config.jax_compilation_cache_dir:
        # Compiling takes minutes; JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddarts_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    from ddarts_jax import compare, data, export, importing, scoring, search, stream, train
    from ddarts_jax.genotype import expand
    from ddarts_jax.metrics import MetricsWriter

    if config.task == "export":
        with tempfile.TemporaryDirectory() as scratch:
            return export.run(config, Path(scratch))
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if config.task == "distance":
        return compare.run(config, workdir)
    if config.task == "import":
        return importing.run(config, workdir)

    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
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

    writer = MetricsWriter(workdir)
    trained = None
    try:
        if config.task in ("pipeline", "search"):
            name = config.search.start.genotype
            start = importing.find_genotype(name) if name else None
            genotype = search.run(config, dataset, workdir, writer, dtype, start)
        else:
            genotype = importing.find_genotype(config.genotype or workdir / "genotype.json")
        if config.train.num_cells and config.train.num_cells != genotype.num_cells:
            genotype = expand(genotype, config.train.num_cells)
        if config.task in ("pipeline", "train"):
            trained = train.run(config, genotype, dataset, workdir, writer, dtype)
        elif config.task == "evaluate":
            net, empty = train.build(config, genotype, dataset, dtype, trained=True)
            trained = net, train.load_network(config.weights or workdir / "network.npz", empty)
    finally:
        writer.close()
    return summarize(config, genotype, trained, dataset, workdir, dtype, begun)


def summarize(config, genotype, trained, dataset, workdir: Path, dtype, begun: float) -> dict:
    """Evaluates the trained network, if there is one, and says shortly what the run found.

    Writes `summary.json`, `network_genotype.json` and the picture `genotype.svg` and `.png`; of a
    trained network `evaluation.json` (by class and by cell; speed after task 'evaluate') and the
    picture `confusion`; after a search with a start the picture `distance`.
    """
    from ddarts_jax import compare, evaluate, report, train
    from ddarts_jax.genotype import Genotype

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
        details = evaluate.details(tested, dataset.class_names) | {
            "cell_params": cost.cell_params,
            "cell_macs": cost.cell_macs,
        }
        if config.task == "evaluate":
            sizes = config.evaluate.batch_sizes
            details["speed"] = evaluate.speed(*trained, dataset.image_shape, sizes, dtype)
        write_json(workdir / "evaluation.json", details)
        report.draw_confusion(
            tested["confusion"], dataset.class_names, workdir / "confusion", dataset.name
        )
    searched = config.task in ("pipeline", "search")
    if searched and config.search.start.genotype:
        found = Genotype.load(workdir / "genotype.json")
        origin = Genotype.load(workdir / "start_genotype.json")
        summary["from_start"] = compare.distances(found, origin)
        compare.draw_history(config, workdir)
    genotype.save(workdir / "network_genotype.json")
    report.draw_genotype(genotype, workdir / "genotype", f"{dataset.name}: network found")
    summary |= {"seconds": round(time.monotonic() - begun, 1), "workdir": str(workdir)}
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

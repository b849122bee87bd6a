"""Task 'evaluate': a trained network on test images, those of its training or others.

The network may be the workdir's own, or that of `config.weights`. What it was trained with (size and kind
of the images, classes, mean and deviation) comes from the folder of its weights. Results on other data
than the run's go to files of their own, and the run's summary stays as it is.
"""

import re
from pathlib import Path

from ddarts_jax.configuration import flatten, save
from ddarts_jax.distributed import processes
from ddarts_jax.errors import UserError
from ddarts_jax.files import digest, read_entry, read_json, write_json
from ddarts_jax.genotypes import lookup
from ddarts_jax.models import weights
from ddarts_jax.reports import drawing, report
from ddarts_jax.runs import facts, layout
from ddarts_jax.runs.workdir import Clock
from ddarts_jax.tasks import pipeline
from ddarts_jax.training import evaluate, train, trained


def own_facts(config, workdir: Path) -> dict | None:
    """Returns the facts of the training of the network that the config evaluates, see `facts`."""
    if config.weights:
        return facts.of_weights(Path(config.weights))
    return facts.of_run(workdir)


def run(config, dataset, workdir: Path, dtype, clock: Clock) -> dict:
    """Evaluates a network.

    Writes `evaluation.json` and the picture `confusion`; on other data than those of the training
    `evaluation-<name>.json` and `confusion-<name>` in place of them. `summary.json` is that of the run;
    where none was run, as after an import, it is that of the newest evaluation.

    Args:
        config: the whole config.
        dataset: images, in memory or streamed.
        workdir: an existing folder that no other process uses.
        dtype: compute dtype.
        clock: clock of the run.

    Returns:
        The accuracies, costs and files, as in `summary.json`.

    Raises:
        UserError: there is no network; it was trained with other settings, other classes or another
            kind of images; or it has learnt the test images.
    """
    path = Path(config.weights or workdir / layout.NETWORK)
    home = path.parent
    own = processes.from_main(lambda: own_facts(config, workdir))
    dataset = facts.matched(own, dataset, home)
    if other := not facts.is_own(own, dataset):
        processes.from_main(lambda: facts.check_unseen(home, dataset))
    processes.from_main(lambda: _check_sizes(config, home))
    found, expanded = processes.from_main(lambda: _genotype_to_use(config, workdir))
    genotype = processes.from_main(lambda: lookup.find_genotype(found))
    if not expanded:
        genotype = pipeline.deepened(config, genotype)
    net, empty = train.build(config, genotype, dataset, dtype, trained=True)
    network = net, processes.from_main(lambda: weights.load_network(path, empty))

    tested = evaluate.evaluate_dataset(*network, dataset, config.data.batch_size, dtype)
    cost = train.cost(config, genotype, dataset)
    summary = {"task": config.task, "data": dataset.name, "params": cost.params, "macs": cost.macs}
    summary |= pipeline.accuracies(tested, dataset)
    if not processes.is_main():
        return summary
    foreign = (workdir / layout.NETWORK).is_file() and home.resolve() != workdir.resolve()
    name = _name(dataset.name, home if foreign else None) if other or foreign else ""
    name = name and apart(name, dataset.name, workdir, layout.OTHER_EVALUATION)
    speed = evaluate.speed(*network, dataset.image_shape, config.evaluate.batch_sizes, dtype)
    written = pipeline.write_evaluation(workdir, tested, cost, speed, dataset, name)
    if not name:
        _complete(workdir, own, config, dataset)
        free = _is_free(workdir, config.task)
        if free or not (workdir / layout.NETWORK_GENOTYPE).is_file():
            genotype.save(workdir / layout.NETWORK_GENOTYPE)
        if free:
            write_json(workdir / layout.SUMMARY, summary)
            drawing.draw_genotype(genotype, workdir / "genotype", f"{dataset.name}: network")
    report.Live(workdir).close()
    summary |= {"seconds": round(clock.total(), 1), "workdir": str(workdir)}
    pipeline.print_result(config, genotype, summary, speed)
    print(f"By class and by cell: {written}.")
    return summary


def _is_free(workdir: Path, task: str) -> bool:
    """Whether a workdir has no summary, or only that of an evaluation, which a newer one replaces."""
    return read_entry(workdir / layout.SUMMARY, "task", "Summary") in (None, task)


def _genotype_to_use(config, workdir: Path) -> tuple[str | Path, bool]:
    """Names the genotype of the network.

    Returns:
        A name for `lookup.find_genotype`, and whether it is the genotype of a trained network,
        which has been expanded already.
    """
    if config.genotype:
        return config.genotype, False
    home = Path(config.weights).parent if config.weights else workdir
    for folder in dict.fromkeys((home, workdir)):
        if (folder / layout.NETWORK_GENOTYPE).is_file():
            return folder / layout.NETWORK_GENOTYPE, True
        if (folder / layout.EXPORT_META).is_file():
            return folder / layout.GENOTYPE, True
    return workdir / layout.GENOTYPE, False


def _check_sizes(config, home: Path) -> None:
    """Refuses sizes of the network in the config that are not those of the training in `home`."""
    found = trained.sizes_in(home)
    asked = flatten(config.train)
    for key, value in found.items():
        if asked[key] != value:
            raise UserError(
                f"The network in {home} was trained with train.{key}={value}, but config.train.{key} is "
                f"{asked[key]}: set --config.train.{key}={value}."
            )


def _name(data: str, home: Path | None) -> str:
    """Returns the name of an evaluation for a file: of the data, and of the folder of the weights."""
    parts = [data.partition(":")[2].rstrip("/") or data, *([home.resolve().name] if home else [])]
    return "-of-".join(map(file_name, parts))


def file_name(path: str) -> str:
    """Returns a part of a file's name that tells of the data in `path`."""
    name = re.sub(r"\.(npz|json)$", "", Path(path).name)
    return re.sub(r"[^\w.-]+", "_", name or "data")


def apart(name: str, data: str, folder: Path, pattern: str) -> str:
    """Returns a name for an evaluation of other data whose file is not that of yet other ones.

    Args:
        name: from `file_name`, which may be alike for different data.
        data: their whole name, which the file has as "data".
        folder: of the evaluations.
        pattern: name of their file, with {} for the name.
    """
    found = read_entry(folder / pattern.format(name), "data", "Evaluation")
    if found in (None, data):
        return name
    return f"{name}-{digest(data)}"


def _complete(workdir: Path, own: dict | None, config, dataset) -> None:
    """Writes the facts that an imported network lacked: the data of its first evaluation tell them."""
    path, settings = workdir / layout.DATASET, workdir / layout.CONFIG
    if own is None or own.get("mean") is not None or not path.is_file():
        return
    write_json(path, facts.of_data(dataset) | facts.of_images(dataset))
    found = read_json(settings, "Config")
    save(found | {"data": config.data.to_dict()}, settings)

"""Operation scores: the accuracy of a network with one operation in one place (D-DARTS, Table 1).

The proxy network is a short ResNet18. In each measured network, one of its convolutions is replaced by
the benchmarked primitive, the only operation on that edge; it is trained several times from different
random weights, and the best accuracy counts. A primitive's score is the median over all places. (The
authors' means are multiples of a twelfth: 4 convolutions in each of 3 blocks, as here.)
"""

import itertools
import json
import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from ddarts_jax import configuration
from ddarts_jax.data.dataset import Dataset
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.files import append_line, write_json, write_text
from ddarts_jax.genotypes.genotype import Genotype, reduction_positions
from ddarts_jax.genotypes.handcrafted import HANDCRAFTED
from ddarts_jax.genotypes.spaces import DARTOPTI_PRIMITIVES
from ddarts_jax.runs import facts, identity
from ddarts_jax.training import feeds, schedule, train
from ddarts_jax.training.evaluate import evaluate_dataset

_logger = logging.getLogger(__name__)


def places(num_cells: int) -> Iterator[tuple[int, int]]:
    """The (cell, node) of every operation to replace: every convolution of every block."""
    (block,) = HANDCRAFTED["ResNet18"].genes
    nodes = [node for primitive, node, _ in block if primitive == "simple_conv_3x3"]
    return itertools.product(range(num_cells), nodes)


def proxy(num_cells: int, cell: int, node: int, primitive: str) -> Genotype:
    """ResNet18's block `num_cells` times, with the convolution into `node` replaced by `primitive`."""
    resnet = HANDCRAFTED["ResNet18"]
    (block,) = resnet.genes
    replaced = [
        (primitive if (name, target) == ("simple_conv_3x3", node) else name, target, source)
        for name, target, source in block
    ]
    genes = [replaced if position == cell else block for position in range(num_cells)]
    return Genotype(genes, reduction_positions(num_cells), resnet.concat)


def measure(config, genotype: Genotype, dataset: Dataset, dtype) -> list[float | None]:
    """Trains a network once per seed.

    Returns:
        The accuracies on the test split, as fractions; None if the training diverged.

    Raises:
        UserError: the training diverged for every seed.
    """
    settings = config.train
    plan = schedule.schedule(
        dataset.num_train, config.data.batch_size, settings.epochs, config.chunk_steps
    )
    mesh = sharding.data_mesh(plan.batch_size)
    data = feeds.on_device(dataset, (dataset.train,), mesh)
    net, _ = train.build(config, genotype, dataset, dtype)
    init, step = train.train_step(net, settings, plan)

    chunk = feeds.make_chunk(step, plan, settings.augment, dtype, mesh)
    accuracies = []
    for seed in range(config.seed, config.seed + config.score.seeds):
        seeded = configuration.with_seed(config, seed)
        _, variables = train.build(seeded, genotype, dataset, dtype)
        running = feeds.start(init(variables), step, 1, dataset.image_shape, plan, dtype, mesh)
        flags = []
        for _ in range(plan.epochs * plan.chunks):
            running, finite = chunk(running, data, np.uint32(seed))
            flags.append(finite)
        if not all(leaf.all() for leaf in jax.tree.leaves(jax.device_get(flags))):
            _logger.warning("The training with seed %d diverged and does not count.", seed)
            accuracies.append(None)
            continue
        variables = running.state.evaluated
        tested = evaluate_dataset(net, variables, dataset, config.data.batch_size, dtype)
        accuracies.append(tested["accuracy"])
    if accuracies.count(None) == len(accuracies):
        raise UserError(
            f"The training diverged for each of {len(accuracies)} seeds: lower "
            "config.train.learning_rate or check the data, and use another --workdir."
        )
    return accuracies


def run(config, dataset: Dataset, workdir: Path, dtype) -> dict:
    """Measures all primitives in all places; continues an interrupted measurement in the same workdir.

    Writes `measurements.jsonl`, one line per network, and at the end `scores.json`, which the task
    `distance` takes as `config.scores`.

    Args:
        config: see `configuration.score_config`.
        dataset: images.
        workdir: an existing folder.
        dtype: compute dtype.

    Returns:
        The content of `scores.json`: `scores` and `means` in per cent by primitive, and the protocol.

    Raises:
        UserError: an unknown primitive, a workdir with measurements of another config, or a network
            whose training diverges for every seed.
    """
    train.check(config, dataset)
    names = config.score.primitives or DARTOPTI_PRIMITIVES
    num_cells = config.train.num_cells
    protocol = _claim(config, dataset, workdir)
    path = workdir / "measurements.jsonl"
    measured = _read(path)
    todo = [
        (name, *place)
        for name in names
        for place in places(num_cells)
        if (name, *place) not in measured
    ]
    _logger.info(
        "score_operations: %d networks of %d cells, %d trainings each; %d are measured already",
        *(len(names) * num_cells * 4, num_cells, config.score.seeds, len(measured)),
    )
    begun = time.monotonic()
    for done, (name, cell, node) in enumerate(todo):
        genotype = proxy(num_cells, cell, node, name)
        accuracies = measure(config, genotype, dataset, dtype)
        measured[name, cell, node] = accuracies
        line = {"primitive": name, "cell": cell, "node": node, "accuracies": accuracies}
        append_line(path, json.dumps(line))
        jax.clear_caches()  # every network has its own program, which is not used again
        left = (time.monotonic() - begun) / (done + 1) * (len(todo) - done - 1)
        _logger.info(
            "%d/%d: %s into node %d of cell %d: %.2f%% (about %.0f min left)",
            *(done + 1, len(todo), name, node, cell, _best(accuracies), left / 60),
        )

    best = {name: [_best(measured[name, *place]) for place in places(num_cells)] for name in names}
    result = {
        "scores": {name: statistics.median(values) for name, values in best.items()},
        "means": {name: statistics.fmean(values) for name, values in best.items()},
        "protocol": protocol,
    }
    write_json(workdir / "scores.json", result)
    print(f"{'primitive':<18} {'median':>7} {'mean':>7}")
    for name, score in result["scores"].items():
        print(f"{name:<18} {score:>7.2f} {result['means'][name]:>7.2f}")
    print(f"Results are in {workdir / 'scores.json'}.")
    return result


def _best(accuracies: list[float | None]) -> float:
    """The best accuracy of several trainings, in per cent; None stands for a diverged one."""
    return 100 * max(accuracy for accuracy in accuracies if accuracy is not None)


def _claim(config, dataset, workdir) -> dict:
    """Returns the settings of the measurements; refuses a workdir with measurements of other ones."""
    protocol = config.to_dict()
    del protocol["score"]["primitives"]
    protocol["num_images"] = dataset.num_train
    protocol["images"] = feeds.checksum(dataset)
    protocol["test_images"] = facts.of_images(dataset)["test_checksum"]
    begun = (workdir / "measurements.jsonl").is_file()
    identity.claim(workdir / "protocol.json", protocol, "measurements", empty=not begun)
    return protocol


def _read(path: Path) -> dict[tuple[str, int, int], list[float | None]]:
    """The measurements so far; a last line truncated by a crash is measured again."""
    measured, whole = {}, []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            measured[row["primitive"], row["cell"], row["node"]] = row["accuracies"]
        except (ValueError, TypeError, KeyError):
            continue
        whole.append(line + "\n")
    write_text(path, "".join(whole))
    return measured

"""Workdirs like those of real runs, made of plausible numbers without running anything."""

import json
from pathlib import Path

import numpy as np

from ddarts_jax import configuration
from ddarts_jax.files import write_json
from ddarts_jax.genotypes.distance import architecture_distance
from ddarts_jax.genotypes.genotype import Genotype, num_edges, parse, reduction_positions
from ddarts_jax.genotypes.spaces import DARTS_PRIMITIVES


def write_run(
    workdir: Path,
    *,
    search_epochs: int = 4,
    train_epochs: int = 3,
    num_cells: int = 3,
    num_nodes: int = 2,
    favoured: int = 4,
    ended: bool = True,
    **changes,
) -> Path:
    """Writes the files of a search and a training, and returns the workdir.

    Args:
        workdir: created.
        search_epochs: number of epochs; with 0 the run only trained.
        train_epochs: number of epochs; with 0 the run only searched.
        num_cells: number of cells of the supernet.
        num_nodes: number of nodes of a cell.
        favoured: index of the primitive that the alphas come to prefer.
        ended: whether there are results too.
        **changes: changes to the config, `key__subkey=value`.
    """
    config = configuration.default_config()
    config.data.name = "digits"
    config.search.epochs, config.train.epochs = max(search_epochs, 1), max(train_epochs, 1)
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(changes)
    workdir.mkdir(parents=True)
    configuration.save(config, workdir / "config.json")
    write_json(workdir / "versions.json", {"python": "3.12.1", "jax": "0.11.0", "devices": 2})
    rng = np.random.default_rng(config.seed)
    rows, genotype = [], None
    if search_epochs:
        rows, genotype = _search(workdir, rng, search_epochs, num_cells, num_nodes, favoured)
    rows += [_train_row(rng, epoch, train_epochs) for epoch in range(1, train_epochs + 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if ended and genotype:
        genotype.save(workdir / "genotype.json")
        _results(workdir, genotype, rows)
    return workdir


def write_detector(workdir: Path, *, epochs: int = 4, every: int = 2, ended: bool = True) -> Path:
    """Writes the files of a detector's run, and returns the workdir.

    Args:
        workdir: created.
        epochs: number of epochs.
        every: epochs between two evaluations.
        ended: whether there are results too.
    """
    from PIL import Image

    config = configuration.detection_config()
    config.update_from_flattened_dict({"data.name": "digits", "train.epochs": epochs})
    workdir.mkdir(parents=True)
    configuration.save(config, workdir / "config.json")
    rows = []
    for epoch in range(1, epochs + 1):
        loss = 1.8 / epoch
        row = {"phase": "detect", "epoch": epoch, "loss": loss, "learning_rate": 0.02 / epoch}
        row |= {"loss_classification": 0.6 * loss, "loss_boxes": 0.4 * loss, "seconds": 30.0}
        row |= {f"loss_{part}": 0.1 * loss for part in ("objectness", "proposals", "masks")}
        row |= {"gradient_norm": 2 / epoch, "update_norm": 0.01 / epoch, "images_per_second": 70.0}
        if epoch % every == 0:
            row |= {"box_ap": 0.5 * epoch / epochs, "box_ap50": 0.8 * epoch / epochs}
            row |= {"mask_ap": 0.45 * epoch / epochs, "mask_ap50": 0.7 * epoch / epochs}
        rows.append(row)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if ended:
        parts = {"backbone": 600, "pyramid": 300, "heads": 100}
        summary = {
            "task": "detect",
            "data": "digits",
            "box_ap": 0.5,
            "box_ap50": 0.8,
            "mask_ap": 0.45,
        }
        summary |= {"params": 1000, "params_by_part": parts, "macs": 10**6, "seconds": 125.0}
        summary["macs_by_part"] = {name: 1000 * count for name, count in parts.items()}
        write_json(workdir / "summary.json", summary)
        sizes = {"all": 0.5, "small": 0.25, "medium": -1.0, "large": -1.0}
        names = ("cat", "dog", "ox")
        classes = [
            {"id": n, "name": name, "objects": 9, "AP": sizes} for n, name in enumerate(names)
        ]
        numbers = {"AP": 0.5, "AP50": 0.8, "AP_medium": -1.0}
        content = {"numbers": numbers, "mask_numbers": numbers | {"AP": 0.45}, "classes": classes}
        write_json(workdir / "detection.json", content)
        (workdir / "pictures").mkdir()
        for number in (1, 2):
            Image.new("RGB", (1200, 60 * number)).save(workdir / "pictures" / f"0{number}.png")
    return workdir


def _search(workdir, rng, epochs, num_cells, num_nodes, favoured):
    (workdir / "genotypes").mkdir()
    (workdir / "alphas").mkdir()
    reductions = reduction_positions(num_cells)
    shape = num_cells, num_edges(num_nodes), len(DARTS_PRIMITIVES)
    drift = rng.normal(0, 1.5, shape)
    drift[:, :, favoured] += 1.5
    rows, before = [], None
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        alphas = (3 * progress * drift).astype(np.float32)
        probabilities = 1 / (1 + np.exp(-alphas))
        genotype = parse(probabilities, DARTS_PRIMITIVES, "sparse", 0.6, reductions)
        genotype.save(workdir / "genotypes" / f"epoch_{epoch:04d}.json")
        np.save(workdir / "alphas" / f"epoch_{epoch:04d}.npy", alphas)
        contributions = rng.normal(-progress, 0.1, num_cells)
        accuracy = 0.95 - 0.8 * 0.5 ** (5 * progress) + rng.normal(0, 0.01)
        row = {
            "phase": "search",
            "epoch": epoch,
            "accuracy": accuracy,
            "supernet_accuracy": accuracy - 0.01,
            "discrete_accuracy": accuracy - 0.4 * (1 - progress) - 0.03,
            "weights_accuracy": accuracy + 0.02,
            "loss": 2.3 * (1 - accuracy),
            "weights_loss": 2 * (1 - accuracy),
            "loss_zero_one": (-0.2 * progress * np.ones(num_cells)).tolist(),
            "loss_ablation": (contributions / abs(contributions.mean())).tolist(),
            "gradient_norm_cross_entropy": (0.2 * np.ones(num_cells)).tolist(),
            "gradient_norm_zero_one": (0.7 * np.ones(num_cells)).tolist(),
            "gradient_norm_ablation": (0.1 * np.ones(num_cells)).tolist(),
            "factor_full": (1.1 * np.ones(num_cells)).tolist(),
            "factor_ablated": (-0.1 * np.ones(num_cells)).tolist(),
            "loss_added": (0.1 * progress * np.ones(num_cells)).tolist(),
            "loss_beta_decay": (progress * np.ones(num_cells)).tolist(),
            "loss_divergence": (progress * np.ones(num_cells)).tolist(),
            "expected_params": 1 - 0.5 * progress,
            "expected_macs": 30 - 10 * progress,
            "expected_latency": 5 - 2 * progress,
            "gradient_norm_implicit": (0.01 * np.ones(num_cells)).tolist(),
            "loss_total": (contributions - progress).tolist(),
            "marginal_contribution": contributions.tolist(),
            "gradient_norm_alphas": rng.uniform(0.01, 0.1, num_cells).tolist(),
            "gradient_norm_weights": 2 * 0.5 ** (3 * progress),
            "update_norm_weights": 0.2 * 0.5 ** (3 * progress),
            "learning_rate_weights": 0.1 * (1.1 - progress),
            "learning_rate_alphas": [0.05 * (1.1 - progress)] * num_cells,
            "decided": progress * 0.8,
            "seconds": 12.5,
            "images_per_second": 230.0 + rng.normal(0, 5),
        }
        if before:
            row["distance_to_last"] = architecture_distance(genotype, before)
        rows.append(row)
        before = genotype
    np.save(workdir / "alphas.npy", alphas)
    return rows, genotype


def _train_row(rng, epoch, epochs):
    accuracy = 0.97 - 0.7 * 0.4 ** (4 * epoch / epochs) + rng.normal(0, 0.005)
    return {
        "phase": "train",
        "epoch": epoch,
        "accuracy": accuracy,
        "train_accuracy": accuracy + 0.01,
        "loss": 2.5 * (1 - accuracy),
        "test_loss": 2 * (1 - accuracy),
        "learning_rate": 0.1 * (1 - epoch / (epochs + 1)),
        "gradient_norm": 1.5 / epoch,
        "update_norm": 0.1 / epoch,
        "seconds": 3.2,
        "images_per_second": 900.0 + rng.normal(0, 20),
    }


def _results(workdir: Path, genotype: Genotype, rows: list[dict]) -> None:
    genotype.save(workdir / "network_genotype.json")
    cells = genotype.num_cells
    summary = {"task": "pipeline", "data": "digits", "params": 20_000 * cells + 3210}
    summary |= {"macs": 10**6 * cells, "seconds": 181.4, "workdir": "elsewhere"}
    if rows[-1]["phase"] == "train":
        summary["test_accuracy"] = rows[-1]["accuracy"]
        classes = {str(c): {"images": 36, "accuracy": 0.9 + 0.01 * c} for c in range(10)}
        speed = {"batch_size": 64, "milliseconds": 8.123, "images_per_second": 7878.7}
        evaluation = {"classes": classes, "speed": [speed]}
        evaluation["cell_params"] = [20_000] * cells
        evaluation["cell_macs"] = [900_000] * cells
        write_json(workdir / "evaluation.json", evaluation)
    write_json(workdir / "summary.json", summary)

"""Comparison of networks: the task `distance`, and the distance of a search from its start."""

import csv
from pathlib import Path

import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.files import write_json, writing
from ddarts_jax.genotypes import distance
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.genotypes.lookup import find_genotype
from ddarts_jax.reports import drawing
from ddarts_jax.runs import layout, metrics


def distances(a: Genotype, b: Genotype, scores=None) -> dict:
    """Returns both distances between two networks, as a whole and cell by cell.

    Args:
        a: a network.
        b: another one, see `distance.architecture_distance` for networks of different sizes.
        scores: operation scores; None: Table 1 of the paper.

    Returns:
        `distance`, `positional_distance`, numbers; `cells`, `positional_cells`, lists of them.
    """
    return {
        "distance": distance.architecture_distance(a, b, scores),
        "positional_distance": distance.positional_distance(a, b, scores),
        "cells": distance.cell_distances(a, b, scores).tolist(),
        "positional_cells": distance.positional_cell_distances(a, b, scores).tolist(),
    }


def draw_history(config, workdir: Path) -> None:
    """Draws distance to the start and accuracy over a search's epochs: `distance.svg` and `.png`."""
    rows = [row for row in metrics.read(workdir / layout.METRICS) if row["phase"] == "search"]
    drawing.draw_distance_history(
        [row["epoch"] for row in rows],
        [row["distance_to_start"] for row in rows],
        [row["accuracy"] for row in rows],
        workdir / "distance",
        f"Search from {config.search.start.genotype:.200}",
        config.search.start.epochs,
        [row["positional_distance_to_start"] for row in rows],
    )


def run(config, workdir: Path) -> dict:
    """Compares the networks that the config names (see `configuration.distance_config`).

    For two networks it prints a table of their cells and writes `distance.json`. For more it compares
    them pairwise and writes `distances.csv`, `positional_distances.csv` and heatmaps of the same names.

    Returns:
        The content of `distance.json`, or the matrices as lists.

    Raises:
        UserError: fewer than two networks are named, or one of them cannot be read.
    """
    scores = distance.load_scores(config.scores) if config.scores else None
    names = list(config.networks) or [config.a, config.b]
    if len(names) < 2 or not all(names) or (config.networks and (config.a or config.b)):
        raise UserError(
            "Name two networks with --config.a=X --config.b=Y, or at least two with "
            "--config.networks=\"('X', 'Y', 'Z')\"."
        )
    genotypes = [find_genotype(name) for name in names]
    if not config.networks:
        found = distances(*genotypes, scores)
        write_json(workdir / "distance.json", {"a": config.a, "b": config.b} | found)
        print(f"{'cell':>5}  {'distance':>8}  {'positional':>10}")
        for position, pair in enumerate(zip(found["cells"], found["positional_cells"])):
            print("{:>5}  {:>8.4f}  {:>10.4f}".format(position, *pair))
        print(f"{'mean':>5}  {found['distance']:>8.4f}  {found['positional_distance']:>10.4f}")
        print(f"Results are in {workdir / 'distance.json'}.")
        return found

    matrices = {
        "distances": distance.distance_matrix(genotypes, scores),
        "positional_distances": distance.distance_matrix(
            genotypes, scores, distance.positional_distance
        ),
    }
    for name, matrix in matrices.items():
        _write_csv(workdir / f"{name}.csv", names, matrix)
        drawing.draw_distance_matrix(names, matrix, workdir / name, name.replace("_", " "))
    print(f"Results are in {workdir}: {', '.join(f'{n}.csv, .svg, .png' for n in matrices)}.")
    return {name: matrix.tolist() for name, matrix in matrices.items()}


def _write_csv(path: Path, names: list[str], matrix: np.ndarray) -> None:
    with writing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["", *names])
        rows.writerows(
            [name, *(f"{value:.6f}" for value in row)] for name, row in zip(names, matrix)
        )

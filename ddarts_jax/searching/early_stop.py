"""The early stop of a search from a network: its distance to the start has settled (DARTOpti)."""

from pathlib import Path

import numpy as np

from ddarts_jax.runs import metrics


def reason(workdir: Path, epoch: int, fixed_epochs: int, settings) -> str | None:
    """Returns why the search ends after an epoch, or None if it goes on.

    Args:
        workdir: whose metrics hold the distances so far.
        epoch: counted from 1.
        fixed_epochs: at the beginning, in which the alphas stood still.
        settings: the config's `search.stop` section.
    """
    distances = [
        row["distance_to_start"]
        for row in metrics.read(workdir / "metrics.jsonl")
        if row["phase"] == "search"
        and fixed_epochs < row["epoch"] <= epoch
        and "distance_to_start" in row
    ]
    if not is_stable(distances, settings):
        return None
    return (
        f"stops early after epoch {epoch}: the distance to the start, {distances[-1]:.4f}, "
        f"has been stable for {settings.patience} epochs"
    )


def is_stable(distances, settings) -> bool:
    """Whether the distance to the start has settled (DARTOpti: the search can end).

    Args:
        distances: after each epoch in which alphas moved.
        settings: the config's `search.stop` section: the last `patience` changes are within
            `tolerance`, where the distance after epoch `from_epoch` is the first that counts.
    """
    changes = np.abs(np.diff(distances[settings.from_epoch - 1 :]))[-settings.patience :]
    enough = len(changes) == settings.patience > 0
    # Distances are sums of rounded quotients: a change of just the tolerance may come out above it.
    return enough and bool((changes <= settings.tolerance + 1e-9).all())

"""Early stop of a search from a network, once its distance to the start has settled (DARTOpti)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddarts_jax.runs import layout, metrics


def reason(workdir: Path, epoch: int, fixed_epochs: int, settings) -> str | None:
    """Returns the reason for ending the search after an epoch, or None if it continues.

    Args:
        workdir: its metrics contain the distances so far.
        epoch: the present epoch, counted from 1.
        fixed_epochs: number of first epochs in which the alphas were fixed.
        settings: the config's `search.stop` section.
    """
    distances = {
        row["epoch"]: row["distance_to_start"]
        for row in metrics.read(workdir / layout.METRICS)
        if row["phase"] == "search" and row["epoch"] <= epoch and "distance_to_start" in row
    }
    if not is_stable(distances, epoch, fixed_epochs, settings):
        return None
    return (
        f"stops early after epoch {epoch}: the distance to the start, {distances[epoch]:.4f}, "
        f"has been stable for {settings.patience} epochs"
    )


def is_stable(distances: Mapping[int, float], epoch: int, fixed_epochs: int, settings) -> bool:
    """Whether the distance to the start has settled (DARTOpti: the search can end).

    "Stable for 5 consecutive epochs starting from epoch 10 (taking into account the 5 pretraining
    epochs)": so the earliest end is epoch 15. Every distance of the window is compared with the present
    one; comparing neighbours only would count a steady drift as stable.

    Args:
        distances: {epoch: distance after it}.
        epoch: the present epoch, counted from 1.
        fixed_epochs: number of first epochs in which the alphas were fixed: they are counted, but are
            never part of a window.
        settings: the config's `search.stop` section: the distances after the `patience` epochs before
            the present one, all from epoch `from_epoch` on, are within `tolerance` of the present one.
    """
    window = range(epoch - settings.patience, epoch)
    if not settings.patience or window.start < max(settings.from_epoch, fixed_epochs + 1):
        return False
    if any(e not in distances for e in (*window, epoch)):
        return False
    changes = np.abs(np.array([distances[e] for e in window]) - distances[epoch])
    # Distances are sums of rounded quotients: a change equal to the tolerance may come out above it.
    return bool((changes <= settings.tolerance + 1e-9).all())

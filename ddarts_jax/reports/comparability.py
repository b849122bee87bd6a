"""Whether runs were tested on the same images: otherwise their accuracies say nothing about them."""

import json
from collections.abc import Mapping

from ddarts_jax.runs.run import Run


def tested_on(run: Run) -> list:
    """Returns what identifies the images that a run was tested on, as JSON.

    Their checksum; for an older run, which kept none, what its config says of them.
    """
    if run.data.get("test_checksum"):
        return [run.data["test_checksum"], run.data.get("image_shape"), run.data.get("crop")]
    keys = ("name", "test_fraction", "images_per_class", "image_size", "stream")
    return [run.config.get(f"data.{key}") for key in keys]


def by_images(runs: Mapping[int, Run]) -> list[list[int]]:
    """Returns the numbers of the runs that were tested on the same images, together."""
    found: dict[str, list[int]] = {}
    for number, run in runs.items():
        found.setdefault(json.dumps(tested_on(run)), []).append(number)
    return list(found.values())


def same_images(runs: Mapping[int, Run]) -> bool:
    """Whether all runs were tested on the same images."""
    return len(by_images(runs)) == 1


def told_apart(runs: Mapping[int, Run]) -> str:
    """Returns which runs were tested on the same images: "run 1, 2; run 3"."""
    return "; ".join(f"run {', '.join(map(str, some))}" for some in by_images(runs))

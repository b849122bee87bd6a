"""A phase of a run (a search or a training) in its workdir, from its newest checkpoint to its end."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from ddarts_jax.distributed import processes, sharding
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_entry
from ddarts_jax.runs import facts, layout, metrics
from ddarts_jax.runs import identity as identities
from ddarts_jax.training import feeds, loop
from ddarts_jax.training.checkpoint import Checkpoints
from ddarts_jax.training.schedule import Schedule


def check(phase: str, config, dataset, workdir: Path) -> None:
    """Refuses a workdir whose run this config or these data do not continue.

    Call it before anything is compiled or written. A pipeline's search checks the training too, which
    follows: else the refusal would come when the run's own files have been written anew.

    Args:
        phase: "search" or "train", which begins.
        config: the whole config.
        dataset: images, in memory or streamed.
        workdir: an existing folder.

    Raises:
        UserError: the workdir holds the state of another run, or the results of one without its state.
    """

    def refuse():
        phases = (
            ("search", "train") if phase == "search" and config.task == "pipeline" else (phase,)
        )
        facts.check_resumed(workdir, dataset, phases)
        for each in phases:
            _check_state(workdir, each)
            wanted = identities.defining(config, each, dataset.num_train)
            identities.check_phase(workdir, each, wanted)
        if phase == "search":
            identities.check_parsing(workdir, config.parse.to_dict())

    processes.from_main(refuse)


def _check_state(workdir: Path, phase: str) -> None:
    """Refuses a phase that has ended but whose checkpoints are gone, before its results are lost too."""
    ended = read_entry(workdir / layout.SUMMARY, "task", "Summary")
    if ended in ("pipeline", phase) and not identities.begun(workdir, phase):
        raise UserError(
            f"{workdir} holds the results of a {ended} that has ended, but no checkpoints of it: name "
            f"another --workdir, or delete {layout.SUMMARY} there to run it anew."
        )


def run_phase(
    phase: str,
    config,
    dataset,
    splits,
    plan: Schedule,
    state,
    step: Callable,
    dtype,
    workdir: Path,
    writer: metrics.MetricsWriter,
    end_epoch: Callable,
    *,
    identity=None,
    stop: Callable = lambda epoch: None,
):
    """Runs a phase of a run in `workdir`, starting from its newest checkpoint.

    Writes `config.json`, `dataset.json`, `versions.json`, checkpoints in `checkpoints/<phase>/` and
    metrics.

    Args:
        phase: "search" or "train", also the name of its section of the config.
        config: the whole config.
        dataset: see `feeds.make`.
        splits: see `feeds.make`.
        plan: from `schedule.schedule`.
        state: a fresh state; has a `step`.
        step: see `feeds.make_chunk`.
        dtype: compute dtype.
        workdir: an existing folder.
        writer: writer of the metrics.
        end_epoch: see `loop.run`.
        identity: the values besides the config that the phase depends on, as JSON.
        stop: see `loop.run`.

    Returns:
        The final state.
    """
    mesh = sharding.data_mesh(plan.batch_size)
    if config.batch_norm == "local" and mesh.size > 1:
        step = sharding.on_each_device(step)
    running = feeds.start(state, step, len(splits), dataset.image_shape, plan, dtype, mesh)
    feed = feeds.make(dataset, splits, plan, config, config[phase].augment, dtype, mesh)
    defining = identities.defining(config, phase, dataset.num_train)
    defining |= (identity or {}) | feed.identity
    directory = workdir / "checkpoints" / phase
    with (
        contextlib.closing(feed),
        Checkpoints(directory, defining, config.checkpoint.keep_last) as checkpoints,
    ):
        # Not reached if the workdir belongs to another run.
        facts.keep(workdir, config, dataset, phase)
        every_minutes = config.checkpoint.every_minutes
        return loop.run(
            *(phase, running, functools.partial(feed.compile, step), len(splits), plan),
            *(checkpoints, writer, every_minutes, end_epoch, stop),
            profile=workdir / "profile" / phase if config.profile else None,
        )

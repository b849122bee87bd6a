"""Checkpoints: the whole state of a phase, written atomically in the background by Orbax.

A checkpoint is one Orbax directory named by its step, with two items. `state` holds the arrays,
flat, by their paths in the pytree. `record` holds the accuracy, the seconds of an epoch that has not
ended, the arrays' dtypes and shapes, and a checksum over these and the arrays: Orbax itself does not
notice a flipped bit.

Of several processes the first alone writes and reads; the others get from it what it has read. The
state is whole on every device, so nothing is missing there, no disk need be shared, and no process can
find another checkpoint than the rest do.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ddarts_jax.distributed import processes, sharding
from ddarts_jax.errors import UserError
from ddarts_jax.runs import identity, layout

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in one directory: the last ones, and the best by accuracy.

    The state is saved from the host, so on how many devices it lay does not matter: `restore` puts
    it where the caller wants it. Its arrays must be replicated, or addressable by the process.

    All processes call the constructor, `save`, `restore` and `restore_best` together; what the other
    methods tell is known to the first process alone.
    """

    def __init__(self, directory: str | os.PathLike, config: dict[str, Any], keep_last: int):
        """Opens a directory of checkpoints, made if it does not exist.

        Args:
          directory: where they lie.
          config: whatever defines the run, as JSON can say it; it must stay the same.
          keep_last: how many of the newest are kept, besides the best.

        Raises:
          UserError: the directory cannot be used, or belongs to another configuration.
        """
        self._directory = Path(directory).absolute()  # Orbax takes no relative path
        self._keep_last = keep_last
        self._writing: int | None = None
        path = self._directory / layout.CONFIG
        processes.from_main(lambda: identity.claim(path, config, "checkpoints"))
        self._orbax = _checkpointer(self._directory.name) if processes.is_main() else None

    def save(
        self, step: int, state: Any, accuracy: float | None = None, seconds: float = 0.0
    ) -> None:
        """Starts to write a checkpoint; `state` may be donated as soon as this returns.

        Waits for the save before it. A step that exists already is written again only to add its
        accuracy.

        Args:
          step: number of steps done.
          state: pytree of arrays.
          accuracy: by which the best checkpoint is chosen; None: never the best.
          seconds: that the epoch of the step has taken so far; 0 at its end.

        Raises:
          UserError: this or the save before it could not be written.
        """
        if not processes.is_main():
            return
        self.wait()
        if step in self._steps() and (accuracy is None or self._accuracy(step) is not None):
            return
        # Copies: on CPU device_get returns views, which keep the buffers from being donated.
        leaves = {name: np.array(leaf) for name, leaf in _named(jax.device_get(state)).items()}
        record = {
            "accuracy": None if accuracy is None else float(accuracy),
            "seconds": float(seconds),
            "arrays": {name: [str(leaf.dtype), leaf.shape] for name, leaf in leaves.items()},
        }
        record["checksum"] = _checksum(record, leaves)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_nonempty(leaves)), record=ocp.args.JsonSave(record)
        )
        self._writing = step
        try:
            self._orbax.save(self._directory / str(step), args=items, force=True)
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Waits for the save under way, then deletes the checkpoints that are no longer kept.

        Raises:
          UserError: the checkpoint could not be written.
        """
        if self._writing is None:
            return
        try:
            self._orbax.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error
        self._writing = None
        steps = self._steps()
        kept = {*steps[-self._keep_last :], self.best_step()}
        unwanted = [self._directory / str(step) for step in steps if step not in kept]
        for path in [*unwanted, *self._half_written()]:
            shutil.rmtree(path, ignore_errors=True)  # tried again after the next save

    def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that is whole, and sets newer ones that are not aside.

        Args:
          abstract_state: pytree of arrays or `jax.ShapeDtypeStruct`s, each with the sharding
            wanted (None: JAX's default device).

        Returns:
          (step, state), or None where there are no checkpoints.

        Raises:
          UserError: no checkpoint is whole, or its arrays are not those of `abstract_state`.
        """

        def newest():
            self.wait()
            for path in self._half_written():
                _logger.warning("Checkpoint %s is half-written; using the one before it.", path)
            return self._first_whole(reversed(self._steps()), abstract_state)

        return _place(processes.from_main(newest), abstract_state)

    def restore_best(self, abstract_state: Any) -> tuple[int, Any] | None:
        """Reads, as `restore`, the best checkpoint; None where none has an accuracy."""

        def best():
            self.wait()
            return self._first_whole(reversed(self._steps_by_accuracy()), abstract_state)

        return _place(processes.from_main(best), abstract_state)

    def latest_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint."""
        return max(self._steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the finished checkpoint of highest accuracy, of equals the newest."""
        return next(reversed(self._steps_by_accuracy()), None)

    def seconds(self, step: int) -> float:
        """Returns the seconds that the epoch of a finished, intact checkpoint had taken by then."""
        return self._record(step).get("seconds", 0.0)  # 0 in one of an older version

    def close(self) -> None:
        """Waits for the save under way and ends the background threads."""
        try:
            self.wait()
        finally:
            if self._orbax:
                self._orbax.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, whole or not, in ascending order."""
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def _half_written(self) -> list[Path]:
        """Returns what Orbax did not get to rename, in a killed process or a failed save."""
        return list(self._directory.glob("*.orbax-checkpoint-tmp*"))

    def _steps_by_accuracy(self) -> list[int]:
        """Returns the steps that have an accuracy, the best last."""
        accuracies = {step: self._accuracy(step) for step in self._steps()}
        known = {step: value for step, value in accuracies.items() if value is not None}
        return sorted(known, key=lambda step: (known[step], step))

    def _accuracy(self, step: int) -> float | None:
        try:
            return self._record(step)["accuracy"]
        except Exception as error:
            _logger.warning("Checkpoint %s is damaged: %s", self._directory / str(step), error)
            return None

    def _record(self, step: int) -> dict[str, Any]:
        items = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._orbax.restore(self._directory / str(step), args=items)["record"]

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint; raises an exception of some kind if it is damaged."""
        record = self._record(step)
        like = {k: np.empty(shape, jnp.dtype(d)) for k, (d, shape) in record["arrays"].items()}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(_nonempty(like)))
        leaves = like | self._orbax.restore(self._directory / str(step), args=items)["state"]
        if record.pop("checksum") != _checksum(record, leaves):
            raise ValueError("its checksum is wrong")
        return leaves

    def _first_whole(self, steps: Iterable[int], abstract_state: Any):
        """Returns the step and the arrays of the first whole checkpoint that `steps` name."""
        damaged = []
        for step in steps:
            path = self._directory / str(step)
            try:
                leaves = self._read(step)
            except Exception as error:  # JSON, Orbax and TensorStore raise each their own
                _logger.warning("Checkpoint %s is damaged, trying the one before: %s", path, error)
                damaged.append(path)
                continue
            _check_fit(leaves, abstract_state, path)
            for path in damaged:  # or they would count as the newest from now on
                aside = path.with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            return step, leaves
        if damaged:
            raise UserError(
                f"Every checkpoint in {self._directory} is damaged; "
                "delete that directory to start anew, or use another --workdir."
            )
        return None

    def _write_error(self, error: Exception) -> UserError:
        step, self._writing = self._writing, None
        for path in self._half_written():
            shutil.rmtree(path, ignore_errors=True)
        return UserError(
            f"Checkpoint {self._directory / str(step)} could not be written ({error}). "
            f"Those of steps {self._steps()} are intact: mend the cause (is the disk full?) and "
            "start the same command again."
        )


def _checkpointer(name: str) -> ocp.AsyncCheckpointer:
    """Returns Orbax's writer for the first process alone, which waits for no other."""
    alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix=name)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    # Orbax refuses the combination of some processes and asynchronous directories.
    directories = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    return ocp.AsyncCheckpointer(handler, async_options=directories, multiprocessing_options=alone)


def _named(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf}."""
    return {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _nonempty(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays that have elements: Orbax refuses the others."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _checksum(record: dict[str, Any], leaves: dict[str, np.ndarray]) -> int:
    checksum = zlib.crc32(json.dumps(record, sort_keys=True).encode())
    for name in sorted(leaves):
        checksum = zlib.crc32(np.ascontiguousarray(leaves[name]).tobytes(), checksum)
    return checksum


def _check_fit(leaves: dict[str, np.ndarray], abstract_state: Any, path: Path) -> None:
    """Raises UserError unless `leaves` are the arrays of `abstract_state`."""
    wanted = _named(abstract_state)
    found = {name: (str(leaf.dtype), leaf.shape) for name, leaf in leaves.items()}
    needed = {name: (str(leaf.dtype), tuple(leaf.shape)) for name, leaf in wanted.items()}
    for name in sorted({*found, *needed}):
        if found.get(name) != needed.get(name):
            raise UserError(
                f"Checkpoint {path} does not fit this run: {name} is {found.get(name, 'absent')} "
                f"there and {needed.get(name, 'absent')} here; use another --workdir."
            )


def _place(read: tuple[int, dict[str, np.ndarray]] | None, abstract_state: Any):
    """Returns the step, and the pytree of `abstract_state` with the arrays, on its shardings."""
    if read is None:
        return None
    step, leaves = read
    placed = [
        sharding.put(leaves[name], getattr(leaf, "sharding", None))
        for name, leaf in _named(abstract_state).items()
    ]
    return step, jax.tree.unflatten(jax.tree.structure(abstract_state), placed)

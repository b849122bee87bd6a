"""Checkpoints: the whole state of a phase, written atomically in the background by Orbax.

A checkpoint is one Orbax directory named by its step, with two items. `state` holds the arrays,
flat, by their paths in the pytree. `record` holds the accuracy, the seconds of an epoch that has not
ended, the arrays' dtypes and shapes, and a checksum over these and the arrays: Orbax itself does not
notice a flipped bit.

Only process 0 reads and writes; it broadcasts what it reads to the others. The state is replicated on
every device, so process 0 has all of it, no disk need be shared, and all processes resume from the
same checkpoint.
"""

import glob
import json
import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ddarts_jax.distributed import processes, sharding
from ddarts_jax.errors import UserError, first_line
from ddarts_jax.runs import identity, layout

_logger = logging.getLogger(__name__)

_OVERHEAD = 2**20  # bytes that Orbax's own files need at most, beside the arrays

# Orbax logs the traceback of a failed save, whose error `Checkpoints` raises as one sentence.
logging.getLogger("absl").addFilter(
    lambda record: not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)
)


class Checkpoints:
    """The newest checkpoints of a run, in one directory.

    The state is saved from the host, so the number of devices that held it does not matter: `restore`
    puts it where the caller wants it. Its arrays must be replicated, or addressable by the process.

    All processes call the constructor, `save` and `restore` together; the results of the other methods
    are valid in process 0 only.
    """

    def __init__(self, directory: str | os.PathLike, config: dict[str, Any], keep_last: int):
        """Opens a directory of checkpoints and creates it if it does not exist.

        Args:
          directory: where they lie.
          config: whatever defines the run, as JSON can say it; it must stay the same.
          keep_last: how many of the newest are kept.

        Raises:
          UserError: the directory cannot be used, or belongs to another configuration.
        """
        self._directory = Path(directory).absolute()  # Orbax takes no relative path
        self._keep_last = keep_last
        self._writing: int | None = None
        self._failed = False
        path = self._directory / layout.CONFIG
        processes.from_main(
            lambda: identity.claim(
                *(path, config, "checkpoints"),
                empty=not identity.holds_checkpoints(self._directory),
            )
        )
        self._orbax, self._alias = None, None
        self._path = self._directory  # as Orbax gets it
        if processes.is_main():
            self._orbax = _checkpointer(self._directory.name)
            # Orbax looks for its files by a pattern, in which such characters have a meaning.
            if glob.has_magic(str(self._directory)):
                self._alias = tempfile.TemporaryDirectory(prefix="ddarts_jax_")
                self._path = Path(self._alias.name, "checkpoints")
                self._path.symlink_to(self._directory)

    def save(
        self, step: int, state: Any, accuracy: float | None = None, seconds: float = 0.0
    ) -> None:
        """Starts to write a checkpoint; `state` may be donated as soon as this returns.

        Waits for the previous save. A step that has a checkpoint already is not written again.

        Args:
          step: number of steps done.
          state: pytree of arrays.
          accuracy: of the epoch that the step ends, for whoever reads the record; None within one.
          seconds: that the epoch of the step has taken so far; 0 at its end.

        Raises:
          UserError: this or the previous save failed.
        """
        if not processes.is_main():
            return
        self.wait()
        if step in self._steps():
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
        self._check_room(sum(leaf.nbytes for leaf in leaves.values()))
        try:
            self._orbax.save(self._path / str(step), args=items)
        except Exception as error:
            raise self._write_error(first_line(error)[:200]) from error

    def wait(self) -> None:
        """Waits for the save in progress, then deletes all but the newest checkpoints.

        Raises:
          UserError: the checkpoint could not be written.
        """
        if self._writing is None:
            return
        try:
            self._orbax.wait_until_finished()
        except Exception as error:
            raise self._write_error(first_line(error)[:200]) from error
        self._writing = None
        for step in self._steps()[: -self._keep_last]:
            # Tried again after the next save.
            shutil.rmtree(self._directory / str(step), ignore_errors=True)
        self._remove_half_written()

    def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
        """Restores the newest intact checkpoint and moves newer, corrupt ones out of the way.

        Args:
          abstract_state: pytree of arrays or `jax.ShapeDtypeStruct`s, each with the sharding
            wanted (None: JAX's default device).

        Returns:
          (step, state), or None if there are no checkpoints.

        Raises:
          UserError: no checkpoint is intact, or its arrays are not those of `abstract_state`.
        """
        read = processes.from_main(lambda: self._newest_intact(abstract_state))
        return None if read is None else (read[0], _placed(read[1], abstract_state))

    def latest_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint."""
        return max(self._steps(), default=None)

    def seconds(self, step: int) -> float:
        """Returns the seconds that the epoch of a finished, intact checkpoint had taken by then."""
        return self._record(step).get("seconds", 0.0)  # an older version wrote none

    def close(self) -> None:
        """Waits for the save in progress and ends the background threads."""
        try:
            self.wait()
        finally:
            if self._orbax:
                self._orbax.close()
                if self._failed:  # its threads may have written on until now
                    self._remove_half_written()
            if self._alias:
                self._alias.cleanup()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, intact or corrupt, in ascending order."""
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def _half_written(self) -> list[Path]:
        """Returns what Orbax did not get to rename, in a killed process or a failed save."""
        return list(self._directory.glob("*.orbax-checkpoint-tmp*"))

    def _record(self, step: int) -> dict[str, Any]:
        items = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._orbax.restore(self._path / str(step), args=items)["record"]

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint; raises an exception of some kind if it is corrupt."""
        record = self._record(step)
        like = {k: np.empty(shape, jnp.dtype(d)) for k, (d, shape) in record["arrays"].items()}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(_nonempty(like)))
        leaves = like | self._orbax.restore(self._path / str(step), args=items)["state"]
        if record.pop("checksum") != _checksum(record, leaves):
            raise ValueError("its checksum is wrong")
        return leaves

    def _newest_intact(self, abstract_state: Any) -> tuple[int, dict[str, np.ndarray]] | None:
        """Returns the step and the arrays of the newest intact checkpoint; see `restore`."""
        self.wait()
        for path in self._half_written():
            _logger.warning("Checkpoint %s is half-written; using the one before it.", path)
        corrupt = []
        for step in reversed(self._steps()):
            path = self._directory / str(step)
            try:
                leaves = self._read(step)
            except Exception as error:  # JSON, Orbax and TensorStore raise each their own
                # TensorStore appends its whole specification.
                _logger.warning(
                    "Checkpoint %s is corrupt, trying the one before: %.200s",
                    *(path, first_line(error)),
                )
                corrupt.append(path)
                continue
            _check_fit(leaves, abstract_state, path)
            for path in corrupt:  # or they would count as the newest from now on
                aside = path.with_suffix(".corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            return step, leaves
        if corrupt:
            raise UserError(
                f"Every checkpoint in {self._directory} is corrupt; "
                "delete that directory to start anew, or use another --workdir."
            )
        return None

    def _remove_half_written(self) -> None:
        for path in self._half_written():
            shutil.rmtree(path, ignore_errors=True)

    def _check_room(self, size: int) -> None:
        """Raises UserError unless the disk has room for a checkpoint of `size` bytes.

        A save that a full disk breaks off ends in tracebacks from Orbax's threads.
        """
        needed, disk = size + _OVERHEAD, shutil.disk_usage(self._directory)
        if disk.free < needed and disk.total:  # some file systems do not tell
            raise self._write_error(
                f"it needs {needed / 1e6:.1f} MB, but the disk has {disk.free / 1e6:.1f} MB left"
            )

    def _write_error(self, reason: str) -> UserError:
        step, self._writing, self._failed = self._writing, None, True
        self._remove_half_written()
        earlier = (
            f"Those of steps {self._steps()} are intact" if self._steps() else "It is the first"
        )
        return UserError(
            f"Checkpoint {self._directory / str(step)} could not be written ({reason}). {earlier}: fix "
            "the cause (is the disk full?) and start the same command again."
        )


def _checkpointer(name: str) -> ocp.AsyncCheckpointer:
    """Creates Orbax's writer for process 0 alone, which waits for no other.

    Not a `CheckpointManager`: it fails a save if an old checkpoint cannot be deleted, and when it opens
    a directory it deletes what another process is writing there, in a thread that `close` does not join.
    """
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
    """Returns the arrays that have elements: Orbax refuses the rest."""
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


def _placed(leaves: dict[str, np.ndarray], abstract_state: Any) -> Any:
    """Returns the pytree of `abstract_state` with the arrays, on its shardings."""
    placed = [
        sharding.put(leaves[name], getattr(leaf, "sharding", None))
        for name, leaf in _named(abstract_state).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract_state), placed)

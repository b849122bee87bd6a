"""The amount of memory that this process may use, of the machine and of its devices."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available() -> int:
    """Returns the bytes of memory of the machine, or fewer if a cgroup or SLURM allows fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_of_cgroups(), *_of_slurm()])


def of_device() -> float:
    """Returns the bytes of memory of this process's first device; infinity where it does not tell."""
    import jax  # not above: reading data needs none

    device = jax.local_devices()[0]
    if device.platform == "cpu":  # CPU devices share the machine's
        return available() / jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)


def in_gigabytes(size: float) -> str:
    """Returns a number of bytes as text."""
    return f"{size / 1e9:.2f} GB" if math.isfinite(size) else "an unknown amount"


def _of_cgroups() -> Iterator[int]:
    """The limits of this process's cgroup and of its ancestors, of either cgroup version."""
    lines = _OWN_CGROUPS.read_text().splitlines() if _OWN_CGROUPS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        # In a container the path may be the host's; the root is then the container's own cgroup.
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (folder / name).is_file():
                text = (folder / name).read_text().strip()
                if text.isdecimal():  # else "max"
                    yield int(text)


def _of_slurm() -> Iterator[int]:
    """The limits of a SLURM job on this node; the variables are in MiB, 0 means the whole node."""
    number = {
        name: int(value)
        for name, value in os.environ.items()
        if name.startswith("SLURM_") and value.isdecimal()
    }
    per_cpu = number.get("SLURM_MEM_PER_CPU", 0) * number.get("SLURM_CPUS_ON_NODE", 0)
    for limit in (number.get("SLURM_MEM_PER_NODE", 0), per_cpu):
        if limit:
            yield limit * 2**20

"""The memory that a process may use: the least of the machine's, its cgroups' and SLURM's."""

import os

import pytest

from ddarts_jax.distributed import memory

_MACHINE = 4096 * 1000  # bytes


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without limits; `tmp_path` has its cgroups."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_it_is_the_machines(tmp_path):
    """Neither without cgroups nor in one without a limit is there less."""
    assert memory.available() == _MACHINE
    write(tmp_path / "own", "0::/\n")
    write(tmp_path / "memory.max", "max\n")
    assert memory.available() == _MACHINE


@pytest.mark.parametrize(
    "own, name",
    [
        ("0::/job/step\n", "memory.max"),
        ("5:cpu:/x\n4:memory:/job/step\n", "memory/memory.limit_in_bytes"),
    ],
)
def test_a_cgroup_or_one_around_it_limits(tmp_path, own, name):
    """In both versions the least limit on the way to the root counts."""
    write(tmp_path / "own", own)
    root, name = (tmp_path / name).parent, name.rpartition("/")[2]
    write(root / "job" / "step" / name, "3000000\n")
    assert memory.available() == 3_000_000
    write(root / "job" / name, "2000000\n")
    assert memory.available() == 2_000_000
    write(root / name, "1000000\n")
    assert memory.available() == 1_000_000


def test_a_path_of_the_host_is_not_there_in_a_container(tmp_path):
    """The root is then the container's own cgroup."""
    write(tmp_path / "own", "0::/docker/0123abcd\n")
    write(tmp_path / "memory.max", "5000\n")
    assert memory.available() == 5000


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"SLURM_MEM_PER_NODE": "2"}, 2 * 2**20),
        ({"SLURM_MEM_PER_CPU": "1", "SLURM_CPUS_ON_NODE": "3"}, 3 * 2**20),
        ({"SLURM_MEM_PER_NODE": "0"}, _MACHINE),
        ({"SLURM_MEM_PER_CPU": "1"}, _MACHINE),
    ],
)
def test_a_slurm_job_has_its_share(monkeypatch, variables, expected):
    """By node or by core; 0 is the whole node."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory.available() == min(expected, _MACHINE)

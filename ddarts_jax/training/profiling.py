"""The time of a compiled step by named scope, from XLA's profiler trace."""

import collections
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

# Parts that JAX adds to the path of scopes: calls, loops, checkpoints, and parts of function names.
_NO_SCOPE = re.compile(
    r"jit|pjit|while|scan|body|cond|closed_call|eval_jaxpr|checkpoint|rematted_computation|branch_.*|.*<.*"
)
_WRAPPED = re.compile(r"\b(?:jvp|transpose|vmap|remat|checkpoint|custom_\w+)\(([^()]*)\)")
# These contain other instructions, which the trace shows too.
_CONTAINERS = ("while", "conditional", "call")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_UNNAMED = "(no scope)"


@contextlib.contextmanager
def trace(directory: Path) -> Iterator[None]:
    """Writes a trace of the code run in this context to `directory`.

    `by_scope`, TensorBoard and XProf read it.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the host's calls are many and irrelevant to the step
    with jax.profiler.trace(str(directory), profiler_options=options):
        yield


def by_scope(directory: Path, hlo: str) -> dict[str, float]:
    """Adds up a trace's time by named scope, the most expensive first.

    Forward and backward passes of a scope count together.

    Args:
        directory: the directory given to `trace`; its newest trace is used.
        hlo: text of the compiled program, whose metadata name the scope of each instruction.

    Returns:
        Seconds by scope, such as "weight_step/cell/3/edges/sep_conv_3x3", summed over devices and, on a
        CPU, over threads.
    """
    scopes = _scopes(hlo)
    seconds = collections.Counter()
    for instruction, event in events(directory, hlo):
        if instruction in scopes:
            seconds[scopes[instruction]] += event.duration_ns / 1e9
    return dict(seconds.most_common())


def events(directory: Path, hlo: str) -> Iterator[tuple[str | None, Any]]:
    """The events of one program in a trace.

    Args:
        directory: the directory given to `trace`; its newest trace is used.
        hlo: text of the compiled program.

    Yields:
        The name of an instruction (None if there is none), and the profiler's event of one run of it.
    """
    module = re.search(r"^HloModule ([\w.-]+)", hlo)[1]
    path = max(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if stats.get("hlo_module") == module:
                    yield stats.get("hlo_op"), event


def table(seconds: dict[str, float], steps: int, rows: int = 10) -> str:
    """The most expensive scopes as text: share of all time, milliseconds per step, scope."""
    total = sum(seconds.values())
    lines = [f"{'share':>6} {'ms/step':>9}  scope"]
    for scope, value in list(seconds.items())[:rows]:
        lines.append(f"{100 * value / total:5.1f}% {1e3 * value / steps:9.3f}  {scope}")
    return "\n".join(lines)


def scope_of(op_name: str) -> str:
    """The named scopes in an instruction's `op_name`, without the parts that JAX and XLA have added.

    "jit(f)/while/body/step/transpose(jvp(cell/1))/edges/jit(g)/mul" is in "step/cell/1/edges".
    """
    path = re.sub(r"\bjit\([^()]*\)", "jit", op_name.partition(";")[0])  # ';' joins fused ones
    while (unwrapped := _WRAPPED.sub(r"\1", path)) != path:
        path = unwrapped
    parts = path.split("/")
    if parts[-1] != "jit":
        parts = parts[:-1]  # the primitive
    kept = []
    for part in parts:
        if part and not _NO_SCOPE.fullmatch(part) and kept[-1:] != [part]:
            kept.append(part)
    return "/".join(kept) or _UNNAMED


def _scopes(hlo: str) -> dict[str, str]:
    """The scope of each instruction that is not just a container of others."""
    scopes = {}
    for line in hlo.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction and instruction[2] not in _CONTAINERS:
            op_name = _OP_NAME.search(line)
            scopes[instruction[1]] = scope_of(op_name[1]) if op_name else _UNNAMED
    return scopes

"""The text of a compiled program: its instructions, and the bytes that they move.

Bytes are counted by the rule of XLA's `cost_analysis`: every instruction that is no view reads its
operands and writes its result, a slice only what it slices. But loops count as often as they run.
"""

import math
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """A line of a compiled program's text."""

    name: str
    opcode: str
    size: int  # bytes of its result
    operands: tuple[str, ...]
    attributes: str
    root: bool


_INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = (.+?) ([a-z][\w\-]*)\(([^)]*)\)(.*)")
_VIEWS = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def computations(text) -> dict[str, list[Instruction]]:
    """Reads the text of a compiled program; the entry is called "ENTRY"."""
    found = {}
    for line in text.splitlines():
        if line.endswith("{") and (header := re.match(r"(ENTRY )?%(\S+) \(", line)):
            found["ENTRY" if header[1] else header[2]] = current = []
        elif found and (match := _INSTRUCTION.match(line)):
            root, name, shape, opcode, operands, attributes = match.groups()
            if opcode == "parameter":  # its operand is its number
                attributes = operands
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            current.append(Instruction(name, opcode, _bytes(shape), names, attributes, bool(root)))
    return found


def _bytes(shape) -> int:
    total = 0
    for kind, bits, dimensions in re.findall(r"([a-z]+)(\d*)\w*\[([\d,]*)\]", shape):
        width = 1 if kind == "pred" else int(bits or 0) / 8
        total += width * math.prod(int(n) for n in dimensions.split(",") if n)
    return int(total)


def moved_bytes(found, loops: bool, name="ENTRY") -> int:
    """Counts the bytes that a computation's instructions read and write.

    Args:
        found: see `computations`.
        loops: whether the body of a loop counts as often as it runs; else once.
        name: of the computation.
    """
    total, sizes = 0, {i.name: i.size for i in found[name]}
    for i in found[name]:
        match i.opcode:
            case opcode if opcode in _VIEWS:
                pass
            case "while":
                trips = trip_count(i)
                times = trips if loops else 1
                total += times * moved_bytes(found, loops, called(i, "body"))
            case "call":
                total += moved_bytes(found, loops, called(i, "to_apply"))
            case "fusion":
                operands = [sizes[operand] for operand in i.operands]
                total += _fusion_bytes(found[called(i, "calls")], operands)
            case "dynamic-update-slice":
                total += 2 * sizes[i.operands[1]]
            case opcode if opcode in _SLICES:
                total += 2 * i.size
            case _:
                total += i.size + sum(sizes[operand] for operand in i.operands)
    return total


def trip_count(loop) -> int:
    """Returns how often a while loop runs."""
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if not trips:
        raise SystemExit(f"XLA does not know how often the loop {loop.name} runs")
    return int(trips[1])


def called(instruction, attribute) -> str:
    """Returns the computation that an instruction names as its `attribute`."""
    return re.search(rf"{attribute}=%([\w.\-]+)", instruction.attributes)[1]


def _fusion_bytes(body, operands) -> int:
    """Counts the bytes that a fusion reads from its operands (a slice of some) and writes."""
    by_name = {i.name: i for i in body}

    def origin(name):
        while by_name[name].opcode in ("bitcast", "convert", "copy"):
            name = by_name[name].operands[0]
        return by_name[name]

    users = {i.name: [] for i in body}
    for i in body:
        if i.opcode not in ("bitcast", "convert", "copy") or i.root:
            for place, operand in enumerate(i.operands):
                users[origin(operand).name].append((i, place))

    total = 0
    for i in body:
        if i.opcode == "parameter":
            full = operands[int(i.attributes)]
            # It reads only the slices of an array that it slices; one that it updates stays in place.
            reads = [
                *(user.size for user, at in users[i.name] if user.opcode in _SLICES and at == 0),
                *(
                    0
                    for user, at in users[i.name]
                    if user.opcode == "dynamic-update-slice" and not at
                ),
            ]
            total += min(full, sum(reads)) if len(reads) == len(users[i.name]) else full
        if i.root:
            outputs = [origin(o) for o in i.operands] if i.opcode == "tuple" else [origin(i.name)]
            total += sum(
                by_name[o.operands[1]].size if o.opcode == "dynamic-update-slice" else o.size
                for o in outputs
            )
    return total

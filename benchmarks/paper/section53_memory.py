"""Section 5.3: memory of the search step, with and without the ablation loss and half precision.

    python benchmarks/paper/section53_memory.py [--full]

The temporary memory that the compiler plans for one step (`memory_analysis`): the same in every run,
so there are no seeds. Small: 3 cells of 2 nodes, 16 channels, 64 images of 16x16. Full: the paper's 8
cells of 4 nodes, 16 channels, 128 images of 32x32, which a GPU should compile.
"""

import sys
from pathlib import Path

import command
import common

sys.path.append(str(Path(__file__).parents[1]))
import harness
from search_step import measured_step

SMALL = {"cells": 3, "nodes": 2, "channels": 16, "size": 16, "batch": 64}
FULL = {"cells": 8, "nodes": 4, "channels": 16, "size": 32, "batch": 128}
STEPS = {
    f"{dtype}, {'with' if weight else 'without'} the ablation loss": (dtype, weight)
    for dtype in ("float32", "bfloat16")
    for weight in (0.5, 0.0)
}
RULE = "These numbers vary with nothing but the compiler, so the larger one is larger."
NOTES = [
    "The values of section 5.3 could not be read. A CPU computes bfloat16 by way of float32 copies: "
    "what half precision saves is to be measured on an accelerator."
]


def measure(shape):
    """Measures the MB of temporary memory of each step.

    Args:
        shape: options of `harness.search_config`, and the size of the images.
    """
    found = {}
    for label, (dtype, weight) in STEPS.items():
        config = harness.search_config(shape | {"ablation_weight": weight})
        _, compiling = measured_step(config, shape["size"], dtype)
        found[label] = compiling["temporary_mb"]
    return found


def conclude(found):
    """Judges the memory of each step.

    Args:
        found: {label: MB}.
    """
    figure, (axes,) = common.figure(("", "temporary memory (MB)"))
    axes.bar(range(len(found)), found.values(), color=common.COLOURS[0], width=0.6)
    names = [label.replace(", ", "\n").replace(" the ", "\nthe ") for label in found]
    axes.set_xticks(range(len(found)), names, fontsize=7)
    full, plain, half, _ = found
    return common.Findings(
        ["step", "paper", "temporary memory"],
        [[label, "not given", f"{megabytes:,} MB"] for label, megabytes in found.items()],
        found,
        claims=[
            _larger("the ablation loss costs memory", found, full, plain),
            _larger("half precision saves memory", found, full, half),
        ],
        notes=NOTES,
        figure=figure,
    )


def _larger(text, found, a, b):
    verdict = common.HELD if found[a] > found[b] else common.FAILED
    return common.Claim(text, verdict, f"{a}: {found[a]:,} MB; {b}: {found[b]:,} MB")


def main(argv=None):
    """Measures and writes."""
    title = __doc__.splitlines()[0]
    arguments = command.parser(title).parse_args(argv)
    findings = conclude(measure(FULL if arguments.full else SMALL))
    name = "section53_memory" + "_full" * arguments.full
    common.write(name, title, command.repeating(__file__, arguments), RULE, findings)


if __name__ == "__main__":
    main()

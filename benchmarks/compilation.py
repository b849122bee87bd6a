"""Times how long a search takes to begin, from nothing and from the persistent cache; one JSON line.

    python benchmarks/compilation.py                        # full size; options of search_step.py

Two fresh processes, one after the other, share an empty cache: the first compiles, the second finds
the program. The second spends most of its time on tracing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__)
    parser.epilog = "All other options are those of search_step.py."
    _, options = parser.parse_known_args()
    script = str(Path(__file__).with_name("search_step.py"))
    command = [sys.executable, script, *options, "--repeats", "0"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
        }
        runs = []
        for _ in range(2):
            ended = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            runs.append(json.loads(ended.stdout))
    first, second = runs
    for name, run in zip(("from_nothing_s", "from_cache_s"), runs):
        first[name] = round(run["trace_s"] + run["compile_s"], 1)
    first["from_cache"] = {key: second[key] for key in ("trace_s", "compile_s")}
    del first["benchmark"]
    harness.report("compilation", {}, first)


if __name__ == "__main__":
    main()

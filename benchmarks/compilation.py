"""Times how long a search takes to begin, from nothing and from the persistent cache; one JSON line.

    python benchmarks/compilation.py                        # full size; options of search_step.py

Two fresh processes, one after the other, share an empty cache: the first compiles, the second finds
the program. What is left in the second is mostly tracing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main():
    """Measures and prints."""
    command = [sys.executable, str(Path(__file__).with_name("search_step.py")), "--repeats", "0"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
        }
        runs = [
            json.loads(
                subprocess.run(
                    [*command, *sys.argv[1:]],
                    env=environment,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
            )
            for _ in range(2)
        ]
    for name, run in zip(("from_nothing_s", "from_cache_s"), runs):
        runs[0][name] = round(run["trace_s"] + run["compile_s"], 1)
    runs[0]["from_cache"] = {key: runs[1][key] for key in ("trace_s", "compile_s")}
    print(json.dumps(runs[0] | {"benchmark": "compilation"}))


if __name__ == "__main__":
    main()

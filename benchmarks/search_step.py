"""Times one compiled search step (alphas, then weights) and prints one JSON line.

    python benchmarks/search_step.py                       # full size: 8 cells, 16 channels, 32x32
    python benchmarks/search_step.py --cells 5 --nodes 2 --channels 8 --size 8 --batch 64

Random images of the right shape: the time of a step does not depend on what they show. With
`--without`, the step without the ablation loss (w_AB = 0) is compiled too, both run in turns, and the
ratio of their medians is given.
"""

import argparse
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import jaxlib
from flax import __version__ as flax_version

from ddarts_jax.configuration import default_config
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.models import supernet
from ddarts_jax.searching.search import search_step
from ddarts_jax.training import optim
from ddarts_jax.training.compilation import lower


def random_supernet(arguments, **options):
    """The supernet of the command line's sizes, its random weights, and alphas near 0."""
    net, variables = supernet.build(
        num_cells=arguments.cells,
        num_nodes=arguments.nodes,
        channels=arguments.channels,
        num_classes=10,
        image_channels=3,
        key=jax.random.key(0),
        **options,
    )
    return net, variables, 1e-3 * jax.random.normal(jax.random.key(1), net.alphas_shape)


def measured_step(arguments, ablation_weight):
    """Builds and compiles a step; returns a function that runs it once, and what compiling took."""
    settings = default_config().search
    settings.ddarts.ablation.weight = ablation_weight
    settings.ddarts.ablation.gradient = arguments.gradient
    settings.ddarts.microbatch = arguments.microbatch
    net, variables, alphas = random_supernet(
        arguments, primitives=SPACES[arguments.space], unroll=arguments.unroll
    )
    init, step = search_step(net, settings, total_steps=1000)
    state = init(*optim.at_least_float32((variables, alphas), arguments.dtype))
    shape = (arguments.batch, arguments.size, arguments.size, 3)

    def batch(seed):
        images = jax.random.normal(jax.random.key(seed), shape, arguments.dtype)
        return images, jnp.arange(arguments.batch) % 10

    batches = batch(2), batch(3)
    begun = time.perf_counter()
    lowered = lower(jax.jit(step, donate_argnums=0), state, jax.random.key(4), *batches)
    traced = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    compiling = {
        "trace_s": round(traced - begun, 1),
        "compile_s": round(time.perf_counter() - traced, 1),
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6),
        "gflop": round(compiled.cost_analysis().get("flops", 0) / 1e9, 2),
    }

    def run():
        nonlocal state
        begun = time.perf_counter()
        state, metrics = compiled(state, jax.random.key(4), *batches)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begun

    return run, compiling


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 8), ("nodes", 4), ("channels", 16), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 16), ("unroll", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5, help="0 compiles only")
    parser.add_argument(
        "--microbatch", type=int, default=0, help="see config.search.ddarts.microbatch"
    )
    parser.add_argument("--space", default="darts", choices=SPACES)
    parser.add_argument("--gradient", default="full", choices=["full", "none"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--without", action="store_true", help="compare with w_AB = 0")
    arguments = parser.parse_args()

    weights = (0.5, 0.0) if arguments.without else (0.5,)
    steps = [measured_step(arguments, weight) for weight in weights]
    result = {
        "benchmark": "search_step",
        **vars(arguments),
        **steps[0][1],
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {jax.local_device_count()} device(s)",
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax_version},
    }
    if arguments.without:
        result["without_ablation"] = steps[1][1]
        memory = [compiling["temporary_mb"] for _, compiling in steps]
        result["ratio_of_memory"] = round(memory[0] / memory[1], 2)
    if arguments.repeats:
        for run, _ in steps:
            run()
        times = [[run() for run, _ in steps] for _ in range(arguments.repeats)]
        medians = [statistics.median(column) for column in zip(*times)]
        result |= {
            "step_s": round(medians[0], 4),
            "spread_s": [round(pick(column[0] for column in times), 4) for pick in (min, max)],
            "images_per_s": round(2 * arguments.batch / medians[0], 1),
        }
        if arguments.without:
            result["without_ablation"]["step_s"] = round(medians[1], 4)
            result["ratio_of_ablation"] = round(medians[0] / medians[1], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

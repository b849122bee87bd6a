"""Times one compiled search step (alphas, then weights) and prints one JSON line.

    python benchmarks/search_step.py                       # full size: 8 cells, 16 channels, 32x32
    python benchmarks/search_step.py --cells 5 --nodes 2 --channels 8 --size 8 --batch 64

The images are random: the time of a step does not depend on what they show. With `--without`, the step
without the ablation loss (w_AB = 0) is compiled too, and with `--partials 2,4` the step that mixes one of
every 2 and of every 4 channels; all run in turns, and the ratios of their medians are given.
"""

import statistics

import harness
import jax
import jax.numpy as jnp

from ddarts_jax.genotypes.spaces import primitives_of
from ddarts_jax.models import supernet
from ddarts_jax.searching.search import mixing, search_step
from ddarts_jax.training import optim
from ddarts_jax.training.compilation import lower


def random_supernet(config):
    """Returns a supernet of the config's size, its random weights, and alphas near 0."""
    settings = config.search
    net, variables = supernet.build(
        num_cells=settings.num_cells,
        num_nodes=settings.num_nodes,
        channels=settings.channels,
        num_classes=harness.NUM_CLASSES,
        image_channels=3,
        primitives=primitives_of(settings.space),
        unroll=settings.unroll,
        **mixing(settings),
        key=jax.random.key(config.seed),
    )
    alphas = 1e-3 * jax.random.normal(jax.random.key(config.seed + 1), net.alphas_shape)
    return net, variables, alphas


def measured_step(config, size, dtype):
    """Builds and compiles a search step.

    Args:
        config: the whole config.
        size: pixels per side of an image.
        dtype: of the computation.

    Returns:
        A function that runs the step once and waits for it, and what compiling took.
    """
    net, variables, alphas = random_supernet(config)
    init, step = search_step(net, config.search, total_steps=1000)
    state = init(*optim.at_least_float32((variables, alphas), dtype))
    count = config.data.batch_size

    def batch(seed):
        images = jax.random.normal(jax.random.key(seed), (count, size, size, 3), dtype)
        return images, jnp.arange(count) % harness.NUM_CLASSES

    batches = batch(2), batch(3)
    compiled, compiling = harness.compile_timed(
        lambda: lower(jax.jit(step, donate_argnums=0), state, jax.random.key(4), *batches)
    )
    compiling |= {
        "temporary_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
        "gflop": round(compiled.cost_analysis().get("flops", 0) / 1e9, 2),
    }

    def run():
        nonlocal state
        state, metrics = compiled(state, jax.random.key(4), *batches)
        jax.block_until_ready((state, metrics))

    return run, compiling


def main():
    """Measures and prints."""
    common = (*harness.SIZES, "batch", "repeats", "unroll", "microbatch")
    parser = harness.parser(__doc__, *common, "space", "gradient", "dtype")
    parser.add_argument("--without", action="store_true", help="compare with w_AB = 0")
    parser.add_argument("--partials", default="", help="compare with one of every so many channels")
    arguments = parser.parse_args()

    options = vars(arguments)
    configs = {"with": harness.search_config(options)}
    if arguments.without:
        configs["without"] = harness.search_config(options | {"ablation_weight": 0.0})
    for count in filter(None, arguments.partials.split(",")):
        configs[f"partial_{count}"] = harness.search_config(options | {"partial": int(count)})
    steps = {
        name: measured_step(config, arguments.size, arguments.dtype)
        for name, config in configs.items()
    }
    compiling = {name: found for name, (_, found) in steps.items()}
    result = compiling.pop("with") | compiling
    for found in compiling.values():
        found["ratio_of_memory"] = round(result["temporary_mb"] / found["temporary_mb"], 2)
    if arguments.repeats:
        programs = {name: run for name, (run, _) in steps.items()}
        harness.in_turns(programs, 1)
        seconds = harness.in_turns(programs, arguments.repeats)
        medians = {name: statistics.median(column) for name, column in seconds.items()}
        result |= {
            "step_s": round(medians["with"], 4),
            "spread_s": harness.spread(seconds["with"]),
            "images_per_s": round(2 * arguments.batch / medians["with"], 1),
        }
        for name, found in compiling.items():
            found["step_s"] = round(medians[name], 4)
            found["ratio_of_time"] = round(medians["with"] / medians[name], 2)
    harness.report("search_step", options, result)


if __name__ == "__main__":
    main()

"""Times one compiled training step, of a classifier or of a detector; prints one JSON line.

    python benchmarks/training_step.py                        # DD-1, 36 channels, 32x32
    python benchmarks/training_step.py --program detector     # RetinaNet above DO-2-ResNet18, 800x1344
    python benchmarks/training_step.py --program detector --genotype DARTS_V2 --channels 4 --size 64

Images and objects are random. `mfu` is the share of `--peak` that three times the multiply-accumulates of
the forward pass come to.
"""

import statistics

import harness
import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.configuration import detection_config
from ddarts_jax.detection import detector as detectors
from ddarts_jax.detection import training as detector_training
from ddarts_jax.detection.detector import Source
from ddarts_jax.detection.matching import GroundTruth
from ddarts_jax.genotypes import lookup
from ddarts_jax.training import optim, schedule, train
from ddarts_jax.training.compilation import lower

_OBJECTS = 20  # in every image of the detector


def classifier(arguments):
    """Returns the jitted step of a classifier, its state, its batch, and its forward pass's MACs."""
    config = harness.search_config(vars(arguments))
    config.train.channels = arguments.channels or 36
    size, batch = arguments.size or 32, arguments.batch
    genotype = lookup.find_genotype(arguments.genotype or "DD-1")
    shape = (size, size, 3)
    dataset = harness.blank_dataset(shape, count=2 * batch)
    plan = schedule.schedule(2 * batch, batch, 2, 2)
    net, variables = train.build(config, genotype, dataset, arguments.dtype)
    init, step = train.train_step(net, config.train, plan)
    state = init(optim.at_least_float32(variables, arguments.dtype))
    images = jax.random.normal(jax.random.key(1), (batch, *shape), arguments.dtype)
    labels = jnp.arange(batch) % harness.NUM_CLASSES
    macs = train.cost(config, genotype, dataset).macs
    given = jax.random.key(0), (images, labels)
    return jax.jit(step, donate_argnums=0), state, given, macs


def detector(arguments):
    """The same of a detector."""
    config = detection_config()
    config.backbone.frozen_levels = 0
    height, width = (arguments.size,) * 2 if arguments.size else (800, 1344)
    batch = arguments.batch
    genotype = lookup.find_genotype(arguments.genotype or "DO-2-ResNet18")
    sizes = {"channels": arguments.channels or 64, "stem": "half", "stem_multiplier": 3}
    source = Source(genotype, sizes, None, {})
    net, variables = detectors.build(config, source, 80, 3, jax.random.key(0))
    plan = schedule.schedule(2 * batch, batch, 2, 2)
    init, step = detector_training.make_step(net, config.train, plan, variables.weights)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [width / 2, height / 2], (batch, _OBJECTS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(16, 200, corners.shape)], -1)
    truth = GroundTruth(
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(rng.integers(80, size=(batch, _OBJECTS)), jnp.int32),
        jnp.tile(jnp.array([[height, width]], jnp.int32), (batch, 1)),
    )
    shape = (height, width, 3)
    images = jax.random.normal(jax.random.key(1), (batch, *shape), arguments.dtype)
    macs = sum(detectors.macs(net, variables, shape).values())
    given = jax.random.key(0), images, truth
    return jax.jit(step, donate_argnums=0), init(variables), given, macs


def main():
    """Measures and prints."""
    parser = harness.parser(__doc__, "repeats", batch=128, dtype="bfloat16")
    parser.add_argument("--program", default="classifier", choices=["classifier", "detector"])
    parser.add_argument("--genotype", default="", help="name or file (default: see above)")
    parser.add_argument("--channels", type=int, default=0, help="default: see above")
    parser.add_argument("--size", type=int, default=0, help="pixels per side (default: see above)")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP per second of the device")
    arguments = parser.parse_args()
    make = {"classifier": classifier, "detector": detector}[arguments.program]
    step, state, given, macs = make(arguments)
    compiled, compiling = harness.compile_timed(lambda: lower(step, state, *given))

    def run():
        nonlocal state
        state, metrics = compiled(state, *given)
        jax.block_until_ready((state, metrics))

    harness.in_turns({"step": run}, 2)
    seconds = harness.in_turns({"step": run}, arguments.repeats)["step"]
    median = statistics.median(seconds)
    memory = compiled.memory_analysis()
    results = compiling | {
        "step_s": round(median, 5),
        "spread_s": harness.spread(seconds, 5),
        "images_per_s": round(arguments.batch / median, 1),
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6),
        "gmacs_per_image": round(macs / 1e9, 3),
        "mfu": round(6 * macs * arguments.batch / median / arguments.peak, 4),
    }
    harness.report("training_step", vars(arguments), results)


if __name__ == "__main__":
    main()

"""Tells what compiled programs would do on an NVIDIA GPU, without having one; prints one JSON line.

    python benchmarks/gpu_program.py                     # the search step at full size
    python benchmarks/gpu_program.py --program train     # the training step of DD-1
    python benchmarks/gpu_program.py --scopes 20         # ... and which parts launch most kernels

XLA compiles ahead of time for a described GPU. `pip install '.[gpu-compile]'` installs what it needs
besides JAX: the CUDA plugin's wheels, neither CUDA nor cuDNN. JAX_PLATFORMS must then be "cpu".

It tells whether XLA's GPU compiler accepts a program, how long compiling takes (without autotuning, which
needs a device), the temporary memory, the kernels that a call launches and the bytes that they move. It
does not tell the time: `seconds_at_least` counts every kernel as the larger of `LAUNCH` and its bytes /
`BANDWIDTH`, and ignores the arithmetic of convolutions and matrix products.
"""

import collections
import dataclasses
import os
import re
import time
from importlib import metadata
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from ddarts_jax.distributed import sharding
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.ops import backend
from ddarts_jax.searching import search
from ddarts_jax.training import compilation, feeds, profiling, schedule, train

# An H100 as XLA describes it (tools/gpu_specs in its sources, for CUDA 12.8 and cuDNN 9.7).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
LAUNCH = 2.5e-6  # seconds from one small kernel to the next, as in a search step on an H100
BANDWIDTH = 3.35e12  # bytes per second of an H100's memory
SMALL = 65536  # bytes: kernels that write less are bound by their launch

# DD-1 of the article, as its authors published it, with the reductions of their search.
DD1 = Path(__file__).with_name("dd1.json")


def unavailable() -> str:
    """Returns why nothing can be compiled for a GPU here, or an empty string."""
    try:
        plugin = metadata.version("jax-cuda12-plugin")
        metadata.version("nvidia-cuda-nvcc-cu12")
    except metadata.PackageNotFoundError:
        return "the wheels of '.[gpu-compile]' are not installed"
    if plugin != jaxlib.__version__:
        return f"jax-cuda12-plugin is of version {plugin}, jaxlib of {jaxlib.__version__}"
    if jax.config.jax_platforms != "cpu":
        return "JAX_PLATFORMS is not cpu"
    return ""


def mesh(batch_size: int, devices: int = 1) -> jax.sharding.Mesh:
    """Makes the mesh of `sharding.data_mesh` over described GPUs of one host."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", target_config=H100, topology=f"1x1x{devices}"
    )
    return sharding.data_mesh(batch_size, described.devices)


def described(tree, placement: jax.sharding.Sharding):
    """Returns the shapes of a tree of arrays, on described devices."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=placement), tree
    )


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments, on described devices."""

    function: jax.stages.Wrapped
    arguments: tuple
    keywords: dict = dataclasses.field(default_factory=dict)

    def compile(self) -> jax.stages.Compiled:
        """Compiles it for the GPU. XLA ends the process where it fails."""
        with backend.compiling_for("gpu"):
            return compilation.lower(self.function, *self.arguments, **self.keywords).compile()


def _phase(config, phase, state, step, splits, dataset, plan, devices, alone) -> Program:
    """Makes what `loop` runs, a chunk of steps or a streamed step, or with `alone` the step itself."""
    gpus = mesh(plan.batch_size, devices)
    whole, split = sharding.replicated(gpus), sharding.batch_sharding(gpus)
    running = feeds.start(
        *(state, step, len(splits), dataset.image_shape, plan, "bfloat16"),
        sharding.data_mesh(plan.batch_size, jax.devices()[:1]),
    )
    if config.get("batch_norm", "global") == "local" and devices > 1:
        step = sharding.on_each_device(step)
    if alone:

        def one_step(*arguments):
            with sharding.over(gpus):
                return step(*arguments)

        shape = (plan.batch_size, *dataset.image_shape)
        batch = jnp.zeros(shape, jnp.bfloat16), jnp.zeros(shape[:1], jnp.int32)
        arguments = (
            *described((running.state, jax.random.key(0)), whole),
            *described([batch] * len(splits), split),
        )
        return Program(jax.jit(one_step, donate_argnums=0, out_shardings=whole), arguments)
    settings, moments = config[phase].augment, (dataset.mean, dataset.std)
    if config.data.get("stream", False):  # a scoring has no such key
        one_step = feeds.make_streamed_step(step, plan, settings, *moments, "bfloat16", gpus)
        shape = (plan.batch_size, *dataset.image_shape)
        batch = jnp.zeros(shape, jnp.uint8), jnp.zeros(shape[:1], jnp.int32)
        batches = described([batch] * len(splits), split)
        running, seed = described((running, np.uint32(0)), whole)
        return Program(one_step, (running, batches, seed))
    chunk = feeds.make_chunk(step, plan, settings, "bfloat16", gpus)
    images = feeds.Images(dataset.train_images, dataset.train_labels, splits, *moments)
    return Program(chunk, described((running, images, np.uint32(0)), whole))


def search_program(
    config,
    image_shape,
    num_classes=10,
    start: Genotype | None = None,
    devices=1,
    alone=False,
    stage=None,
) -> Program:
    """Makes the program of a search, in bfloat16.

    Args:
        config: the whole config.
        image_shape: (H, W, C).
        num_classes: number of classes.
        start: see `search.build`.
        devices: GPUs that share a batch.
        alone: whether to make the step by itself; else what `loop` runs: a chunk of two steps that
            draws and augments their batches, or with `config.data.stream` one step that augments.
        stage: see `search.build`.
    """
    batch_size = config.data.batch_size
    dataset = harness.blank_dataset(image_shape, num_classes, 4 * batch_size)
    splits = tuple(np.split(np.arange(4 * batch_size, dtype=np.int32), 2))
    plan = schedule.schedule(2 * batch_size, batch_size, 2, 2)
    net, variables, alphas = search.build(config, dataset, "bfloat16", start, stage)
    init, step = search.search_step(net, config.search, plan.total, 0 if start is None else 2)
    state = init(variables, alphas)
    return _phase(config, "search", state, step, splits, dataset, plan, devices, alone)


def training_program(
    config, genotype: Genotype, image_shape, num_classes=10, devices=1, alone=False
) -> Program:
    """Makes the program of a training of `genotype`, in bfloat16; see `search_program`."""
    batch_size = config.data.batch_size
    dataset = harness.blank_dataset(image_shape, num_classes, 2 * batch_size)
    splits = (np.arange(2 * batch_size, dtype=np.int32),)
    plan = schedule.schedule(2 * batch_size, batch_size, 2, 2)
    net, variables = train.build(config, genotype, dataset, "bfloat16")
    init, step = train.train_step(net, config.train, plan)
    state = init(variables)
    return _phase(config, "train", state, step, splits, dataset, plan, devices, alone)


# Reading a compiled program.

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
# They launch nothing.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_FREE |= {"partition-id", "fusion-done", "async-done", "copy-done"}
_FREE |= {"all-reduce-done", "all-gather-done"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction:
    """One instruction of an optimised program's text."""

    def __init__(self, match, line):
        root, self.name, self.shape, self.operation, rest = match.groups()
        self.is_root, self.line = bool(root), line
        self.operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])

    def called(self, attribute: str) -> str:
        """Returns the computation that an attribute names."""
        return re.search(rf"{attribute}=%?([\w.\-]+)", self.line).group(1)

    @property
    def label(self) -> str:
        """The operation, or what a custom call calls."""
        target = re.search(r'custom_call_target="([^"]+)"', self.line)
        return target.group(1) if target else self.operation

    @property
    def scope(self) -> str:
        """The `jax.named_scope`s in which it was traced."""
        name = re.search(r'op_name="([^"]*)"', self.line)
        return profiling.scope_of(name.group(1)) if name else ""


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Reads the instructions of each computation in `compiled.as_text()`, and the entry's name."""
    computations, current, entry = {}, None, None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(Instruction(match, line))
    return computations, entry


def size(shape: str) -> int:
    """Counts the bytes of an array, or of a tuple of arrays, given as "(f32[2,3], bf16[4])"."""
    return sum(
        _BYTES[kind] * int(np.prod([int(n) for n in dims.split(",") if n], dtype=np.int64))
        for kind, dims in _SHAPE.findall(shape)
    )


def launches(text: str):
    """Yields every instruction that launches something, and how often per call of the program.

    Yields:
        (instruction, times, bytes read, bytes written, whether a loop around it has no known count).
    """
    computations, entry = parse(text)

    def walk(name, times, uncertain):
        shapes = {one.name: one.shape for one in computations.get(name, [])}
        for one in computations.get(name, []):
            if one.operation in _FREE:
                continue
            if one.operation == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', one.line)
                count = int(trips.group(1)) if trips else 1
                yield from walk(one.called("body"), times * count, uncertain or not trips)
            elif one.operation in ("call", "async-start", "conditional"):
                for called in re.findall(r"(?:to_apply|calls)=%?([\w.\-]+)", one.line):
                    yield from walk(called, times, uncertain)
            else:
                sizes = [size(shapes.get(operand, "")) for operand in one.operands]
                yield one, times, *_moved(one, sizes, computations), uncertain

    yield from walk(entry, 1, False)


def _moved(one: Instruction, sizes, computations) -> tuple[int, int]:
    """Counts the bytes that an instruction reads and writes."""
    written = size(one.shape)
    if one.operation == "fusion":
        return _moved_by_fusion(computations.get(one.called("calls"), []), sizes, written)
    if one.operation == "dynamic-update-slice":
        return sizes[1], sizes[1]
    if one.operation in ("dynamic-slice", "slice"):
        return written, written
    return sum(sizes), written


def _moved_by_fusion(body: list[Instruction], sizes, written) -> tuple[int, int]:
    """Counts the bytes of a fusion: slices of operands that it slices, updates of those it updates."""
    slicing = ("dynamic-slice", "slice")
    shapes = {one.name: one.shape for one in body}
    users = collections.defaultdict(list)
    for one in body:
        for operand in one.operands:
            users[operand].append(one)
    updates = [one for one in body if one.operation == "dynamic-update-slice"]
    in_place = {one.operands[0] for one in updates}
    read = 0
    for one in body:
        if one.operation != "parameter":
            continue
        number = int(re.search(r"parameter\((\d+)\)", one.line).group(1))
        aliases = {one.name}
        aliases |= {user.name for user in users[one.name] if user.operation in ("bitcast", "copy")}
        sliced = [
            u for u in users[one.name] if u.operation in slicing and u.operands[0] == one.name
        ]
        slices = sum(size(user.shape) for user in sliced)
        kinds = {user.operation for user in users[one.name]}
        if aliases & in_place and kinds <= {"dynamic-update-slice", "bitcast", "dynamic-slice"}:
            read += slices
        elif sliced and kinds <= set(slicing):
            read += slices
        else:
            read += sizes[number] if number < len(sizes) else 0
    root = next((one for one in body if one.is_root), None)
    if updates and root and root.operation in ("dynamic-update-slice", "bitcast", "tuple"):
        written = sum(size(shapes.get(one.operands[1], "")) for one in updates)
    return read, written


def describe(text: str, scopes: int = 0) -> dict:
    """Counts kernels, bytes and the least time of one call of a compiled GPU program.

    Args:
        text: `compiled.as_text()`.
        scopes: how many of the scopes with most kernels to list.

    Returns:
        `kernels` launched, how many of them are `small` (write less than `SMALL` bytes) and how many are
        `reductions`, `distinct` kernels in the text, `gigabytes` moved, `seconds_at_least`, `kinds` by
        operation; `unknown_loops`, launches within loops of unknown length, which count once.
    """
    computations, _ = parse(text)
    totals, kinds, by_scope = (collections.Counter() for _ in range(3))
    seconds = 0.0
    for one, times, read, written, uncertain in launches(text):
        kinds[one.label] += times
        totals["kernels"] += times
        totals["distinct"] += 1
        totals["small"] += times * (written < SMALL)
        totals["unknown_loops"] += times * uncertain
        totals["bytes"] += times * (read + written)
        body = computations.get(one.called("calls"), []) if one.operation == "fusion" else [one]
        totals["reductions"] += times * any(inner.operation == "reduce" for inner in body)
        seconds += times * max(LAUNCH, (read + written) / BANDWIDTH)
        by_scope[one.scope] += times
    names = ("kernels", "small", "reductions", "distinct", "unknown_loops")
    result = {name: totals[name] for name in names}
    result["gigabytes"] = round(totals["bytes"] / 1e9, 2)
    result["seconds_at_least"] = round(seconds, 4)
    result["kinds"] = dict(kinds.most_common(8))
    if scopes:
        result["scopes"] = by_scope.most_common(scopes)
    return result


def collectives(text: str) -> collections.Counter:
    """Counts exchanges between devices per call of the program, by (operation, dtype)."""
    counts = collections.Counter()
    for one, times, *_ in launches(text):
        operation = one.operation.removesuffix("-start")
        if operation in _COLLECTIVES:
            for kind in {kind for kind, _ in _SHAPE.findall(one.shape)}:
                counts[operation, kind] += times
    return counts


def chosen(arguments) -> Program:
    """Makes the program that the command line asks for."""
    config = harness.search_config(vars(arguments))
    config.batch_norm, config.search.remat = arguments.batch_norm, not arguments.keep
    image_shape, devices = (arguments.size, arguments.size, 3), arguments.devices
    if arguments.program == "search":
        return search_program(config, image_shape, devices=devices, alone=True)
    genotype = Genotype.load(DD1)
    return training_program(config, genotype, image_shape, devices=devices, alone=True)


def main():
    """Compiles, reads and prints."""
    names = (*harness.SIZES, "microbatch", "gradient", "partial")
    parser = harness.parser(__doc__, *names, batch=128)
    parser.add_argument("--program", default="search", choices=["search", "train"])
    parser.add_argument("--devices", type=int, default=1, help="GPUs that share a batch")
    parser.add_argument("--batch-norm", default="global", choices=["global", "local"])
    parser.add_argument("--keep", action="store_true", help="search.remat=False")
    parser.add_argument("--scopes", type=int, default=0, help="how many scopes to list")
    parser.add_argument("--text", help="a file for the optimised program")
    arguments = parser.parse_args()
    if reason := unavailable():
        parser.error(reason)

    begun = time.perf_counter()
    program = chosen(arguments)
    built = time.perf_counter()
    compiled = program.compile()
    ended = time.perf_counter()
    text = compiled.as_text()
    if arguments.text:
        Path(arguments.text).write_text(text)
    results = {
        "build_s": round(built - begun, 1),
        "trace_and_compile_s": round(ended - built, 1),
        "temporary_gb": round(compiled.memory_analysis().temp_size_in_bytes / 1e9, 2),
        **describe(text, arguments.scopes),
    }
    if arguments.devices > 1:
        counts = collectives(text)
        results["collectives"] = {" ".join(key): count for key, count in counts.most_common()}
    results |= {"gpu": "described H100", "flags": os.environ.get("XLA_FLAGS", "")}
    options = vars(arguments)
    del options["scopes"], options["text"]
    harness.report("gpu_program", options, results)


if __name__ == "__main__":
    main()

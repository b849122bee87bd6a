"""Tests of data parallelism; several devices are simulated by a process of its own."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.training import feeds, schedule

_STEPS = 20

_NETWORK = Genotype(
    genes=(
        (("sep_conv_3x3", 2, 0), ("skip_connect", 2, 1)),
        (("skip_connect", 2, 0), ("avg_pool_3x3", 2, 1)),
    ),
    reductions=(1,),
    concat=(2,),
)


@given(batch_size=st.integers(1, 1000), count=st.integers(1, 64))
def test_batch_that_does_not_divide(batch_size, count):
    """Where a batch does not divide, the error names the nearest sizes that do."""
    if batch_size % count == 0:
        return
    with pytest.raises(UserError, match=f"batch_size={batch_size} .* {count} devices") as error:
        sharding.data_mesh(batch_size, devices=range(count))
    nearest = str(error.value).rpartition("use ")[2].removesuffix(".")
    sizes = [int(size) for size in nearest.split(" or ")]
    assert sizes[-1] - batch_size < count and batch_size - sizes[0] < count
    assert all(size > 0 and size % count == 0 for size in sizes)


@pytest.mark.parametrize(
    "dtype, implementations, tolerance",
    [("float32", "cpu", 1e-5), ("float64", "gpu", 1e-12)],
)
def test_eight_devices_give_the_result_of_one(tmp_path, dtype, implementations, tolerance):
    """Weights, alphas and metrics after 20 steps (ablation on), and an evaluation, to rounding.

    Alphas as sigmoid(alpha), the factor of a primitive: Adam makes steps of one length of gradients
    that are nearly 0, so that alphas near 0 differ by more than their own rounding.
    """
    data = tiny.write_noise(tmp_path / "noise.npz")
    code = f"import test_sharding as t; t.compare({(str(data), dtype, implementations)})"
    result = json.loads(
        tiny.last_line(tmp_path, code, 8, Path(__file__).parent, x64=dtype == "float64")
    )
    assert result["devices"] == [1, 8]
    for phase in ("search", "train"):
        assert result[phase]["difference"] < tolerance, result
        assert result[phase]["moved"] > 1e-3, result


_SUMS = """
import jax, jax.numpy as jnp
from ddarts_jax.distributed import sharding

mesh = sharding.data_mesh(8)
images = sharding.replicate(jnp.where(jnp.arange(16)[:, None] % 2, 1, 256 * jnp.ones(3)), mesh)


@jax.jit
def run(images):
    with sharding.over(mesh):
        return sharding.sum_over_batch(lambda x: x.sum(0), images.astype(jnp.bfloat16))


total = run(images)
assert total.dtype == jnp.float32
print(float(total[0]))
"""


def test_a_sum_over_devices_counts_every_image_once(tmp_path):
    """And in float32, where the sum of a single device is rounded to bfloat16: 257 becomes 256."""
    assert float(tiny.last_line(tmp_path, _SUMS, 8, timeout=200)) == 8 * 256


_MAPPED = """
import jax, jax.numpy as jnp
from ddarts_jax.distributed import sharding

mesh = sharding.data_mesh(8)


@jax.jit
def run(images):
    with sharding.over(mesh):
        return sharding.map_images(lambda x, y: x + 10 * y + 100 * jax.lax.axis_index("data"), *images)


images = jnp.arange(8), jnp.ones(8, int)
print(run(jax.device_put(images, sharding.batch_sharding(mesh))).tolist())
"""


def test_each_device_maps_its_own_images(tmp_path):
    """In order, with as many results as there are images."""
    found = json.loads(tiny.last_line(tmp_path, _MAPPED, 4, timeout=200))
    assert found == [image + 10 + 100 * (image // 2) for image in range(8)]


def test_an_only_image_is_mapped_without_a_loop():
    """The result is that of the loop; the converter to ONNX fails at loops over images."""
    images = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 1))

    def mapped(*images):
        return sharding.map_images(lambda x, y: (x + y, x.sum()), *images)

    both, one = mapped(*images), mapped(*(each[:1] for each in images))
    for whole, part in zip(both, one, strict=True):
        np.testing.assert_array_equal(part, whole[:1])
    primitives = [
        {each.primitive.name for each in jax.make_jaxpr(mapped)(*given).eqns}
        for given in (images, [each[:1] for each in images])
    ]
    assert ["scan" in each for each in primitives] == [True, False]


def test_local_batch_norm_averages_what_each_device_computes_alone(tmp_path):
    """A step on two devices is the mean of the steps of either half by itself, as in DDP."""
    data = tiny.write_noise(tmp_path / "noise.npz")
    code = f"import test_sharding as t; t.compare_local({str(data)!r})"
    for phase, result in json.loads(
        tiny.last_line(tmp_path, code, 2, Path(__file__).parent, x64=True)
    ).items():
        assert result["from the mean of both"] < 1e-9, (phase, result)
        assert result["from the global step"] > 1e-6, (phase, result)


def compare_local(path):
    """Prints how far a step with local BatchNorm is from the mean of two, and from a global one."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ddarts_jax.data import dataset as data
    from ddarts_jax.searching import search
    from ddarts_jax.training import train

    config = tiny.config(path)
    config.search.weights.clip = config.train.clip = 1e6  # else the step is not linear
    config.search.space = "skip_connect,sep_conv_3x3"
    config.search.num_nodes = 1
    dataset = data.load(config.data)
    plan = schedule.schedule(32, 8, epochs=2, chunk_steps=2)
    mesh = sharding.data_mesh(8)
    rng = np.random.default_rng(0)

    def batch():
        return jnp.array(rng.normal(size=(8, *dataset.image_shape))), jnp.arange(8) % 2

    def compared(state, measured):
        """What depends linearly on the gradients."""
        kept = {k: v for k, v in measured.items() if "norm" not in k and "factor" not in k}
        kept.pop("loss_ablation", None), kept.pop("loss_total", None)
        return jax.tree.map(np.asarray, (state.variables, kept))

    def measure(state, step, batches):
        key = jax.random.key(0)
        shared = sharding.replicate((state, key, *batches), mesh)

        def within(step):
            def run(*arguments):
                with sharding.over(mesh):
                    return step(*arguments)

            return jax.jit(run)

        local = compared(*within(sharding.on_each_device(step))(*shared))
        whole = compared(*step(state, key, *batches))
        halves = [
            compared(*step(state, key, *jax.tree.map(lambda x, h=half: x[h], batches)))
            for half in (slice(0, 4), slice(4, 8))
        ]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)

        def distance(a, b):
            pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            return max(float(np.abs(x - y).max()) for x, y in pairs)

        return {
            "from the mean of both": distance(local, mean),
            "from the global step": distance(local, whole),
        }

    net, variables, alphas = search.build(config, dataset, "float64")
    init, step = search.search_step(net, config.search, plan.total, fixed_steps=1)
    result = {"search": measure(init(variables, alphas), step, [batch(), batch()])}
    net, variables = train.build(config, _NETWORK, dataset, "float64")
    init, step = train.train_step(net, config.train, plan)
    result["train"] = measure(init(variables), step, [batch()])
    print(json.dumps(result))


def compare(arguments):
    """Prints how much 20 steps on eight devices differ from those on a single device."""
    path, dtype, implementations = arguments
    from ddarts_jax.ops import backend

    with backend.compiling_for(implementations):
        _compare(path, dtype)


def _compare(path, dtype):
    import jax
    import numpy as np

    from ddarts_jax.data import dataset as data
    from ddarts_jax.searching import search
    from ddarts_jax.training import evaluate, train

    config = tiny.config(path)
    config.data.batch_size = 16
    if dtype == "float64":  # with what D-DARTS can have of other methods
        config.search.channels = 4
        pieces = {"partial_channels": 2, "edge_strengths": True}
        config.search.ddarts.update(pieces, auxiliary_skip=1.0, beta_decay_weight=1.0)
    config.train.augment.cutout = 0  # its pixels are equal
    dataset = data.load(config.data)
    batch_size, seed = config.data.batch_size, np.uint32(config.seed)
    plan = schedule.schedule(32, batch_size, epochs=_STEPS // 2, chunk_steps=2)
    meshes = [sharding.data_mesh(batch_size, jax.devices()[:count]) for count in (1, 8)]
    result = {"devices": [mesh.size for mesh in meshes]}

    def run(state, step, splits, settings, mesh):
        images = feeds.on_device(dataset, splits, mesh)
        running = feeds.start(state, step, len(splits), dataset.image_shape, plan, dtype, mesh)
        chunk = feeds.make_chunk(step, plan, settings.augment, dtype, mesh)
        for _ in range(_STEPS // plan.chunk):
            running, _ = chunk(running, images, seed)
        return jax.device_get(running)

    def gates(state):
        return 1 / (1 + np.exp(-state.alphas)) if hasattr(state, "alphas") else ()

    def measure(phase, state, step, splits):
        before = jax.tree.leaves(jax.device_get(state))
        one, eight = (run(state, step, splits, config[phase], mesh) for mesh in meshes)
        compared = [(r.totals, r.state.variables, gates(r.state)) for r in (one, eight)]
        named, others = map(jax.tree_util.tree_leaves_with_path, compared)
        pairs = [(jax.tree_util.keystr(p), a, b) for (p, a), (_, b) in zip(named, others)]
        differences = {n: np.abs(a - b).max() / (np.abs(a).max() + 1e-3) for n, a, b in pairs}
        worst = max(differences, key=differences.get)
        moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one.state), before)]
        assert one.state.step == _STEPS
        result[phase] = {
            "worst": worst,
            "difference": float(differences[worst]),
            "moved": float(max(moved[1:])),
        }
        return one.state

    net, variables, alphas = search.build(config, dataset, dtype)
    init, step = search.search_step(net, config.search, plan.total, epochs=_STEPS // 2)
    halves = dataset.halves(config.seed)
    measure("search", init(variables, alphas), step, halves)

    net, variables = train.build(config, _NETWORK, dataset, dtype)
    init, step = train.train_step(net, config.train, plan)
    state = measure("train", init(variables), step, (np.arange(len(dataset.train_labels)),))

    # The evaluation takes all devices that there are; here it is told of one alone.
    eight = evaluate.evaluate_dataset(net, state.variables, dataset, 6, dtype)
    sharding.jax.device_count, sharding.jax.devices = lambda: 1, lambda: meshes[0].devices.tolist()
    one = evaluate.evaluate_dataset(net, state.variables, dataset, 6, dtype)
    assert one["count"] == len(dataset.test_labels)
    assert (one["confusion"] == eight["confusion"]).all()
    assert abs(one["loss"] - eight["loss"]) < 1e-6 * one["loss"]
    print(json.dumps(result))

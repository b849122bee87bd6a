"""Measures what bfloat16 costs, against float64 of the same parameters; prints one JSON line.

    python benchmarks/precision.py                          # random weights: 3 cells of 4 nodes, 32x32
    python benchmarks/precision.py --run RUN --batches 20   # a finished search, on its own images
    python benchmarks/precision.py --run RUN --sources      # ... and which roundings cause the error
    python benchmarks/precision.py --run RUN --torch        # ... and PyTorch's autocast on the same

Compared are the gradients of every cell's alphas (g: in the full network, h: in the ablated ones), the
marginal contributions and the gradient of the weights, all on the same batches of images. Errors are
norms relative to the norm of the float64 array, by cell, mean and largest over the batches. `--backend
gpu` selects the implementations of operations that run on a GPU; XLA's CPU compiler can run them too.

With `--sources` the computation is in float32, and one kind of intermediate result at a time is rounded
to bfloat16: in the forward pass the result, in the backward pass its cotangent. `--reference FILE` keeps
the float64 results.
"""

import contextlib
import functools
import json
import sys
import time
from pathlib import Path
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from search_step import random_supernet
from sklearn.datasets import load_sample_images

from ddarts_jax import configuration
from ddarts_jax.data import dataset as images_of
from ddarts_jax.data.augment import normalize
from ddarts_jax.distributed import sharding
from ddarts_jax.models import edges, layers, supernet
from ddarts_jax.models.layers import Variables
from ddarts_jax.ops import backend, convolution
from ddarts_jax.runs import identity
from ddarts_jax.searching import search
from ddarts_jax.searching.contributions import contributions
from ddarts_jax.training import compilation
from ddarts_jax.training.checkpoint import Checkpoints
from ddarts_jax.training.feeds import start
from ddarts_jax.training.schedule import Schedule


def random_problem(arguments):
    """Makes a random supernet, alphas, and pieces of photographs whose class is their place."""
    net, variables, _ = random_supernet(harness.search_config(vars(arguments)))
    rng = np.random.default_rng(arguments.seed)
    alphas = arguments.deviation * rng.normal(size=net.alphas_shape)
    photographs = np.stack(load_sample_images().images) / 64.0 - 2.0
    size = arguments.size
    batches = []
    for _ in range(arguments.batches):
        labels = rng.integers(harness.NUM_CLASSES, size=arguments.batch)
        # Ten regions: five columns of each photograph.
        top = rng.integers(photographs.shape[1] - size, size=arguments.batch)
        left = labels // 2 * 120 + rng.integers(120 - size, size=arguments.batch)
        pieces = [
            photographs[k % 2, y : y + size, x : x + size] for k, y, x in zip(labels, top, left)
        ]
        batches.append((np.stack(pieces), labels))
    return net, variables, alphas, batches


def trained_problem(arguments):
    """Reads the supernet and alphas of a finished search, and batches of its architecture split."""
    run = Path(arguments.run)
    config = configuration.default_config()
    config.update(json.loads((run / "config.json").read_text()))
    dataset = images_of.load(config.data)
    net, variables, alphas = search.build(config, dataset, "float32")
    init, step = search.search_step(net, config.search, 1)
    mesh = sharding.data_mesh(config.data.batch_size)
    plan = Schedule(1, 1, 1, config.data.batch_size)
    empty = start(init(variables, alphas), step, 2, dataset.image_shape, plan, "float32", mesh)
    defining = identity.defining(config, "search", dataset.num_train)
    with Checkpoints(run / "checkpoints" / "search", defining, 1) as checkpoints:
        _, (state, _) = checkpoints.restore(empty)
    split = np.asarray(dataset.halves(config.seed)[1])
    rng = np.random.default_rng(arguments.seed)
    batches = []
    for _ in range(arguments.batches):
        chosen = rng.choice(split, config.data.batch_size, replace=False)
        images = normalize(dataset.train_images[chosen], dataset.mean, dataset.std, jnp.float32)
        batches.append((np.asarray(images), np.asarray(dataset.train_labels)[chosen]))
    return net, state.variables, state.alphas, batches


def make_measure(net):
    """Builds the jitted function of one batch: contributions and gradients."""

    @functools.partial(jax.jit, static_argnames="dtype")
    def measure(variables, alphas, images, labels, dtype):
        found = contributions(net, variables, alphas, images.astype(dtype), labels)
        by_weights = jax.grad(supernet.weights_loss, has_aux=True)(
            variables.weights, alphas, net, variables.statistics, images.astype(dtype), labels
        )[0]
        return {
            "g": found.gradient,
            "h": found.ablated_gradient,
            "contribution": found.marginal,
            "weights": jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(by_weights)]),
        }

    return measure


def run(measure, variables, alphas, batches, dtype):
    """Measures all batches, with parameters in float64 if `dtype` is, else in float32; stacks them."""
    wide = "float64" if dtype == "float64" else "float32"
    place = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(np.asarray(leaf), wide))
    variables, alphas = Variables(*map(place, variables)), place(alphas)
    rows = [
        jax.device_get(measure(variables, alphas, place(images), jnp.asarray(labels), dtype))
        for images, labels in batches
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@jax.custom_vjp
def rounded(x):
    """Rounds `x` and its cotangent to bfloat16."""
    return x.astype(jnp.bfloat16).astype(x.dtype)


rounded.defvjp(
    lambda x: (rounded(x), None),
    lambda _, cotangent: (cotangent.astype(jnp.bfloat16).astype(cotangent.dtype),),
)


def _then_rounded(function):
    return lambda *args, **keywords: rounded(function(*args, **keywords))


def _kernel_rounded(function):
    return lambda rule, x, kernel: function(rule, x, rounded(kernel))


# Where each kind of intermediate result is made: (owner, attribute, wrapper). A separable convolution is
# two convolutions, as on a GPU.
SOURCES = {
    "kernels": (convolution, "_convolve", _kernel_rounded),
    "convolutions": (convolution, "_convolve", _then_rounded),
    "normalised": (layers.BatchNorm, "__call__", _then_rounded),
    "mixed": (edges.MixedOperation, "__call__", _then_rounded),
    "cells": (supernet.Cell, "__call__", _then_rounded),
}


def by_source(net, problem, expected):
    """Finds the errors when a single kind of result is rounded, and when all are."""
    found = {}
    for kinds in [*((kind,) for kind in SOURCES), tuple(SOURCES)]:
        with contextlib.ExitStack() as stack:
            library = dict.fromkeys(("cpu", "gpu"), "library")
            stack.enter_context(mock.patch.dict(backend.TABLE, separable=library))
            for owner, name, wrap in (SOURCES[kind] for kind in kinds):
                stack.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))
            jax.clear_caches()
            result = errors(run(make_measure(net), *problem, "float32"), expected)
        kind = " + ".join(kinds)
        found[kind] = {name: result[name]["error"] for name in ("g", "weights")}
        tell(f"rounded: {kind}: {found[kind]}")
    jax.clear_caches()
    return found


def cross_entropy_of(plain, images, labels, gates, autocast: bool, without):
    """Computes the PyTorch program's loss, without the cell at position `without` if that is given."""
    import torch

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return torch.nn.functional.cross_entropy(plain(images, gates, without), labels)


def by_torch(net, variables, alphas, batches, expected):
    """Finds the errors of PyTorch's autocast in g and contributions, from the same parameters."""
    import pytorch_supernet
    import torch

    torch.set_num_threads(1)  # threads that share their cores wait for each other
    # A first cell that reduces has doubled the channels.
    cells, channels = len(net.seq), net.channels[0] // (2 if 0 in net.reductions else 1)
    image_channels = batches[0][0].shape[-1]
    found = {}
    for dtype in ("float64", "bfloat16"):
        kind = torch.float64 if dtype == "float64" else torch.float32
        plain = pytorch_supernet.Supernet(
            *(net.primitives, cells, net.num_nodes, channels),
            image_channels=image_channels,
            num_classes=variables.weights["head"]["classifier"]["bias"].shape[0],
        )
        pytorch_supernet.fill(plain, variables)
        plain = plain.to(kind)
        own = [torch.tensor(np.array(cell), dtype=kind, requires_grad=True) for cell in alphas]
        rows = []
        for images, labels in batches:
            gates = [torch.sigmoid(cell) for cell in own]
            images = torch.tensor(np.array(images).transpose(0, 3, 1, 2), dtype=kind)

            loss = functools.partial(
                cross_entropy_of,
                plain,
                images,
                torch.tensor(labels).long(),
                gates,
                dtype == "bfloat16",
            )
            full = loss(None)
            gradient = torch.autograd.grad(full, own)
            with torch.no_grad():
                ablated = torch.stack([loss(k) for k in range(cells)])
            rows.append(
                (np.stack([g.numpy() for g in gradient]), (full - ablated).detach().numpy())
            )
        g, contribution = map(np.stack, zip(*rows))
        results = {"g": g, "contribution": contribution}
        found[dtype] = errors(expected | results, expected)
        tell(f"PyTorch in {dtype}")
    return {dtype: {key: row[key] for key in ("g", "contribution")} for dtype, row in found.items()}


def tell(what: str):
    """Reports the progress on stderr."""
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def errors(found, expected):
    """Computes the relative errors of each array, and how often a sign or a rank is wrong."""
    summary = {}
    for name in ("g", "h", "weights"):
        ours, theirs = (np.asarray(x[name], np.float64) for x in (found, expected))
        if name == "weights":
            ours, theirs = ours[:, None], theirs[:, None]
        ours, theirs = (
            x.reshape(*x.shape[:2], -1) for x in (ours, theirs)
        )  # [batches, cells, ...]
        norms = [np.linalg.norm(x, axis=-1) for x in (ours - theirs, theirs, ours)]
        relative = norms[0] / norms[1]
        cosine = (ours * theirs).sum(-1) / (norms[1] * norms[2])
        summary[name] = {
            "error": np.round(relative.mean(0), 4).tolist(),
            "largest": round(float(relative.max()), 4),
            "cosine": round(float(cosine.min()), 5),
            "signs_wrong": round(float(np.mean(np.sign(ours) != np.sign(theirs))), 4),
        }
    ours, theirs = found["contribution"], expected["contribution"]
    ranks = [x.argsort(1).argsort(1) for x in (ours, theirs)]
    summary["contribution"] = {
        "error": np.round(np.sqrt(np.mean((ours - theirs) ** 2, 0)), 5).tolist(),
        "size": np.round(np.sqrt(np.mean(theirs**2, 0)), 4).tolist(),
        "signs_wrong": int(np.sum(np.sign(ours) != np.sign(theirs))),
        "ranks_wrong": int(np.sum(ranks[0] != ranks[1])),
    }
    return summary


def reference(arguments, measure, problem):
    """Reads the float64 results from `--reference`, or computes them and keeps them there."""
    kept = Path(arguments.reference) if arguments.reference else None
    if kept and kept.exists():
        with np.load(kept) as file:
            return {name: rows[: arguments.batches] for name, rows in file.items()}
    with jax.enable_x64(True):
        expected = run(measure, *problem, "float64")
    if kept:
        np.savez(kept, **expected)
    return expected


def main():
    """Measures and prints."""
    common = ("nodes", "channels", "size", "seed", "space")
    parser = harness.parser(__doc__, *common, cells=3, batch=64)
    parser.add_argument("--batches", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--deviation", type=float, default=1e-3, help="of random alphas")
    parser.add_argument("--run", help="the workdir of a finished search")
    parser.add_argument(
        "--backend",
        choices=["cpu", "gpu"],
        help="whose implementations to use (default: those of JAX's backend)",
    )
    parser.add_argument(
        "--dtypes", default="bfloat16", help="to measure, as bfloat16,float32; may be empty"
    )
    parser.add_argument("--reference", help="an .npz file of the float64 results, made or read")
    parser.add_argument("--sources", action="store_true", help="round one kind of result at a time")
    parser.add_argument(
        "--torch", action="store_true", help="PyTorch's autocast on the same batches"
    )
    arguments = parser.parse_args()
    problem = trained_problem(arguments) if arguments.run else random_problem(arguments)
    compilation.keep_programs()
    net, *rest = problem
    measure = make_measure(net)
    expected = reference(arguments, measure, rest)
    tell("float64")
    results = {}
    backend_name = arguments.backend or backend.name()
    with backend.compiling_for(backend_name), jax.default_matmul_precision("highest"):
        for dtype in filter(None, arguments.dtypes.split(",")):
            results[dtype] = errors(run(measure, *rest, dtype), expected)
            tell(f"{dtype}, as on a {backend_name}")
    if arguments.sources:
        results["sources"] = by_source(net, rest, expected)
    if arguments.torch:
        results["pytorch"] = by_torch(net, *rest, expected)
    harness.report("precision", vars(arguments), results)


if __name__ == "__main__":
    main()

"""Tells apart what makes the discretisation gap of a finished search: its supernet, one change at a time.

    python benchmarks/gap.py RUN                      # RUN: workdir of a search or of a pipeline
    python benchmarks/gap.py RUN --tuning 1,3 --images 1000

Every accuracy is of images of the alphas' half of the training images. From the whole supernet to the
genotype's mask there are three steps, and after each the accuracy is measured: gates below the threshold
become 0; of those above it the ones become 0 that the parsing drops; those that are left become 1, which
is what a derived network has. A cell in which a rule keeps nothing has its best primitives, as in the
result of a search. Beside them stand other rules of parsing, BatchNorm by statistics of the whole
supernet or of the masked one instead of the batch's, and the masked supernet whose weights are trained
for some more epochs. Prints one JSON line.
"""

import functools
import sys
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ddarts_jax as dd
from ddarts_jax import configuration
from ddarts_jax.data.augment import normalize
from ddarts_jax.distributed import sharding
from ddarts_jax.errors import UserError
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet, forward
from ddarts_jax.ops import backend
from ddarts_jax.runs import layout
from ddarts_jax.searching import discretisation, perturbation
from ddarts_jax.searching.search import derive, never_empty
from ddarts_jax.training import feeds

RULES = ("sparse", "edge", "complete", "darts")
_RATE = 0.01  # of tuning: SGD with momentum 0.9
_FOR_REMOVALS = 256  # images: each edge takes ten passes over them


def masks(
    net: Supernet, alphas: np.ndarray, settings, added: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Returns the gates [cells, E, G] of the supernet under every change that concerns gates alone.

    Args:
        net: the supernet; its gates are sigmoids.
        alphas: [cells, E, columns].
        settings: section `parse` of the search's config.
        added: from `perturbation.removals`; None: without selection by perturbation.
    """
    gates = np.asarray(net.gates(jnp.asarray(alphas)))
    above = gates >= settings.threshold
    above[..., len(net.primitives) :] = True  # channels that pass by
    found = {"supernet": gates, "above_threshold": gates * above}
    genotypes = {}
    for rule in RULES:
        own = settings.copy_and_resolve_references()
        own.method = rule
        genotypes[rule] = never_empty(derive(alphas, net, own), alphas, net, own)
    if added is not None:
        genotypes["perturbation"] = perturbation.select(net, added)
    for name, genotype in genotypes.items():
        kept = np.asarray(discretisation.masked(gates, genotype, net.primitives))
        found |= {name: kept, f"{name}_ones": (kept > 0).astype(gates.dtype)}
    return found


class Judge:
    """Measures a supernet's accuracy, and trains it, under any gates."""

    def __init__(self, net: Supernet, dataset, config, images: int):
        """Takes `images` of the alphas' half to measure on, 0 for all, and the other half to train."""
        size, dtype = config.data.batch_size, backend.compute_dtype(config.dtype)
        mesh = sharding.data_mesh(size)
        own, held_out = dataset.halves(config.seed)
        self._held_out = feeds.some_batches(dataset, held_out, images or len(held_out), size, mesh)
        self._own = feeds.some_batches(dataset, own, len(own), size, mesh)

        def normalised(images):
            return normalize(images, dataset.mean, dataset.std, dtype)

        def loss(weights, statistics, gates, images, labels):
            variables = Variables(weights, statistics)
            logits, _, new = forward(net, variables, gates, normalised(images), True)
            return cross_entropy(logits, labels), new

        self._optimizer = optax.chain(
            optax.clip_by_global_norm(5.0), optax.sgd(_RATE, momentum=0.9)
        )

        @jax.jit
        def tune(variables, state, gates, images, labels):
            slope, new = jax.grad(loss, has_aux=True)(*variables, gates, images, labels)
            updates, state = self._optimizer.update(slope, state)
            return Variables(optax.apply_updates(variables.weights, updates), new), state

        @functools.partial(jax.jit, static_argnames="batch_statistics")
        def right(variables, gates, images, labels, batch_statistics):
            logits, _, new = forward(net, variables, gates, normalised(images), batch_statistics)
            return jnp.mean(jnp.argmax(logits, -1) == labels), new

        self._tune, self._right = tune, right

    def accuracy(self, variables: Variables, gates, batch_statistics=True) -> float:
        """Returns the accuracy, a fraction; BatchNorm uses the batch or the running statistics."""
        right = [
            self._right(variables, gates, *batch, batch_statistics=batch_statistics)[0]
            for batch in self._held_out
        ]
        return float(np.mean(right))

    def estimated(self, variables: Variables, gates) -> Variables:
        """Returns the variables with running statistics of the weights' half under these gates."""
        for _ in range(max(1, 50 // len(self._own))):  # of the former ones 0.9 ** 50 remain
            for batch in self._own:
                _, new = self._right(variables, gates, *batch, batch_statistics=True)
                variables = Variables(variables.weights, new)
        return variables

    def tuned(self, variables: Variables, gates, epochs: int) -> Variables:
        """Returns the variables after some epochs of training under these gates, without augmentation."""
        state = self._optimizer.init(variables.weights)
        for _ in range(epochs):
            for batch in self._own:
                variables, state = self._tune(variables, state, gates, *batch)
        return variables


def measured(
    found: dd.SearchResult, dataset, config, images: int, tuning: tuple[int, ...]
) -> dict[str, float]:
    """Returns the accuracy under every change, a fraction each.

    Args:
        found: a finished search.
        dataset: its images.
        config: its config.
        images: to measure on; 0: the whole half.
        tuning: numbers of epochs of training under the mask, rising.
    """
    net, variables = found.supernet, found.variables
    judge = Judge(net, dataset, config, images)
    losses = perturbation.make_losses(
        net,
        dataset,
        dataset.halves(config.seed)[1],
        min(images or _FOR_REMOVALS, _FOR_REMOVALS),
        config.data.batch_size,
        backend.compute_dtype(config.dtype),
    )
    added = perturbation.removals(net, variables, found.alphas, losses)
    gates = masks(net, found.alphas, config.parse, added)
    accuracies = {name: judge.accuracy(variables, own) for name, own in gates.items()}
    mask = gates[config.parse.method]
    for name, own in (("supernet", gates["supernet"]), ("mask", mask)):
        accuracies[f"{name}_running"] = judge.accuracy(variables, own, batch_statistics=False)
    again = judge.estimated(variables, mask)
    accuracies["mask_estimated"] = judge.accuracy(again, mask, batch_statistics=False)
    done = 0
    for epochs in tuning:
        variables, done = judge.tuned(variables, mask, epochs - done), epochs
        accuracies[f"mask_tuned_{epochs}"] = judge.accuracy(variables, mask)
    return accuracies


def main() -> int:
    """Measures and prints; returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("run", type=Path, help="workdir of a finished search")
    parser.add_argument("--images", type=int, default=0, help="to measure on (default: all)")
    parser.add_argument("--tuning", default="1,3", help="epochs of training (default: 1,3)")
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.run / layout.CONFIG, {"task": "search"})
        dataset = dd.load_data(config.data)
        if not (arguments.run / layout.GENOTYPE).is_file():
            raise UserError(f"There is no finished search in {arguments.run}.")
        found = dd.search(config, dataset, arguments.run)  # which has ended, so this reads it
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tuning = tuple(sorted({int(epochs) for epochs in arguments.tuning.split(",") if epochs}))
    accuracies = measured(found, dataset, config, arguments.images, tuning)
    net = found.supernet
    gates = np.asarray(net.gates(jnp.asarray(found.alphas)))[..., : len(net.primitives)]
    result = {
        "decided": round(float(np.mean((gates > 0.9) | (gates < 0.1))), 4),
        "threshold": config.parse.threshold,
        "above_threshold": int(np.sum(gates >= config.parse.threshold)),
        "kept": sum(map(len, found.genotype.cells)),
        "accuracy": {name: round(value, 4) for name, value in accuracies.items()},
    }
    harness.report("gap", vars(arguments), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
